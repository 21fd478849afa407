"""NaCl's box: the vector of its own tests, the serialised form, and every kind of forgery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproto.box import NONCE_SIZE, OVERHEAD, Box
from meshproto.keys import DiscoPrivate, NodePrivate, NodePublic
from meshproto.primitives import DecryptionFailed, WeakPublicKey

# "Cryptography in NaCl" (Bernstein, 2009) §2 to §10: Alice's and Bob's keys, a nonce, a message and its box.
ALICE = NodePrivate(bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"))
BOB = NodePrivate(bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"))
NONCE = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
MESSAGE = bytes.fromhex(
    "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c6129"
    "6cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde"
    "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705"
)
BOXED = bytes.fromhex(
    "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186a"
    "c0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae"
    "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74"
    "e355a5"
)
ONE, OTHER = NodePrivate(bytes(range(32))), NodePrivate(bytes(range(1, 33)))


def test_vector() -> None:
    assert Box(ALICE, BOB.public).seal(MESSAGE, NONCE) == NONCE + BOXED
    assert Box(BOB, ALICE.public).open(NONCE + BOXED) == MESSAGE


@given(st.binary(max_size=300), st.binary(min_size=NONCE_SIZE, max_size=NONCE_SIZE))
def test_what_one_seals_the_other_opens(plaintext: bytes, nonce: bytes) -> None:
    sealed = Box(ONE, OTHER.public).seal(plaintext, nonce)
    assert sealed.startswith(nonce)
    assert len(sealed) == OVERHEAD + len(plaintext)
    assert Box(OTHER, ONE.public).open(sealed) == plaintext
    assert Box(ONE, OTHER.public).open(sealed) == plaintext


def test_any_changed_bit_is_noticed() -> None:
    sealed = Box(ONE, OTHER.public).seal(b"packet", bytes(NONCE_SIZE))
    box = Box(OTHER, ONE.public)
    for index in range(len(sealed)):
        changed = bytearray(sealed)
        changed[index] ^= 0x80
        with pytest.raises(DecryptionFailed):
            box.open(bytes(changed))


@given(st.binary(max_size=100))
def test_any_bytes(sealed: bytes) -> None:
    with pytest.raises(DecryptionFailed):
        Box(ONE, OTHER.public).open(sealed)


def test_another_pair_cannot_open() -> None:
    sealed = Box(ONE, OTHER.public).seal(b"packet", bytes(NONCE_SIZE))
    stranger = DiscoPrivate(bytes(range(2, 34)))
    with pytest.raises(DecryptionFailed):
        Box(stranger, ONE.public).open(sealed)


def test_low_order_key_is_refused() -> None:
    with pytest.raises(WeakPublicKey):
        Box(ONE, NodePublic.zero())


def test_wrong_nonce_size_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="24 bytes"):
        Box(ONE, OTHER.public).seal(b"", bytes(12))


def test_secret_is_not_printed() -> None:
    assert repr(Box(ONE, OTHER.public)) == "<Box redacted>"
