"""The early payload, present and absent, in any pieces."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproto.codec import MalformedMessage
from meshproto.early import MAGIC, MAX_EARLY_PAYLOAD_SIZE, EarlyPayloadReader, encode_early_payload
from meshproto.keys import ChallengePrivate
from meshproto.messages import EarlyNoise
from tests.meshproto.feeding import Feeding, every_feeding
from tests.meshproto.noise_vectors import VECTORS, connected, raw

CHALLENGE = ChallengePrivate(bytes(range(0x81, 0xA1))).public
PAYLOAD = raw("early_header") + VECTORS["early_json"].encode()
SETTINGS = bytes.fromhex("000000040000000000")
"""An HTTP/2 SETTINGS frame without settings: nine bytes, as many as the payload's header."""


def test_payload_of_the_vectors() -> None:
    assert encode_early_payload(EarlyNoise(node_key_challenge=CHALLENGE)) == PAYLOAD


@every_feeding
@pytest.mark.parametrize("after", [b"", SETTINGS, SETTINGS * 3])
def test_payload_is_taken_out(feed: Feeding, after: bytes) -> None:
    reader = EarlyPayloadReader()
    rest = b"".join(reader.receive_data(part) for part in feed(PAYLOAD + after))
    assert rest == after
    assert reader.finished
    assert reader.payload == EarlyNoise(node_key_challenge=CHALLENGE)


@every_feeding
@pytest.mark.parametrize("stream", [SETTINGS, SETTINGS + b"more", b"\xff\xff\xffTX" + bytes(4)])
def test_without_payload_the_nine_bytes_come_back(feed: Feeding, stream: bytes) -> None:
    reader = EarlyPayloadReader()
    assert b"".join(reader.receive_data(part) for part in feed(stream)) == stream
    assert reader.finished
    assert reader.payload is None


def test_undecided_until_the_ninth_byte() -> None:
    reader = EarlyPayloadReader()
    assert reader.receive_data(SETTINGS[:8]) == b""
    assert not reader.finished
    assert reader.receive_data(SETTINGS[8:] + b"x") == SETTINGS + b"x"
    assert reader.receive_data(b"y") == b"y"


def test_payload_in_three_records() -> None:
    """As Headscale sends it: magic, length and JSON in a record each."""
    node, coordinator = connected()
    sealed = coordinator.seal(PAYLOAD[:5]) + coordinator.seal(PAYLOAD[5:9]) + coordinator.seal(PAYLOAD[9:])
    reader = EarlyPayloadReader()
    assert reader.receive_data(node.receive_data(sealed + coordinator.seal(SETTINGS))) == SETTINGS
    assert reader.payload is not None


@pytest.mark.parametrize(
    "stream",
    [
        MAGIC + (MAX_EARLY_PAYLOAD_SIZE + 1).to_bytes(4, "big"),
        MAGIC + b"\xff\xff\xff\xff",
        MAGIC + b"\x00\x00\x00\x00",
        MAGIC + b"\x00\x00\x00\x02[]",
        MAGIC + b'\x00\x00\x00\x18{"nodeKeyChallenge":"xx"}',
    ],
)
def test_malformed_payload_ends_the_stream(stream: bytes) -> None:
    reader = EarlyPayloadReader()
    with pytest.raises(MalformedMessage):
        reader.receive_data(stream)
    with pytest.raises(MalformedMessage):
        reader.receive_data(b"")


@given(st.binary(max_size=200), st.sampled_from([b"", MAGIC, MAGIC + b"\0\0\0"]))
def test_any_bytes(data: bytes, start: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        EarlyPayloadReader().receive_data(start + data)
