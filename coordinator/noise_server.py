"""Control connections: sockets, tasks and back-pressure around `MachineChannel` (channel.py).

`NoiseServer` makes the connections and owns their tasks. A `MachineConnection` takes over the socket of an
upgraded HTTP request; each complete request in it runs in a task of its own, which ends with the stream.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeAlias, cast

from coordinator.channel import (
    ChannelClosed,
    Event,
    Headers,
    MachineChannel,
    Request,
    StreamGone,
    StreamOver,
    WindowOpened,
)
from meshproto.keys import MachinePublic
from meshproto.noise.ik import Accepted

WRITE_HIGH_WATER = 256 * 1024  # bytes in the socket's buffer above which responses wait
MAX_UNSENT = 2 * 1024 * 1024  # bytes there above which the peer is given up: it sends and never reads
MAX_CONNECTIONS = 16_384
CLOSE_GRACE_S = 3.0

# A machine that vanished is noticed after about a minute, before its peers would try to reach it for long.
TCP_KEEPIDLE_S = 30
TCP_KEEPINTVL_S = 10
TCP_KEEPCNT = 3
TCP_USER_TIMEOUT_MS = 60_000

logger = logging.getLogger(__name__)


class Exchange:
    """One request and the way to answer it. Its methods raise StreamGone when nobody waits any more."""

    def __init__(self, connection: MachineConnection, request: Request) -> None:
        self._connection = connection
        self.request = request

    @property
    def machine_key(self) -> MachinePublic:
        """The machine that asks, as the handshake proved."""
        return self._connection.machine_key

    @property
    def scheme(self) -> str:
        """`http`, or `https` where a proxy in front of us has the TLS."""
        return self._connection.scheme

    async def respond(self, status: int, body: bytes, content_type: str = "text/plain") -> None:
        """The whole answer at once."""
        self.start(status, content_type, len(body))
        await self.write(body)
        self.finish()

    def start(self, status: int, content_type: str, length: int | None = None) -> None:
        """Begin an answer whose body follows in pieces."""
        headers: Headers = [("content-type", content_type)]
        if length is not None:
            headers = [*headers, ("content-length", str(length))]
        self._connection.channel.respond(self.request.stream_id, status, headers)
        self._connection.flush()

    async def write(self, data: bytes) -> None:
        """A piece of the body. Waits as long as the peer does not take it, so callers set a limit."""
        await self._connection.send(self.request.stream_id, data)

    def abort(self) -> None:
        """Drop the whole connection: the peer does not take what it asked for."""
        self._connection.abort()

    def finish(self) -> None:
        """The body is complete."""
        self._connection.channel.finish(self.request.stream_id, self._connection.now())
        self._connection.flush()


Handler: TypeAlias = Callable[[Exchange], Awaitable[None]]


class NoiseServer:
    """Owns all control connections. Open with `NoiseServer.open`, in whose block they live."""

    def __init__(self, handler: Handler, tasks: asyncio.TaskGroup) -> None:
        self.handler = handler
        self.tasks = tasks
        self._connections: set[MachineConnection] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, handler: Handler) -> AsyncIterator[NoiseServer]:
        """`handler` answers one request; its task is cancelled when the peer loses interest."""
        async with asyncio.TaskGroup() as tasks:
            server = cls(handler, tasks)
            try:
                yield server
            finally:
                await server.close()

    @property
    def is_full(self) -> bool:
        return len(self._connections) >= MAX_CONNECTIONS

    def take_over(
        self,
        accepted: Accepted,
        transport: asyncio.Transport,
        preamble: bytes,
        early: bytes,
        on_lost: Callable[[Exception | None], None],
        scheme: str = "http",
    ) -> MachineConnection:
        """Go on with an upgraded connection. `preamble` goes out in clear, `early` as the first record.

        `on_lost` is called when the socket is gone. `scheme` is that of the URL which the machine has.
        """
        connection = MachineConnection(self, accepted, early, on_lost, scheme)
        self._connections.add(connection)
        connection.connection_made(transport)
        transport.set_protocol(connection)
        connection.begin(preamble)
        return connection

    async def close(self) -> None:
        """End every connection, the slow ones after CLOSE_GRACE_S; machines come back by themselves."""
        connections = list(self._connections)
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.closed for connection in connections], timeout=CLOSE_GRACE_S)
        for connection in connections:
            connection.abort()

    def forget(self, connection: MachineConnection) -> None:
        self._connections.discard(connection)


class MachineConnection(asyncio.Protocol):
    """One control connection of a machine."""

    def __init__(
        self,
        server: NoiseServer,
        accepted: Accepted,
        early: bytes,
        on_lost: Callable[[Exception | None], None],
        scheme: str,
    ) -> None:
        self.machine_key = accepted.machine
        self.scheme = scheme
        self.protocol_version = accepted.protocol_version
        self.channel = MachineChannel(accepted.transport, self.now(), early)
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server = server
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._socket_writable = asyncio.Event()
        self._socket_writable.set()
        self._window_opened: dict[int, asyncio.Event] = {}

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not asserted: uvloop's transports are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        _watch_liveness(self._transport)

    def data_received(self, data: bytes) -> None:
        try:
            for event in self.channel.receive_data(data, self.now()):
                self._handle(event)
        except ChannelClosed as reason:
            self._end(str(reason))
        else:
            self.flush()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._socket_writable.clear()

    def resume_writing(self) -> None:
        self._socket_writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.forget(self)
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks.values():
            task.cancel()
        self._on_lost(exc)
        if not self.closed.done():
            self.closed.set_result(None)

    # Called by its owners.

    def begin(self, preamble: bytes) -> None:
        """Send the end of the handshake and what follows it, in one write."""
        if self._transport is not None:
            self._transport.write(preamble + self.channel.data_to_send())
        self._set_timer()

    def close(self) -> None:
        """Say goodbye and close."""
        self.channel.close()
        self._end("closed")

    def abort(self) -> None:
        """Drop the connection at once; what is unsent is lost."""
        if self._transport is not None:
            self._transport.abort()

    def flush(self) -> None:
        """Send what the channel has to say, and re-arm the timer."""
        if self._transport is None or self._transport.is_closing():
            return
        data = self.channel.data_to_send()
        if data:
            self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT:
            logger.info("control connection does not read", extra={"machine_key": self.machine_key.short()})
            self._transport.abort()
            return
        self._set_timer()

    async def send(self, stream_id: int, data: bytes) -> None:
        """Send `data` on a stream as its window and the socket allow. Raises StreamGone."""
        view = memoryview(data)
        while len(view):
            await self._socket_writable.wait()
            if self._transport is None:
                raise StreamGone("connection lost")
            size = min(self.channel.sendable(stream_id), len(view), WRITE_HIGH_WATER)
            if size > 0:
                self.channel.send(stream_id, view[:size])
                self.flush()
                view = view[size:]
            else:
                await self._window(stream_id)

    # Inside.

    async def _window(self, stream_id: int) -> None:
        opened = self._window_opened.setdefault(stream_id, asyncio.Event())
        opened.clear()
        try:
            await opened.wait()
        finally:
            self._window_opened.pop(stream_id, None)

    def _handle(self, event: Event) -> None:
        match event:
            case Request():
                task = self._server.tasks.create_task(self._serve(event))
                self._tasks[event.stream_id] = task
                task.add_done_callback(lambda _: self._tasks.pop(event.stream_id, None))
            case StreamOver(stream_id):
                if stream_id in self._tasks:
                    self._tasks[stream_id].cancel()
            case WindowOpened(None):
                for opened in self._window_opened.values():
                    opened.set()
            case WindowOpened(stream_id):
                if stream_id in self._window_opened:
                    self._window_opened[stream_id].set()

    async def _serve(self, request: Request) -> None:
        try:
            await self._server.handler(Exchange(self, request))
        except StreamGone:
            pass
        except Exception:
            logger.exception("request failed", extra={"path": request.path})
            self._fail(request.stream_id)
        finally:
            # A handler that was cancelled, or stopped half-way, leaves no stream open.
            self.channel.reset(request.stream_id, self.now())
            self.flush()

    def _fail(self, stream_id: int) -> None:
        """500, if the answer has not begun."""
        with suppress(StreamGone):
            self.channel.respond(stream_id, 500, [("content-length", "0")])
            self.channel.finish(stream_id, self.now())

    def _end(self, reason: str) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        logger.debug(
            "control connection ends", extra={"machine_key": self.machine_key.short(), "reason": reason}
        )
        self._transport.write(self.channel.data_to_send())
        self._transport.close()

    def _set_timer(self) -> None:
        when = self.channel.next_timeout()
        if when is None or (self._timer is not None and self._timer.when() <= when):
            return  # a timer that comes too early looks again
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(when, self._handle_timeout)

    def _handle_timeout(self) -> None:
        self._timer = None
        try:
            self.channel.handle_timeout(self.now())
        except ChannelClosed as reason:
            self._end(str(reason))
        else:
            self.flush()


def _watch_liveness(transport: asyncio.Transport) -> None:
    """Let the kernel find out when the other end is gone."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, TCP_KEEPIDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, TCP_KEEPINTVL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, TCP_KEEPCNT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
