"""Accepts the connections of the public listener, of which some begin with TLS and some do not.

Nodes speak HTTP to a coordinator without a proxy in front, and DERP inside TLS to the relay at the same port:
one port to open, and one to forward. The first byte tells them apart. It is only looked at, so that whoever
gets the connection gets all of it.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress

FIRST_BYTE_TIMEOUT_S = 10.0
TLS_HANDSHAKE_TIMEOUT_S = 10.0
TLS_SHUTDOWN_TIMEOUT_S = 1.0
ACCEPTED_AT_ONCE = 256  # per turn of the event loop
MAX_SILENT = 4096  # connections of which nothing has come yet
PAUSE_S = 1.0  # when the process has no file descriptor to spare
HANDSHAKE = b"\x16"  # the first byte of a TLS connection; no HTTP method begins with it

_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

logger = logging.getLogger(__name__)


class Acceptor:
    """Gives each connection at `listeners`, which stay the caller's to close, a protocol of `make_protocol`.

    A connection that begins with a TLS handshake is decrypted first, by `tls`; without that, it is passed on
    as it is.
    """

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listeners = listeners
        self._make_protocol = make_protocol
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._silent: dict[socket.socket, asyncio.TimerHandle] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._is_closed = False
        for listener in listeners:
            self._loop.add_reader(listener, self._accept, listener)

    def close(self) -> None:
        """Accept nothing more, and drop connections that have no protocol yet."""
        if self._is_closed:
            return
        self._is_closed = True
        for listener in self._listeners:
            self._loop.remove_reader(listener)
        for connection in list(self._silent):
            self._drop(connection)
        for task in self._starting:
            task.cancel()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                logger.error("cannot accept connections for now", extra={"error": error.strerror})
                self._loop.remove_reader(listener)
                self._loop.call_later(PAUSE_S, self._go_on, listener)
                return
            if len(self._silent) >= MAX_SILENT:
                connection.close()
                continue
            connection.setblocking(False)
            self._silent[connection] = self._loop.call_later(FIRST_BYTE_TIMEOUT_S, self._drop, connection)
            self._loop.add_reader(connection, self._look, connection)

    def _go_on(self, listener: socket.socket) -> None:
        if not self._is_closed:
            self._loop.add_reader(listener, self._accept, listener)

    def _look(self, connection: socket.socket) -> None:
        try:
            first = connection.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        if not first:
            self._drop(connection)
            return
        self._release(connection)
        task = self._loop.create_task(self._start(connection, self._tls if first == HANDSHAKE else None))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start(self, connection: socket.socket, tls: ssl.SSLContext | None) -> None:
        # A handshake that fails, or a peer that has gone meanwhile, is no trouble of ours.
        try:
            await self._loop.connect_accepted_socket(
                self._make_protocol,
                connection,
                ssl=tls,
                ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT_S if tls else None,
                ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT_S if tls else None,
            )
        except OSError as error:
            logger.debug("connection not begun", extra={"error": str(error)})
            connection.close()

    def _drop(self, connection: socket.socket) -> None:
        self._release(connection)
        connection.close()

    def _release(self, connection: socket.socket) -> None:
        self._silent.pop(connection).cancel()
        with suppress(OSError):
            self._loop.remove_reader(connection)
