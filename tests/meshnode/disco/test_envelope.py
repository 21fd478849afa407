"""The envelope, and telling the protocols of one socket apart."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.disco import geneve
from meshnode.disco.box import (
    ENVELOPE_SIZE,
    MAGIC,
    DecryptionFailed,
    SharedKeys,
    WeakPublicKey,
    is_envelope,
    sender_untrusted,
)
from meshnode.disco.demux import Protocol, classify, classify_relayed
from meshnode.disco.geneve import GeneveHeader
from meshnode.disco.messages import Ping
from meshnode.wireguard import messages as wireguard
from meshproto.keys import DiscoPrivate, DiscoPublic

ONE = DiscoPrivate(bytes(range(1, 33)))
OTHER = DiscoPrivate(bytes(range(33, 65)))
PING = Ping(bytes(range(1, 13))).encode()

# `crypto_box` of libsodium for these keys, nonce 00 01 … 17, and the ping above: pinned, so that a change of
# the layout is seen.
SEALED = (
    "5453f09f92ac"
    "07a37cbc142093c8b755dc1b10e86cb426374ad16aa853ed0bdfc0b2b86d1c7c"
    "000102030405060708090a0b0c0d0e0f1011121314151617"
)

STUN_REQUEST = bytes.fromhex("000100142112a442") + bytes(32)
STUN_RESPONSE = bytes.fromhex("0101000c2112a442") + bytes(24)
INITIATION = wireguard.HandshakeInitiation(1, bytes(32), bytes(48), bytes(28)).encode()
DATA = bytes.fromhex("04000000") + bytes(28)


@pytest.fixture
def keys() -> SharedKeys:
    return SharedKeys(ONE, lambda size: bytes(range(size)))


def test_the_layout_is_pinned(keys: SharedKeys) -> None:
    sealed = keys.seal(OTHER.public, PING)
    assert sealed.hex().startswith(SEALED)
    assert len(sealed) == ENVELOPE_SIZE + len(PING)
    assert sender_untrusted(sealed) == ONE.public


def test_only_the_receiver_opens(keys: SharedKeys) -> None:
    sealed = keys.seal(OTHER.public, PING)
    assert SharedKeys(OTHER, random.randbytes).open(ONE.public, sealed) == PING
    with pytest.raises(DecryptionFailed):
        SharedKeys(DiscoPrivate(bytes(range(2, 34))), random.randbytes).open(ONE.public, sealed)


@pytest.mark.parametrize("position", range(6, 92, 5))
def test_a_changed_byte_is_seen(keys: SharedKeys, position: int) -> None:
    forged = bytearray(keys.seal(OTHER.public, PING))
    forged[position] ^= 0x80
    if position >= 38:  # before, the key that is looked up would be another
        with pytest.raises(DecryptionFailed):
            SharedKeys(OTHER, random.randbytes).open(ONE.public, bytes(forged))
    else:
        assert sender_untrusted(bytes(forged)) != ONE.public


def test_an_envelope_without_a_box_is_not_authentic(keys: SharedKeys) -> None:
    sealed = keys.seal(OTHER.public, PING)
    for length in range(38, ENVELOPE_SIZE + 1):
        with pytest.raises(DecryptionFailed):
            SharedKeys(OTHER, random.randbytes).open(ONE.public, sealed[:length])


def test_keys_are_computed_once_and_forgotten(keys: SharedKeys) -> None:
    keys.seal(OTHER.public, PING)
    keys.seal(OTHER.public, PING)
    assert len(keys) == 1
    keys.forget(OTHER.public)
    keys.forget(OTHER.public)
    assert len(keys) == 0


def test_a_key_of_low_order_is_nobodys(keys: SharedKeys) -> None:
    with pytest.raises(WeakPublicKey):
        keys.seal(DiscoPublic(bytes(32)), PING)


GENEVE_DISCO = GeneveHeader(geneve.DISCO, 7).encode()
GENEVE_WIREGUARD = GeneveHeader(geneve.WIREGUARD, 7).encode()
ENVELOPE = MAGIC + bytes(80)


@pytest.mark.parametrize(
    ("datagram", "protocol"),
    [
        (STUN_REQUEST, Protocol.STUN),
        (STUN_RESPONSE, Protocol.STUN),
        (STUN_RESPONSE[:20], Protocol.STUN),
        (STUN_RESPONSE[:19], Protocol.WIREGUARD),
        (b"\x40" + STUN_RESPONSE[1:], Protocol.WIREGUARD),
        (ENVELOPE, Protocol.DISCO),
        (ENVELOPE[:38], Protocol.DISCO),
        (ENVELOPE[:37], Protocol.WIREGUARD),
        (b"\x55" + ENVELOPE[1:], Protocol.WIREGUARD),
        (GENEVE_DISCO + ENVELOPE, Protocol.GENEVE_DISCO),
        (GENEVE_DISCO + DATA, Protocol.WIREGUARD),
        (GENEVE_WIREGUARD + DATA, Protocol.GENEVE_WIREGUARD),
        (GENEVE_WIREGUARD, Protocol.GENEVE_WIREGUARD),
        (GENEVE_WIREGUARD[:7], Protocol.WIREGUARD),
        (INITIATION, Protocol.WIREGUARD),
        (DATA, Protocol.WIREGUARD),
        (b"", Protocol.WIREGUARD),
    ],
)
def test_one_socket(datagram: bytes, protocol: Protocol) -> None:
    assert classify(datagram) is protocol
    assert classify(memoryview(datagram)) is protocol


def test_wireguard_with_the_cookie_of_stun_as_its_index_is_not_stun() -> None:
    datagram = bytearray(DATA)
    datagram[4:8] = bytes.fromhex("2112a442")
    assert classify(bytes(datagram)) is Protocol.WIREGUARD


def test_over_derp_there_is_no_geneve() -> None:
    assert classify_relayed(ENVELOPE) is Protocol.DISCO
    assert classify_relayed(GENEVE_DISCO + ENVELOPE) is Protocol.WIREGUARD
    assert classify_relayed(STUN_REQUEST) is Protocol.WIREGUARD


@given(st.binary(max_size=64))
def test_classifying_never_fails(datagram: bytes) -> None:
    assert classify(datagram) in Protocol
    assert (classify_relayed(datagram) is Protocol.DISCO) == is_envelope(datagram)


@pytest.mark.parametrize(
    ("header", "encoded"),
    [
        (GeneveHeader(geneve.DISCO, 0xABCDEF), "00007a11abcdef00"),
        (GeneveHeader(geneve.DISCO, 1, is_control=True), "00807a1100000100"),
        (GeneveHeader(geneve.WIREGUARD, geneve.MAX_VNI), "00007a12ffffff00"),
    ],
)
def test_geneve_headers(header: GeneveHeader, encoded: str) -> None:
    assert header.encode().hex() == encoded
    assert geneve.read_header(bytes.fromhex(encoded) + b"rest") == header


@pytest.mark.parametrize(
    "encoded", ["40007a1100000100", "00017a1100000100", "00007a1000000100", "00007a11000001ff"]
)
def test_what_is_no_geneve_header_of_ours(encoded: str) -> None:
    assert geneve.read_header(bytes.fromhex(encoded)) is None
