"""TCP and TLS to a relay (nat-traversal reference §1.10).

Addresses are tried as Happy Eyeballs does (RFC 8305), IPv6 first where it is usable.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TypeVar

from aiohappyeyeballs import AddrInfoType, start_connection

from derp import proxy
from derp.errors import CannotConnect, reason_of
from derp.relay_node import RelayNode
from derp.trust import MakeContext, check_peer, client_context

NEXT_ADDRESS_AFTER_S = 0.2
FIRST_PATIENCE_S = (1.2, 1.2)
"""How long all addresses may say nothing until we begin anew. TCP repeats its first segment after 1, 3 and 7
seconds: too seldom for a path that comes back. After these, there is no limit here, for very long paths."""

MarkSocket = Callable[[socket.socket], None]
"""Called with each new socket before it connects: a node's own must not go into its tunnel."""

ProtocolT = TypeVar("ProtocolT", bound=asyncio.BaseProtocol)


def _leave_alone(_: socket.socket) -> None:
    """For who has no tunnel."""


@dataclass(frozen=True, slots=True)
class DialOptions:
    """How to reach relays."""

    mark: MarkSocket = _leave_alone
    make_tls: MakeContext = ssl.create_default_context
    use_proxy: bool = True
    """Whether to go through the proxy that the environment names, if it names one."""


async def dial(node: RelayNode, options: DialOptions, protocol: Callable[[], ProtocolT]) -> ProtocolT:
    """A protocol that is connected to the relay, inside TLS where it has that. Raises CannotConnect."""
    try:
        connected = await _connect(node, options)
        return await _start(node, options, connected, protocol)
    except (OSError, UnicodeError) as error:
        raise CannotConnect(f"{node} {reason_of(error)}") from error


async def _connect(node: RelayNode, options: DialOptions) -> socket.socket:
    through = proxy.from_environment(node) if options.use_proxy else None
    if through is None:
        return await _connect_any(await _addresses(node), options.mark)
    try:
        connected = await _connect_any(await _resolve(through.host, through.port), options.mark)
    except (OSError, UnicodeError) as error:
        raise CannotConnect(f"{through} {reason_of(error)}") from error
    try:
        await proxy.connect_through(through, connected, node)
    except BaseException:
        connected.close()
        raise
    return connected


async def _addresses(node: RelayNode) -> list[AddrInfoType]:
    """Those of both families, IPv6 first. A name that does not resolve matters only without any address."""
    families = ((socket.AF_INET6, node.ipv6), (socket.AF_INET, node.ipv4))
    literal: list[AddrInfoType] = [
        (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (text, node.port))
        for family, text in families
        if _is_address(text)
    ]
    unsaid = {family for family, text in families if not text}
    resolved: list[AddrInfoType] = []
    if unsaid:
        try:
            resolved = await _resolve(node.host_name, node.port)
        except (OSError, UnicodeError):
            if not literal:
                raise
    addresses = literal + [address for address in resolved if address[0] in unsaid]
    return sorted(addresses, key=lambda address: address[0] != socket.AF_INET6)


async def _resolve(host: str, port: int) -> list[AddrInfoType]:
    return list(await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


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

    async def connect() -> socket.socket:
        return await start_connection(
            addresses, happy_eyeballs_delay=NEXT_ADDRESS_AFTER_S, socket_factory=make
        )

    for patience in FIRST_PATIENCE_S:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience + NEXT_ADDRESS_AFTER_S * len(addresses)):
                return await connect()
    return await connect()


async def _start(
    node: RelayNode, options: DialOptions, connected: socket.socket, protocol: Callable[[], ProtocolT]
) -> ProtocolT:
    loop = asyncio.get_running_loop()
    context = client_context(node, options.make_tls) if node.uses_tls else None
    name = node.host_name if node.uses_tls else None
    try:
        transport, started = await loop.create_connection(
            protocol, sock=connected, ssl=context, server_hostname=name
        )
    except BaseException:
        connected.close()
        raise
    try:
        if node.uses_tls:
            check_peer(node, transport.get_extra_info("ssl_object"), datetime.now(UTC))
    except CannotConnect:
        transport.abort()
        raise
    return started
