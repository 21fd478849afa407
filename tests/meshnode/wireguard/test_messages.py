"""Bytes from strangers: a message of exactly its kind, or MalformedMessage."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.wireguard import messages
from meshnode.wireguard.messages import MalformedMessage

PARSERS: dict[int, Callable[[bytes], Any]] = {
    messages.INITIATION: messages.parse_initiation_untrusted,
    messages.RESPONSE: messages.parse_response_untrusted,
    messages.COOKIE_REPLY: messages.parse_cookie_reply_untrusted,
}


def sample(kind: int) -> bytes:
    body = bytes(range(1, messages.SIZE_OF_TYPE[kind] - 3))
    return kind.to_bytes(4, "little") + body


@given(
    st.sampled_from(sorted(PARSERS)), st.binary(max_size=200) | st.builds(sample, st.sampled_from([1, 2, 3]))
)
def test_any_bytes_are_canonical_or_malformed(kind: int, data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        assert PARSERS[kind](data).encode() == data


@pytest.mark.parametrize("kind", PARSERS)
def test_round_trip(kind: int) -> None:
    assert PARSERS[kind](sample(kind)).encode() == sample(kind)


@pytest.mark.parametrize("kind", PARSERS)
@pytest.mark.parametrize("change", [-1, 1, 16])
def test_length_is_exact(kind: int, change: int) -> None:
    data = sample(kind)[:change] if change < 0 else sample(kind) + bytes(change)
    with pytest.raises(MalformedMessage):
        PARSERS[kind](data)


@pytest.mark.parametrize("kind", PARSERS)
@pytest.mark.parametrize("reserved", [1, 2, 3])
def test_reserved_bytes_are_part_of_the_type(kind: int, reserved: int) -> None:
    data = bytearray(sample(kind))
    data[reserved] = 1
    with pytest.raises(MalformedMessage):
        PARSERS[kind](bytes(data))
    assert messages.message_type(bytes(data)) not in PARSERS


@pytest.mark.parametrize("data", [b"", b"\1", b"\1\0\0"])
def test_type_of_too_little(data: bytes) -> None:
    assert messages.message_type(data) == 0


def test_fields() -> None:
    initiation = messages.parse_initiation_untrusted(sample(messages.INITIATION))
    assert initiation.sender_index == 0x04030201
    assert initiation.ephemeral == bytes(range(5, 37))
    response = messages.parse_response_untrusted(sample(messages.RESPONSE))
    assert (response.sender_index, response.receiver_index) == (0x04030201, 0x08070605)
    assert messages.sender_index_untrusted(sample(messages.RESPONSE)) == 0x04030201
