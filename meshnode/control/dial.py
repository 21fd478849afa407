"""TCP and TLS to the coordinator, on sockets that carry our fwmark, so that an exit node never takes them in.

Addresses are tried as Happy Eyeballs does (RFC 8305): the next one starts when the last one failed or has
been silent for a quarter of a second; the first that connects wins.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

from meshnode.control import errors
from meshnode.control.server_url import ServerURL

DIAL_TIMEOUT_S = 10.0
"""For resolving, connecting and TLS together (control protocol §2.2)."""
NEXT_ADDRESS_AFTER_S = 0.25

KEEP_ALIVE = (
    (socket.TCP_KEEPIDLE, 30),
    (socket.TCP_KEEPINTVL, 10),
    (socket.TCP_KEEPCNT, 3),
)
"""Notices in a minute that the other end has vanished, also while a person takes their time to approve us."""

MarkSocket = Callable[[socket.socket], None]
"""Called with each new socket before it connects."""

Address = tuple[socket.AddressFamily, Any]
"""A family and what `connect` takes for it."""
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dial(server: ServerURL, mark: MarkSocket, tls: ssl.SSLContext | None = None) -> Streams:
    """A stream to the server's port, inside TLS where the URL says https.

    Raises Unreachable or TlsFailure. `tls` replaces the system's trust settings in tests.
    """
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            connected = await _connect_any(server, await _resolve(server), mark)
            return await _open_streams(server, connected, tls)
    except TimeoutError as error:
        raise errors.no_answer(str(server), DIAL_TIMEOUT_S) from error


async def _resolve(server: ServerURL) -> list[Address]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise errors.unknown_host(str(server), server.host) from error
    return [(family, address) for family, _, _, _, address in found]


async def _connect_any(server: ServerURL, addresses: Sequence[Address], mark: MarkSocket) -> socket.socket:
    """The first socket that connects. When none does, the first address's error is the one to report."""
    failures: list[OSError] = []
    waiting = list(addresses)
    attempts: set[asyncio.Task[socket.socket]] = set()
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(asyncio.create_task(_connect(waiting.pop(0), mark)))
            done, attempts = await asyncio.wait(
                attempts,
                timeout=NEXT_ADDRESS_AFTER_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            winners = [task.result() for task in done if task.exception() is None]
            failures += [error for task in done if isinstance(error := task.exception(), OSError)]
            for spare in winners[1:]:
                spare.close()
            if winners:
                return winners[0]
    finally:
        for task in attempts:
            task.cancel()
            task.add_done_callback(_close_late_winner)
    raise unreachable(server, failures[0])


async def _connect(address: Address, mark: MarkSocket) -> socket.socket:
    family, where = address
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        for option, value in KEEP_ALIVE:
            connecting.setsockopt(socket.IPPROTO_TCP, option, value)
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        mark(connecting)
        await asyncio.get_running_loop().sock_connect(connecting, where)
    except BaseException:
        connecting.close()
        raise
    return connecting


def _close_late_winner(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


async def _open_streams(server: ServerURL, connected: socket.socket, tls: ssl.SSLContext | None) -> Streams:
    try:
        if not server.is_tls:
            return await asyncio.open_connection(sock=connected)
        context = tls or ssl.create_default_context()
        return await asyncio.open_connection(sock=connected, ssl=context, server_hostname=server.host)
    except ssl.SSLCertVerificationError as error:
        raise errors.untrusted(str(server), error.verify_message) from error
    except ssl.SSLError as error:
        raise errors.no_tls(str(server)) from error
    except OSError as error:
        raise unreachable(server, error) from error


def unreachable(server: ServerURL, error: OSError) -> errors.Unreachable:
    """The OS's refusal as a sentence."""
    if error.errno == errno.ECONNREFUSED:
        return errors.refused(str(server))
    if isinstance(error, TimeoutError):
        return errors.no_answer(str(server), DIAL_TIMEOUT_S)
    return errors.no_route(str(server), os.strerror(error.errno) if error.errno else str(error))
