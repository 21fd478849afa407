"""The HTTP around DERP: bytes as Tailscale's clients and relays send them, and noise."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derp.frames import FrameError
from derp.upgrade import (
    MAX_HEAD_SIZE,
    HeadReader,
    encode_request,
    encode_response,
    parse_request_untrusted,
    parse_response_untrusted,
)
from tests.derp.keys import RELAY
from tests.meshproto.feeding import Feeding, every_feeding


def test_request_on_the_wire() -> None:
    assert encode_request("relay.example.org", fast_start=False) == (
        b"GET /derp HTTP/1.1\r\nHost: relay.example.org\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n"
    )
    assert encode_request("r", fast_start=True, ideal_node="1b").endswith(
        b"\r\nIdeal-Node: 1b\r\nDerp-Fast-Start: 1\r\n\r\n"
    )


def test_response_on_the_wire() -> None:
    assert encode_response(RELAY.public) == (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n"
        b"Derp-Public-Key: " + RELAY.public.raw.hex().encode() + b"\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("headers", "is_derp"),
    [
        ("Upgrade: DERP\r\nConnection: Upgrade", True),
        ("upgrade:derp", True),
        ("Upgrade: WebSocket", True),  # how old clients asked for DERP
        ("Upgrade: websocket\r\nSec-WebSocket-Protocol: derp", False),
        ("Upgrade: h2c", False),
        ("Connection: Upgrade", False),
    ],
)
def test_who_asks_for_derp(headers: str, is_derp: bool) -> None:
    request = parse_request_untrusted(f"GET /derp?x=1 HTTP/1.1\r\nHost: r\r\n{headers}".encode())
    assert (request.method, request.path) == ("GET", "/derp")
    assert request.asks_for_derp is is_derp
    assert not request.wants_fast_start


def test_fast_start() -> None:
    head, rest = HeadReader().receive_data(encode_request("r", fast_start=True) + b"frame") or (b"", b"")
    assert parse_request_untrusted(head).wants_fast_start
    assert rest == b"frame"


@every_feeding
def test_head_in_pieces(feed: Feeding) -> None:
    reader = HeadReader()
    stream = encode_response(RELAY.public) + b"\x01\x00"
    collected = b""
    for piece in feed(stream):
        done = reader.receive_data(piece)
        if done is not None:
            head, collected = done
            assert parse_response_untrusted(head).status == 101
    assert stream.endswith(collected)


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_head_is_bounded(end: bytes) -> None:
    with pytest.raises(FrameError, match="too large"):
        HeadReader().receive_data(b"x" * (MAX_HEAD_SIZE + 1) + end)
    assert HeadReader().receive_data(b"x" * MAX_HEAD_SIZE) is None


@pytest.mark.parametrize("head", [b"", b"GET", b"GET / SPDY/3", b"GET  / HTTP/1.1", b"\x16\x03\x01\x02\x00"])
def test_not_a_request(head: bytes) -> None:
    with pytest.raises(FrameError):
        parse_request_untrusted(head)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1", b"HTTP/1.1 xx1 No", b"HTTP/2 200 OK", b"SSH-2.0"])
def test_not_a_response(head: bytes) -> None:
    with pytest.raises(FrameError):
        parse_response_untrusted(head)


@given(st.binary(max_size=300))
def test_any_bytes(head: bytes) -> None:
    for parse in (parse_request_untrusted, parse_response_untrusted):
        with contextlib.suppress(FrameError):
            parse(head)
