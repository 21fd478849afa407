"""Sockets and timers around `ServerCore`: the connections of a relay on the running event loop.

A `RelayConnection` takes over the transport of an HTTP request (see `front` and `web`). What arrives is
handed to its session at once, in the callback of the event loop, and what that makes others send is written
before the callback returns: there is no task, queue or lock per client or frame. All connections read into
one buffer. A client that does not read costs the buffer of its socket, WRITE_HIGH_WATER bytes of its
transport and what its outbox keeps.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

from derp.server_core import ServerCore
from derp.session import Admission, Arrival, Session, SessionClosed
from derp.tcp_info import limit_unsent

READ_SIZE = 64 * 1024
"""Bytes read at once: some fifty full packets, which is a batch worth having and no burst to speak of."""
WRITE_HIGH_WATER = 64 * 1024
WRITE_LOW_WATER = 16 * 1024
"""Bytes in a transport above which a client's packets wait in its outbox, and below which they flow again."""
TCP_USER_TIMEOUT_MS = 15_000
"""A client that vanished is noticed so long after something was sent to it."""
RECONNECT_IN_S = 0.25
TRY_FOR_S = 30.0
"""What clients are told before a restart."""
CLOSE_GRACE_S = 1.0

Verify = Callable[[Admission], Awaitable[bool]]
"""Whether a client may use the relay. An exception counts as no."""

logger = logging.getLogger(__name__)


class RelayServer:
    """All connections of one relay. Open with `RelayServer.open`, in whose block they live."""

    def __init__(self, core: ServerCore, verify: Verify | None = None) -> None:
        self.core = core
        self.buffer = memoryview(bytearray(READ_SIZE))
        """What connections read into. Each has taken its bytes out before another one reads."""
        self._verify = verify
        self._questions: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._connections: dict[Session, RelayConnection] = {}
        self._is_flushing = False

    @classmethod
    @asynccontextmanager
    async def open(cls, core: ServerCore, verify: Verify | None = None) -> AsyncIterator[RelayServer]:
        """`verify` is asked about every client if the core verifies clients."""
        server = cls(core, verify)
        try:
            yield server
        finally:
            await server.close()

    @property
    def connections(self) -> int:
        return len(self._connections)

    def take_over(
        self,
        transport: asyncio.Transport,
        arrival: Arrival,
        *,
        greeting: bytes = b"",
        received: bytes = b"",
        on_lost: Callable[[Exception | None], None] = lambda _: None,
    ) -> RelayConnection:
        """Go on with a connection that asked for DERP.

        `greeting` is the answer to its request, and `received` what came after that. `on_lost` is called when
        the connection is gone.
        """
        session = self.core.connect(arrival, self._loop.time())
        connection = RelayConnection(self, session, transport, on_lost)
        self._connections[session] = connection
        transport.set_protocol(connection)
        connection.begin(greeting)
        if received:
            connection.data_received(received)
        else:
            self.flush()
        return connection

    def flush(self) -> None:
        """Send whatever any session has to say, and close what must be closed."""
        if self._is_flushing:
            return  # closing a connection, or a full socket, may lead here again
        self._is_flushing = True
        try:
            while self._flush_once():
                pass
        finally:
            self._is_flushing = False

    def _flush_once(self) -> bool:
        """Closing connections gives others something to say, so this may have to be done again."""
        ready, closed = self.core.take_ready(), self.core.take_closed()
        now = self._loop.time()
        for session in ready:
            if session in self._connections:
                self._connections[session].write_output(now)
        for session in closed:
            if session in self._connections:
                self._connections[session].end("by order of a relay of the region")
        return bool(ready or closed)

    async def close(self) -> None:
        """Tell clients that the relay restarts, and close; those that do not read, after CLOSE_GRACE_S."""
        self.core.announce_restart(RECONNECT_IN_S, TRY_FOR_S)
        self.flush()
        connections = list(self._connections.values())
        for connection in connections:
            connection.close()
        if connections:
            await asyncio.wait([connection.closed for connection in connections], timeout=CLOSE_GRACE_S)
        for connection in connections:
            connection.abort()
        for question in self._questions:
            question.cancel()

    # Called by the connections.

    def forget(self, session: Session) -> None:
        session.close()
        self._connections.pop(session, None)
        self.flush()

    def ask_about(self, connection: RelayConnection, admission: Admission) -> None:
        """Find out whether a client may use the relay, and tell its connection."""
        question = self._loop.create_task(self._ask(connection, admission))
        self._questions.add(question)
        question.add_done_callback(self._questions.discard)

    async def _ask(self, connection: RelayConnection, admission: Admission) -> None:
        try:
            is_welcome = self._verify is not None and await self._verify(admission)
        except Exception:
            logger.exception("could not verify a client", extra={"node_key": admission.key.short()})
            is_welcome = False
        if is_welcome:
            connection.admit()
        else:
            self.core.counters.logins_refused += 1
            connection.end("not admitted")


class RelayConnection(asyncio.BufferedProtocol):
    """The connection of one client."""

    def __init__(
        self,
        server: RelayServer,
        session: Session,
        transport: asyncio.Transport,
        on_lost: Callable[[Exception | None], None],
    ) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._server = server
        self._session = session
        self._transport = transport
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, greeting: bytes) -> None:
        """Send the answer and ServerKey, in one write."""
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER, low=WRITE_LOW_WATER)
        _tune(self._transport)
        self._transport.write(greeting + self._session.take_output(self._loop.time()))
        self._arm()

    # Called by the event loop.

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self._server.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Also called for connections that are no sockets."""
        try:
            self._session.receive_data(data, self._loop.time())
        except SessionClosed as reason:
            self.end(str(reason))
        else:
            self._read_when_allowed()
        self._server.flush()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._session.pause(self._transport.get_write_buffer_size(), self._loop.time())
        self._arm()

    def resume_writing(self) -> None:
        self._session.resume()
        self._server.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._server.forget(self._session)
        self._on_lost(exc)
        if not self.closed.done():
            self.closed.set_result(None)

    # Called by the server.

    def write_output(self, now: float) -> None:
        """Send what the session has to say."""
        output = self._session.take_output(now)
        if output and not self._transport.is_closing():
            self._transport.write(output)

    def admit(self) -> None:
        """The client may use the relay."""
        try:
            self._session.admit(self._loop.time())
        except SessionClosed as reason:
            self.end(str(reason))
        else:
            self._transport.resume_reading()
            self._arm()
        self._server.flush()

    def end(self, reason: str) -> None:
        """Drop the connection, for a reason that is logged. What is unsent is lost."""
        logger.debug("connection ends", extra={"client": self._session.name, "reason": reason})
        self._session.close()
        self._transport.abort()

    def close(self) -> None:
        """Close once everything is sent."""
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # Inside.

    def _read_when_allowed(self) -> None:
        """Stop reading while the client's admission is open, or its rate is used up."""
        if self._session.admission is not None:
            self._transport.pause_reading()
            self._server.ask_about(self, self._session.admission)
        elif self._session.read_again_at is not None:
            self._transport.pause_reading()
            self._loop.call_at(self._session.read_again_at, self._read_again)

    def _read_again(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _arm(self) -> None:
        """Set the timer, unless it comes early enough already: it looks again."""
        when = self._session.next_timeout()
        if when is None or (self._timer is not None and self._timer.when() <= when):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._handle_timeout)

    def _handle_timeout(self) -> None:
        self._timer = None
        try:
            self._session.handle_timeout(self._loop.time(), self._transport.get_write_buffer_size())
        except SessionClosed as reason:
            self.end(str(reason))
        else:
            self._server.flush()
            self._arm()


def _tune(transport: asyncio.Transport) -> None:
    """Packets are not to wait for each other, nor in the kernel; and who vanished is to be noticed."""
    sock = cast("socket.socket | None", transport.get_extra_info("socket"))
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    limit_unsent(transport)
