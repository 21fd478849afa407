"""TCP and TLS to a relay (nat-traversal reference §1.10).

Addresses are tried as Happy Eyeballs does (RFC 8305), IPv6 first where it is usable.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from aiohappyeyeballs import AddrInfoType

from derp.connect import MarkSocket, connect, lookup
from derp.errors import CannotConnect, reason_of
from derp.relay_node import RelayNode
from derp.trust import MakeContext, check_peer, client_context
from meshproto.addresses import is_address

__all__ = ["DialOptions", "MarkSocket", "dial"]

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
    return await connect(
        node.host_name,
        node.port,
        uses_tls=node.uses_tls,
        mark=options.mark,
        resolve=lambda: _addresses(node),
        use_proxy=options.use_proxy,
    )


async def _addresses(node: RelayNode) -> list[AddrInfoType]:
    """Those of both families, IPv6 first. A name that does not resolve matters only without any address."""
    families = ((socket.AF_INET6, node.ipv6), (socket.AF_INET, node.ipv4))
    literal: list[AddrInfoType] = [
        (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (text, node.port))
        for family, text in families
        if is_address(text)
    ]
    unsaid = {family for family, text in families if not text}
    resolved: list[AddrInfoType] = []
    if unsaid:
        try:
            resolved = await lookup(node.host_name, node.port)
        except (OSError, UnicodeError):
            if not literal:
                raise
    addresses = literal + [address for address in resolved if address[0] in unsaid]
    return sorted(addresses, key=lambda address: address[0] != socket.AF_INET6)


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
