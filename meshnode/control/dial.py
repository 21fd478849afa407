"""TCP and TLS to the coordinator, on sockets that carry our fwmark, so that an exit node never takes them in.

An HTTP proxy that the environment names is gone through, as to relays (see `derp.connect`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl

from derp.connect import MarkSocket, connect
from derp.errors import ProxyFailed
from meshnode.control import errors
from meshnode.control.server_url import ServerURL

DIAL_TIMEOUT_S = 10.0
"""For resolving, connecting and TLS together (control protocol §2.2)."""

KEEP_ALIVE = (
    (socket.TCP_KEEPIDLE, 30),
    (socket.TCP_KEEPINTVL, 10),
    (socket.TCP_KEEPCNT, 3),
)
"""Notices in a minute that the other end has vanished, also while a person takes their time to approve us."""

__all__ = ["MarkSocket", "Streams", "dial", "unreachable"]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def dial(server: ServerURL, mark: MarkSocket, tls: ssl.SSLContext | None = None) -> Streams:
    """A stream to the server's port, inside TLS where the URL says https.

    Raises Unreachable or TlsFailure. `tls` replaces the system's trust settings in tests.
    """
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            return await _open_streams(server, await _connect(server, mark), tls)
    except TimeoutError as error:
        raise errors.no_answer(str(server), DIAL_TIMEOUT_S) from error


async def _connect(server: ServerURL, mark: MarkSocket) -> socket.socket:
    try:
        connected = await connect(server.host, server.port, uses_tls=server.is_tls, mark=mark)
    except (socket.gaierror, UnicodeError) as error:
        raise errors.unknown_host(str(server), server.host) from error
    except ProxyFailed as error:
        raise errors.proxy_failed(str(server), str(error)) from error
    except OSError as error:
        raise unreachable(server, error) from error
    for option, value in KEEP_ALIVE:
        connected.setsockopt(socket.IPPROTO_TCP, option, value)
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return connected


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
