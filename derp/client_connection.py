"""One connection of a client: its socket and timer around `ClientCore`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from derp.certificates import received_chain, server_key_in
from derp.client_core import ClientCore, Event, RelaySilent
from derp.client_stream import ClientStream, PlainStream, WebSocketStream
from derp.errors import CannotConnect, UpgradeRefused, reason_of
from derp.frames import FrameError
from derp.relay_node import RelayNode
from derp.tcp_info import delivery, limit_unsent, position
from meshproto.keys import NodePublic

WRITE_HIGH_WATER = 64 * 1024
WRITE_LOW_WATER = 16 * 1024

MakeCore = Callable[[NodePublic | None, float], ClientCore]
"""Makes the core for a relay whose key is known, or not yet, at a time."""


class ClientConnection(asyncio.Protocol):
    """Silent until `begin`.

    `connected` is done when the relay has accepted the login, and `closed`, with the reason, when the
    connection is over.
    """

    def __init__(self, node: RelayNode, make_core: MakeCore, on_event: Callable[[Event], None]) -> None:
        self.node = node
        self.loop = asyncio.get_running_loop()
        self.connected: asyncio.Future[None] = self.loop.create_future()
        self.closed: asyncio.Future[str] = self.loop.create_future()
        self.fell_silent = False
        """Whether the relay stopped answering, as opposed to closing."""
        self.refused_with = 0
        """The HTTP status with which the upgrade was refused, if it was."""
        self.core: ClientCore | None = None
        self._make_core = make_core
        self._on_event = on_event
        self._transport: asyncio.Transport | None = None
        self._stream: ClientStream | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._flush_soon: asyncio.Handle | None = None
        self._asked_until = 0  # the position of TCP behind the last ping
        self._reason = ""

    def begin(self, ideal_node: str, *, over_websocket: bool) -> ClientCore:
        """Send the request; with it the login if the certificates told us the relay's key.

        `ideal_node`: the relay that was wanted first, when this is another.
        """
        transport = self._transport
        if transport is None:
            raise CannotConnect(f"{self.node} {self._reason or 'closed the connection'}")
        transport.set_write_buffer_limits(high=WRITE_HIGH_WATER, low=WRITE_LOW_WATER)
        limit_unsent(transport)
        server = None if over_websocket else _announced_key(transport)
        if over_websocket:
            self._stream = WebSocketStream(self.node, ideal_node)
        else:
            self._stream = PlainStream(self.node, ideal_node, fast_start=server is not None)
        self.core = self._make_core(server, self.loop.time())
        transport.write(self._stream.data_to_send(self.core.data_to_send()))
        self._arm()
        return self.core

    def flush(self) -> None:
        """Send what the core has to say, once the current turn of the event loop is over."""
        if self._flush_soon is None:
            self._flush_soon = self.loop.call_soon(self._flush)

    @property
    def local_address(self) -> tuple[str, int, *tuple[int, ...]] | None:
        """Ours, as a socket has it."""
        return None if self._transport is None else self._transport.get_extra_info("sockname")

    def doubt(self) -> None:
        """Make sure that the relay still answers, or end the connection soon."""
        if self.core is not None:
            self.core.doubt(self.loop.time())
            self._arm()

    def end(self, reason: str) -> None:
        """Drop the connection."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.core is None or self._stream is None:
            self.end("speaks before it is asked")
            return
        try:
            data = self._stream.receive_data(data)
            for event in self.core.receive_data(data, self.loop.time()):
                self._on_event(event)
        except UpgradeRefused as error:
            self.refused_with = error.status
            self.end(str(error))
        except FrameError as error:
            self.end(f"breaks the protocol: {error}")
        except CannotConnect as error:
            self.end(str(error))
        else:
            if self.core.is_connected and not self.connected.done():
                self.connected.set_result(None)
            self._flush()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        if self.core is not None:
            self.core.set_writable(False)

    def resume_writing(self) -> None:
        if self.core is not None:
            self.core.set_writable(True)
            self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for handle in (self._timer, self._flush_soon):
            if handle is not None:
                handle.cancel()
        if not self.closed.done():
            self.closed.set_result(self._reason or (reason_of(exc) if exc else "closed the connection"))

    # Inside.

    def _flush(self) -> None:
        self._flush_soon = None
        if self.core is None or self._stream is None:
            return
        if self._transport is None or self._transport.is_closing():
            return
        data = self._stream.data_to_send(self.core.data_to_send())
        if data:
            self._transport.write(data)
        self._arm()

    def _arm(self) -> None:
        """Set the timer, unless it comes early enough already: it looks again."""
        assert self.core is not None
        when = self.core.next_timeout()
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = self.loop.call_at(when, self._handle_timeout)

    def _handle_timeout(self) -> None:
        self._timer = None
        if self.core is None or self._transport is None:
            return
        try:
            is_asking = self.core.handle_timeout(
                self.loop.time(), delivery(self._transport, self._asked_until)
            )
        except FrameError as error:
            self.fell_silent = isinstance(error, RelaySilent)
            self.end(str(error))
            return
        self._flush()
        if is_asking and self._transport is not None:
            self._asked_until = position(self._transport)


def _announced_key(transport: asyncio.Transport) -> NodePublic | None:
    """The relay's key, where TLS 1.3 has protected the certificate that says it (reference §1.3)."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None or tls.version() != "TLSv1.3":
        return None
    return server_key_in(received_chain(tls))
