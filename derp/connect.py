"""TCP to a server, through the HTTP proxy that the environment names, if it names one for that server.

The one place where that is decided: relays, the coordinator and whatever else a node asks over HTTP(S) are
reached from here. Addresses are tried as Happy Eyeballs does (RFC 8305).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from aiohappyeyeballs import AddrInfoType, start_connection

from derp import proxy
from derp.errors import ProxyFailed, reason_of

NEXT_ADDRESS_AFTER_S = 0.2
FIRST_PATIENCE_S = (1.2, 1.2)
"""How long all addresses may say nothing until we begin anew. TCP repeats its first segment after 1, 3 and 7
seconds: too seldom for a path that comes back. After these, there is no limit here, for very long paths."""

MarkSocket = Callable[[socket.socket], None]
"""Called with each new socket before it connects: a node's own must not go into its tunnel."""

Resolve = Callable[[], Awaitable[list[AddrInfoType]]]


async def connect(
    host: str,
    port: int,
    *,
    uses_tls: bool,
    mark: MarkSocket,
    resolve: Resolve | None = None,
    use_proxy: bool = True,
) -> socket.socket:
    """A socket on which the server listens at the other end. There is no limit of time.

    `uses_tls`: whether TLS will follow, for which another proxy may be named. `resolve` knows the addresses
    of `host` better than DNS does; a proxy is given the name. Raises OSError or UnicodeError when the server
    cannot be reached, and ProxyFailed when the proxy cannot, or refuses.
    """
    through = proxy.from_environment(host, port, uses_tls=uses_tls) if use_proxy else None
    if through is None:
        return await _connect_any(await (resolve() if resolve else lookup(host, port)), mark)
    try:
        connected = await _connect_any(await lookup(through.host, through.port), mark)
    except (OSError, UnicodeError) as error:
        raise ProxyFailed(f"{through} {reason_of(error)}") from error
    try:
        await proxy.connect_through(through, connected, host, port)
    except BaseException as error:
        connected.close()
        if isinstance(error, OSError):
            raise ProxyFailed(f"{through} {reason_of(error)}") from error
        raise
    return connected


async def lookup(host: str, port: int) -> list[AddrInfoType]:
    """The addresses of a name, as the system finds them. Raises OSError or UnicodeError."""
    return list(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))


async def _connect_any(addresses: list[AddrInfoType], mark: MarkSocket) -> socket.socket:
    """The first socket that connects. Raises OSError when none does."""
    if not addresses:
        raise OSError("no address to try")

    def make(address: AddrInfoType) -> socket.socket:
        made = socket.socket(*address[:3])
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            mark(made)
        except BaseException:
            made.close()
            raise
        return made

    async def connect_once() -> socket.socket:
        return await start_connection(
            addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S, socket_factory=make
        )

    for patience in FIRST_PATIENCE_S:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience + NEXT_ADDRESS_AFTER_S * len(addresses)):
                return await connect_once()
    return await connect_once()
