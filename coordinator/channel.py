"""The coordinator's side of a control connection, after the handshake: HTTP/2 inside Noise records, sans-IO.

Bytes go in, whole requests come out; responses go in, bytes come out (control-protocol §5). The peer is
whoever could reach the port, so everything that it can make us keep is bounded: open streams, header and
body sizes, bytes of unfinished bodies, streams opened per minute, and how long each of these may stay
unfinished.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import h2.config
import h2.connection
import h2.exceptions
from h2 import events
from h2.errors import ErrorCodes
from h2.settings import SettingCodes, Settings

from meshproto.noise.records import Transport
from meshproto.noise.symmetric import NoiseError

MAX_STREAMS = 64  # at a time; a client has one poll and a few short requests
MAX_BODY_SIZE = 1024 * 1024  # bytes of one request
MAX_BUFFERED_BODIES = 4 * 1024 * 1024  # bytes of unfinished requests of one connection
MAX_HEADER_LIST_SIZE = 16 * 1024
MAX_STREAMS_PER_MINUTE = 1200  # opened, answered or not: bounds what open-and-reset can cost
PREFACE_TIMEOUT_S = 10.0  # from the handshake to the first bytes of HTTP/2
REQUEST_TIMEOUT_S = 30.0  # from the first header to the last byte of a request
IDLE_TIMEOUT_S = 300.0  # without an open stream

Headers: TypeAlias = Sequence[tuple[str, str]]


class ChannelClosed(Exception):
    """The connection cannot go on; `str()` says why. What `data_to_send` still gives should be sent first."""


class StreamGone(Exception):
    """The peer reset the stream, or the connection is over: nobody waits for this response."""


@dataclass(frozen=True, slots=True)
class Request:
    """A complete request. `path` has no query; header names are lower-case."""

    stream_id: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class StreamOver:
    """The peer lost interest in the stream; its handler should stop."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class WindowOpened:
    """More may be sent, on one stream or (None) on all."""

    stream_id: int | None


Event: TypeAlias = Request | StreamOver | WindowOpened


@dataclass(slots=True)
class _Unfinished:
    """A request whose end has not arrived."""

    method: str
    path: str
    headers: dict[str, str]
    deadline: float
    body: bytearray = field(default_factory=bytearray)


class MachineChannel:
    """See the module. `now` is monotonic seconds. After ChannelClosed, only `data_to_send` may be called."""

    def __init__(self, transport: Transport, now: float, early: bytes = b"") -> None:
        """`early` is sent before anything of HTTP/2: the early payload."""
        self._noise = transport
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADER_LIST_SIZE,
                SettingCodes.ENABLE_CONNECT_PROTOCOL: 0,
            },
        )
        self._h2.initiate_connection()
        self._outgoing = bytearray(early)
        self._unfinished: dict[int, _Unfinished] = {}
        self._open: set[int] = set()
        self._opened_at: deque[float] = deque()
        self._got_preface = False
        self._buffered = 0
        self._quiet_since = now

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """What `data` completes. Raises ChannelClosed."""
        try:
            plaintext = self._noise.receive_data(data)
        except NoiseError as error:
            raise ChannelClosed(f"record: {error}") from error
        if not plaintext:
            return []
        self._got_preface = True
        self._quiet_since = now
        try:
            received = self._h2.receive_data(plaintext)
        except (h2.exceptions.ProtocolError, UnicodeDecodeError) as error:  # the latter: of a header
            raise ChannelClosed(f"HTTP/2: {error}") from error
        return [event for raw in received if (event := self._handle(raw, now)) is not None]

    def data_to_send(self) -> bytes:
        """Records for the peer, each byte once."""
        self._outgoing += self._h2.data_to_send()
        plaintext, self._outgoing = bytes(self._outgoing), bytearray()
        return self._noise.seal(plaintext)

    def respond(self, stream_id: int, status: int, headers: Headers) -> None:
        """Start a response; pieces of body may follow, and `finish` ends it. Raises StreamGone."""
        try:
            self._h2.send_headers(stream_id, [(":status", str(status)), *headers])
        except h2.exceptions.ProtocolError as error:
            raise StreamGone(str(error)) from error

    def sendable(self, stream_id: int) -> int:
        """How many bytes of body may be sent now. Raises StreamGone."""
        if stream_id not in self._open:
            raise StreamGone("the stream is over")
        return self._h2.local_flow_control_window(stream_id)

    def send(self, stream_id: int, data: bytes | memoryview) -> None:
        """A piece of the body, of at most `sendable` bytes. Raises StreamGone."""
        view = memoryview(data)
        size = self._h2.max_outbound_frame_size
        try:
            for start in range(0, len(view), size):
                self._h2.send_data(stream_id, bytes(view[start : start + size]))
        except h2.exceptions.ProtocolError as error:
            raise StreamGone(str(error)) from error

    def finish(self, stream_id: int, now: float) -> None:
        """The response is complete. Raises StreamGone."""
        try:
            self._h2.end_stream(stream_id)
        except h2.exceptions.ProtocolError as error:
            raise StreamGone(str(error)) from error
        finally:
            self._over(stream_id, now)

    def reset(self, stream_id: int, now: float) -> None:
        """Give the stream up in the middle. Does nothing when it is over."""
        if stream_id in self._open:
            self._reset(stream_id, ErrorCodes.INTERNAL_ERROR, now)

    def close(self) -> None:
        """Tell the peer that the connection ends."""
        self._h2.close_connection()

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        if not self._got_preface:
            return self._quiet_since + PREFACE_TIMEOUT_S
        if not self._open:
            return self._quiet_since + IDLE_TIMEOUT_S
        return min((request.deadline for request in self._unfinished.values()), default=None)

    def handle_timeout(self, now: float) -> None:
        """Give up what takes too long. Raises ChannelClosed."""
        if not self._got_preface:
            if now >= self._quiet_since + PREFACE_TIMEOUT_S:
                raise ChannelClosed("no HTTP/2 after the handshake")
        elif not self._open and now >= self._quiet_since + IDLE_TIMEOUT_S:
            self._h2.close_connection()
            raise ChannelClosed("idle")
        for stream_id in [i for i, request in self._unfinished.items() if request.deadline <= now]:
            self._reset(stream_id, ErrorCodes.CANCEL, now)

    def _handle(self, event: events.Event, now: float) -> Event | None:
        match event:
            case events.RequestReceived(stream_id=stream_id, headers=headers):
                self._begin(stream_id, headers, now)
            case events.DataReceived(stream_id=stream_id):
                self._take_body(stream_id, event, now)
            case events.StreamEnded(stream_id=stream_id):
                return self._complete(stream_id)
            case events.StreamReset(stream_id=stream_id):
                self._over(stream_id, now)
                return StreamOver(stream_id)
            case events.WindowUpdated(stream_id=stream_id):
                return WindowOpened(stream_id or None)
            case events.RemoteSettingsChanged():
                return WindowOpened(None)
            case events.ConnectionTerminated():
                raise ChannelClosed("the peer closed the connection")
        return None

    def _begin(self, stream_id: int, header_list: Iterable[tuple[Any, Any]], now: float) -> None:
        while self._opened_at and self._opened_at[0] <= now - 60.0:
            self._opened_at.popleft()
        self._opened_at.append(now)
        if len(self._opened_at) > MAX_STREAMS_PER_MINUTE:
            self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            raise ChannelClosed("too many streams")
        headers = {str(name): str(value) for name, value in header_list}
        path = headers.pop(":path", "").partition("?")[0]
        self._open.add(stream_id)
        self._unfinished[stream_id] = _Unfinished(
            headers.pop(":method", ""), path, headers, now + REQUEST_TIMEOUT_S
        )

    def _take_body(self, stream_id: int, event: events.DataReceived, now: float) -> None:
        # The window opens again at once: what bounds memory is the sizes below, not the window.
        if event.flow_controlled_length:
            with suppress(h2.exceptions.ProtocolError):  # a stream that has just ended has no window
                self._h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
        request = self._unfinished.get(stream_id)
        if request is None:
            return  # of a request that was refused
        request.body += event.data
        self._buffered += len(event.data)
        if len(request.body) > MAX_BODY_SIZE:
            self._refuse(stream_id, now)
        elif self._buffered > MAX_BUFFERED_BODIES:
            self._h2.close_connection(ErrorCodes.ENHANCE_YOUR_CALM)
            raise ChannelClosed("too many unfinished requests")

    def _complete(self, stream_id: int) -> Request | None:
        request = self._take_unfinished(stream_id)
        if request is None:
            return None
        return Request(stream_id, request.method, request.path, request.headers, bytes(request.body))

    def _refuse(self, stream_id: int, now: float) -> None:
        """Answer 413 before the request is complete."""
        self.respond(stream_id, 413, [("content-length", "0")])
        self._h2.end_stream(stream_id)
        self._reset(stream_id, ErrorCodes.NO_ERROR, now)

    def _reset(self, stream_id: int, code: ErrorCodes, now: float) -> None:
        with suppress(h2.exceptions.ProtocolError):
            self._h2.reset_stream(stream_id, code)
        self._over(stream_id, now)

    def _over(self, stream_id: int, now: float) -> None:
        self._take_unfinished(stream_id)
        self._open.discard(stream_id)
        self._quiet_since = now

    def _take_unfinished(self, stream_id: int) -> _Unfinished | None:
        request = self._unfinished.pop(stream_id, None)
        if request is not None:
            self._buffered -= len(request.body)
        return request
