"""The NaCl box against its author's example ("Cryptography in NaCl", section 10), and against forgeries."""

from __future__ import annotations

import random

import pytest

from meshproto.box import OVERHEAD, box_open, box_seal, shared_key
from meshproto.keys import DiscoPrivate
from meshproto.primitives import DecryptionFailed, WeakPublicKey

ALICE_SECRET = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
BOB_PUBLIC = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
FIRST_KEY = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
NONCE = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
MESSAGE = bytes.fromhex(
    "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc"
    "e5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb31"
    "0e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde"
    "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f93776384864"
    "5e0705"
)
SEALED = bytes.fromhex(
    "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce"
    "48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c972"
    "71d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae"
    "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b3"
    "7973f622a43d14a6599b1f654cb45a74e355a5"
)


def test_the_example_of_its_author() -> None:
    key = shared_key(ALICE_SECRET, BOB_PUBLIC)
    assert key == FIRST_KEY
    assert box_seal(key, MESSAGE, lambda size: NONCE[:size]) == NONCE + SEALED
    assert box_open(key, NONCE + SEALED) == MESSAGE


def test_both_ends_have_the_same_key() -> None:
    rng = random.Random(1)
    one, other = DiscoPrivate(rng.randbytes(32)), DiscoPrivate(rng.randbytes(32))
    assert shared_key(one.raw, other.public.raw) == shared_key(other.raw, one.public.raw)


def test_each_sealing_has_its_own_nonce() -> None:
    first = box_seal(FIRST_KEY, MESSAGE, random.Random(1).randbytes)
    second = box_seal(FIRST_KEY, MESSAGE, random.Random(2).randbytes)
    assert len(first) == len(MESSAGE) + OVERHEAD
    assert first != second
    assert box_open(FIRST_KEY, first) == box_open(FIRST_KEY, second) == MESSAGE


@pytest.mark.parametrize("position", range(len(NONCE) + 20))
def test_every_flipped_byte_is_seen(position: int) -> None:
    forged = bytearray(NONCE + SEALED)
    forged[position] ^= 1
    with pytest.raises(DecryptionFailed):
        box_open(FIRST_KEY, bytes(forged))


@pytest.mark.parametrize("length", [0, 1, 24, OVERHEAD - 1, OVERHEAD])
def test_what_is_too_short_is_no_box(length: int) -> None:
    with pytest.raises(DecryptionFailed):
        box_open(FIRST_KEY, (NONCE + SEALED)[:length])


@pytest.mark.parametrize(
    "low_order",
    [bytes(32), b"\x01" + bytes(31), "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"],
)
def test_a_public_key_of_low_order_is_refused(low_order: bytes | str) -> None:
    public = bytes.fromhex(low_order) if isinstance(low_order, str) else low_order
    with pytest.raises(WeakPublicKey):
        shared_key(ALICE_SECRET, public)
