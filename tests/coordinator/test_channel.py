"""HTTP/2 inside Noise, the coordinator's side: whole requests out, and nothing unbounded in."""

from __future__ import annotations

import os
import struct

import h2.config
import h2.connection
import h2.events
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import channel as channel_module
from coordinator.channel import (
    IDLE_TIMEOUT_S,
    MAX_BODY_SIZE,
    MAX_STREAMS,
    PREFACE_TIMEOUT_S,
    REQUEST_TIMEOUT_S,
    ChannelClosed,
    Event,
    MachineChannel,
    Request,
    StreamGone,
    StreamOver,
)
from meshproto.keys import MachinePrivate
from meshproto.noise.ik import Initiator, Responder

HEADERS = [(":method", "POST"), (":path", "/machine/map?x=1"), (":scheme", "https"), (":authority", "vpn")]


class Pair:
    """A channel and the client end of it, without sockets."""

    def __init__(self, early: bytes = b"") -> None:
        server = MachinePrivate.generate(os.urandom)
        initiator = Initiator(MachinePrivate.generate(os.urandom), server.public, 130, os.urandom)
        accepted = Responder(server, os.urandom).consume_initiation(initiator.initiation())
        self.noise = initiator.consume_response(accepted.response)
        self.channel = MachineChannel(accepted.transport, 0.0, early)
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.h2.initiate_connection()

    def send(self, now: float = 0.0) -> list[Event]:
        return self.channel.receive_data(self.noise.seal(self.h2.data_to_send()), now)

    def receive(self) -> list[h2.events.Event]:
        data = self.noise.receive_data(self.channel.data_to_send())
        return self.h2.receive_data(data) if data else []

    def exchange(self, now: float = 0.0) -> list[Event]:
        """Both ways until quiet."""
        events = self.send(now)
        self.receive()
        return events + self.send(now)

    def request(self, body: bytes = b"", end: bool = True, now: float = 0.0) -> tuple[int, list[Event]]:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, HEADERS)
        events: list[Event] = []
        for start in range(0, len(body), 16384):
            self.h2.send_data(stream_id, body[start : start + 16384])
            events += self.exchange(now)
        if end:
            self.h2.end_stream(stream_id)
        return stream_id, events + self.exchange(now)


def requests(events: list[Event]) -> list[Request]:
    return [event for event in events if isinstance(event, Request)]


@pytest.mark.parametrize("size", [0, 1, 70_000, MAX_BODY_SIZE])
def test_a_request_comes_out_whole(size: int) -> None:
    body = os.urandom(size)
    stream_id, events = Pair().request(body)
    (request,) = requests(events)
    assert (request.stream_id, request.method, request.path) == (stream_id, "POST", "/machine/map")
    assert request.body == body
    assert request.headers[":authority"] == "vpn"


def test_a_response_in_pieces_within_the_window() -> None:
    pair = Pair()
    stream_id, _ = pair.request()
    pair.channel.respond(stream_id, 200, [("content-type", "text/plain")])
    assert pair.channel.sendable(stream_id) == 65535
    pair.channel.send(stream_id, bytes(65535))
    assert pair.channel.sendable(stream_id) == 0
    events = pair.receive()
    received = sum(len(event.data) for event in events if isinstance(event, h2.events.DataReceived))
    assert received == 65535
    pair.h2.acknowledge_received_data(65535, stream_id)
    pair.send()
    assert pair.channel.sendable(stream_id) > 0
    pair.channel.finish(stream_id, 0.0)
    assert any(isinstance(event, h2.events.StreamEnded) for event in pair.receive())


def test_the_early_payload_comes_before_http2() -> None:
    pair = Pair(early=b"early")
    assert pair.noise.receive_data(pair.channel.data_to_send()).startswith(b"early\x00\x00")


def test_a_reset_ends_the_stream_and_later_sends_say_so() -> None:
    pair = Pair()
    stream_id, _ = pair.request()
    pair.channel.respond(stream_id, 200, [])
    pair.h2.reset_stream(stream_id)
    assert StreamOver(stream_id) in pair.exchange()
    for use in (
        pair.channel.sendable,
        lambda i: pair.channel.send(i, b"x"),
        lambda i: pair.channel.finish(i, 0.0),
    ):
        with pytest.raises(StreamGone):
            use(stream_id)


def test_a_body_that_is_too_large_gets_413() -> None:
    pair = Pair()
    pair.exchange()
    stream_id = pair.h2.get_next_available_stream_id()
    pair.h2.send_headers(stream_id, HEADERS)
    statuses = []
    for _ in range(MAX_BODY_SIZE // 16384 + 1):
        pair.h2.send_data(stream_id, bytes(16384))
        assert not requests(pair.send())
        responses = [event for event in pair.receive() if isinstance(event, h2.events.ResponseReceived)]
        statuses += [dict(event.headers)[":status"] for event in responses]
    assert statuses == ["413"]
    _, events = pair.request(b"small")
    assert requests(events)


def test_too_much_in_unfinished_requests_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MAX_BUFFERED_BODIES", 200_000)
    pair = Pair()
    for _ in range(4):
        pair.request(bytes(50_000), end=False)
    with pytest.raises(ChannelClosed, match="unfinished"):
        pair.request(b"x", end=False)


def test_streams_at_a_time_are_limited() -> None:
    pair = Pair()
    pair.exchange()
    for _ in range(MAX_STREAMS):
        pair.request(end=False)
    with pytest.raises(h2.connection.TooManyStreamsError):
        pair.request()


def test_open_and_reset_in_a_row_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "MAX_STREAMS_PER_MINUTE", 100)
    pair = Pair()

    def flood(count: int, now: float) -> None:
        for _ in range(count):
            stream_id, _ = pair.request(now=now)
            pair.h2.reset_stream(stream_id)
            pair.exchange(now)

    flood(100, 0.0)
    flood(100, 61.0)
    with pytest.raises(ChannelClosed, match="too many streams"):
        flood(1, 62.0)
    assert any(isinstance(event, h2.events.ConnectionTerminated) for event in pair.receive())


def test_silence_after_the_handshake_closes() -> None:
    pair = Pair()
    assert pair.channel.next_timeout() == PREFACE_TIMEOUT_S
    pair.channel.handle_timeout(PREFACE_TIMEOUT_S - 1)
    with pytest.raises(ChannelClosed, match="no HTTP/2"):
        pair.channel.handle_timeout(PREFACE_TIMEOUT_S)


def test_a_request_that_does_not_end_is_given_up() -> None:
    pair = Pair()
    stream_id, _ = pair.request(end=False, now=5.0)
    assert pair.channel.next_timeout() == 5.0 + REQUEST_TIMEOUT_S
    pair.channel.handle_timeout(5.0 + REQUEST_TIMEOUT_S)
    resets = [event for event in pair.receive() if isinstance(event, h2.events.StreamReset)]
    assert [event.stream_id for event in resets] == [stream_id]
    assert pair.channel.next_timeout() == 5.0 + REQUEST_TIMEOUT_S + IDLE_TIMEOUT_S


def test_idle_without_a_stream_closes_but_not_with_one() -> None:
    pair = Pair()
    stream_id, _ = pair.request(now=1.0)
    assert pair.channel.next_timeout() is None
    pair.channel.handle_timeout(10_000.0)
    pair.channel.respond(stream_id, 200, [])
    pair.channel.finish(stream_id, 10_000.0)
    assert pair.channel.next_timeout() == 10_000.0 + IDLE_TIMEOUT_S
    with pytest.raises(ChannelClosed, match="idle"):
        pair.channel.handle_timeout(10_000.0 + IDLE_TIMEOUT_S)


def test_the_peers_goodbye_closes() -> None:
    pair = Pair()
    pair.exchange()
    pair.h2.close_connection()
    with pytest.raises(ChannelClosed, match="peer"):
        pair.send()


def test_a_forged_record_closes() -> None:
    pair = Pair()
    with pytest.raises(ChannelClosed, match="record"):
        pair.channel.receive_data(struct.pack(">BH", 4, 32) + bytes(32), 0.0)


def test_a_header_that_is_no_text_closes() -> None:
    pair = Pair()
    pair.exchange()
    pair.h2.send_headers(1, [*HEADERS, (b"x", b"\xc5")], end_stream=True)
    with pytest.raises(ChannelClosed, match="utf-8"):
        pair.send()


@given(st.binary(max_size=200))
def test_any_bytes_inside_the_records_end_cleanly_or_not_at_all(data: bytes) -> None:
    pair = Pair()
    pair.exchange()
    try:
        pair.channel.receive_data(pair.noise.seal(data), 0.0)
    except ChannelClosed:
        pair.channel.data_to_send()
