"""HTTP/2 inside the Noise stream, client side: one endless map poll and short requests beside it.

`h2` keeps the protocol; this shell moves its bytes. What a response has sent is acknowledged (WINDOW_UPDATE,
for the stream and the connection) when its reader takes it, so that a map of any size flows and a slow reader
holds back only the server (control protocol §5).
"""

from __future__ import annotations

import asyncio
from typing import Protocol, Self

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from meshnode.control.errors import ConnectionLost

WINDOW_SIZE = 4 * 1024 * 1024
"""Bytes a server may send ahead of our reading, on a stream and on the whole connection."""
USER_AGENT = "meshnode"


class ByteStream(Protocol):
    """An ordered two-way stream: the Noise transport, or a pair of queues in a test."""

    async def receive(self) -> bytes:
        """What came, at least one byte; b"" at the end. Raises ConnectionLost."""

    async def send(self, data: bytes) -> None:
        """Raises ConnectionLost."""

    async def close(self) -> None: ...


class Response:
    """A response whose body is still coming. Iterate it, `read` it whole, or `cancel` it."""

    def __init__(self, client: Http2Client, stream_id: int) -> None:
        self._client = client
        self._stream_id = stream_id
        self._pieces: asyncio.Queue[tuple[bytes, int] | ConnectionLost | None] = asyncio.Queue()
        self._headers: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        self.ended = False
        self.headers: dict[str, str] = {}
        self.status = 0

    async def head(self) -> None:
        """Wait for status and headers. Raises ConnectionLost."""
        self.headers = await asyncio.shield(self._headers)
        status = self.headers.get(":status", "")
        if not (len(status) == 3 and status.isascii() and status.isdecimal()):
            raise ConnectionLost("the coordinator sent an answer without a status")
        self.status = int(status)

    def __aiter__(self) -> Self:
        """The body as it comes."""
        return self

    async def __anext__(self) -> bytes:
        """Raises ConnectionLost when the body breaks off."""
        piece = await self._pieces.get()
        if piece is None or isinstance(piece, ConnectionLost):
            self._pieces.put_nowait(piece)  # an ended body stays ended
            raise piece or StopAsyncIteration
        data, flow_controlled_length = piece
        await self._client.acknowledge(self._stream_id, flow_controlled_length)
        return data

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises ConnectionLost, also when it is longer than `limit` bytes."""
        body = bytearray()
        async for piece in self:
            body += piece
            if len(body) > limit:
                await self.cancel()
                raise ConnectionLost(f"the coordinator sent an answer of more than {limit} bytes")
        return bytes(body)

    async def cancel(self) -> None:
        """Give the stream up (RST_STREAM) where it has not ended."""
        if not self.ended:
            await self._client.reset(self._stream_id)

    # What the connection tells us.

    def on_headers(self, headers: dict[str, str]) -> None:
        if not self._headers.done():
            self._headers.set_result(headers)

    def on_data(self, data: bytes, flow_controlled_length: int) -> None:
        self._pieces.put_nowait((data, flow_controlled_length))

    def on_end(self, error: ConnectionLost | None) -> None:
        self.ended = True
        self._pieces.put_nowait(error)
        if not self._headers.done():
            self._headers.set_exception(
                error or ConnectionLost("the coordinator ended a response without a head")
            )
            self._headers.exception()  # its reader may be gone: that is no warning's business


class Http2Client:
    """Requests over one connection. Start it with `start`, end it with `close`; when it breaks, every open
    response raises ConnectionLost and `is_open` is False."""

    def __init__(self, stream: ByteStream, authority: str) -> None:
        self._stream = stream
        self._authority = authority
        self._h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                client_side=True, header_encoding="utf-8", validate_inbound_headers=True
            )
        )
        self._responses: dict[int, Response] = {}
        self._window_grew = asyncio.Event()
        self._sending = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self.is_open = False

    async def start(self) -> None:
        """Send the preface and begin to read. Raises ConnectionLost."""
        self._h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW_SIZE,
            },
        )
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW_SIZE)
        self.is_open = True
        await self._flush()
        self._reader = asyncio.create_task(self._read(), name="control http2")

    async def request(self, method: str, path: str, body: bytes) -> Response:
        """Send a request and return once the head of its response is there. Raises ConnectionLost."""
        if not self.is_open:
            raise ConnectionLost("the connection to the coordinator is closed")
        stream_id = self._h2.get_next_available_stream_id()
        response = self._responses[stream_id] = Response(self, stream_id)
        headers = [
            (":method", method),
            (":scheme", "https"),
            (":authority", self._authority),
            (":path", path),
            ("user-agent", USER_AGENT),
            ("content-length", str(len(body))),
        ]
        try:
            self._h2.send_headers(stream_id, headers)
            await self._send_body(stream_id, body)
            await response.head()
        except h2.exceptions.ProtocolError as error:
            raise ConnectionLost(f"the request could not be sent: {error}") from error
        except asyncio.CancelledError:
            await response.cancel()
            raise
        return response

    async def acknowledge(self, stream_id: int, flow_controlled_length: int) -> None:
        """Let the server send as much again."""
        if flow_controlled_length and self.is_open:
            self._h2.acknowledge_received_data(flow_controlled_length, stream_id)
            await self._flush()

    async def reset(self, stream_id: int) -> None:
        """Tell the server that nobody listens to this stream any more."""
        response = self._responses.pop(stream_id, None)
        if response is None or not self.is_open:
            return
        try:
            self._h2.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
            await self._flush()
        except (h2.exceptions.ProtocolError, ConnectionLost):
            pass  # the stream or the connection ended meanwhile, which is what was asked for

    async def close(self) -> None:
        """End the connection and every response on it."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._end(ConnectionLost("the connection to the coordinator was closed"))

    async def _send_body(self, stream_id: int, body: bytes) -> None:
        while body:
            self._window_grew.clear()
            size = min(
                self._h2.local_flow_control_window(stream_id), self._h2.max_outbound_frame_size, len(body)
            )
            if size == 0:
                await self._flush()
                await self._window_grew.wait()
                if not self.is_open:
                    raise ConnectionLost("the connection to the coordinator ended during a request")
                continue
            self._h2.send_data(stream_id, body[:size])
            body = body[size:]
        self._h2.end_stream(stream_id)
        await self._flush()

    async def _flush(self) -> None:
        async with self._sending:
            if data := self._h2.data_to_send():
                await self._stream.send(data)

    async def _read(self) -> None:
        failure = ConnectionLost("the coordinator closed the connection")
        try:
            while data := await self._stream.receive():
                for event in self._h2.receive_data(data):
                    self._on_event(event)
                await self._flush()
                if not self.is_open:
                    break
        except ConnectionLost as error:
            failure = error
        except (h2.exceptions.ProtocolError, UnicodeDecodeError) as error:  # the latter: of a header
            failure = ConnectionLost(f"the coordinator broke the HTTP/2 protocol: {error}")
        await self._end(failure)

    def _on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            self._window_grew.set()
        elif isinstance(event, h2.events.ConnectionTerminated):  # GOAWAY: nothing more will be answered
            self.is_open = False
        elif isinstance(event, h2.events.ResponseReceived):
            if response := self._responses.get(event.stream_id):
                response.on_headers({str(name): str(value) for name, value in event.headers})
        elif isinstance(event, h2.events.DataReceived):
            self._on_data(event)
        elif isinstance(event, h2.events.StreamEnded):
            self._finish(event.stream_id, None)
        elif isinstance(event, h2.events.StreamReset):
            self._finish(event.stream_id, ConnectionLost("the coordinator abandoned a request"))

    def _on_data(self, event: h2.events.DataReceived) -> None:
        response = self._responses.get(event.stream_id)
        if response is not None:
            response.on_data(event.data, event.flow_controlled_length)
        else:  # of a stream we gave up: keep the connection's window whole
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def _finish(self, stream_id: int, error: ConnectionLost | None) -> None:
        if response := self._responses.pop(stream_id, None):
            response.on_end(error)

    async def _end(self, failure: ConnectionLost) -> None:
        self.is_open = False
        self._window_grew.set()
        for stream_id in list(self._responses):
            self._finish(stream_id, failure)
        await self._stream.close()
