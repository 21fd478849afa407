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
from ipaddress import ip_address
from typing import Any, TypeVar

from derp import proxy
from derp.errors import CannotConnect, reason_of
from derp.relay_node import RelayNode
from derp.trust import MakeContext, check_peer, client_context

NEXT_ADDRESS_AFTER_S = 0.2

MarkSocket = Callable[[socket.socket], None]
"""Called with each new socket before it connects: a node's own must not go into its tunnel."""

Address = tuple[socket.AddressFamily, Any]
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


async def _addresses(node: RelayNode) -> list[Address]:
    """IPv6 and IPv4 in turn. A name that does not resolve matters only if there is no address at all."""
    literal = [
        (socket.AF_INET6 if ":" in text else socket.AF_INET, (text, node.port))
        for text in (node.ipv6, node.ipv4)
        if _is_address(text)
    ]
    families = {
        family for family, text in ((socket.AF_INET6, node.ipv6), (socket.AF_INET, node.ipv4)) if not text
    }
    if not families:
        return literal
    try:
        resolved = await _resolve(node.host_name, node.port)
    except (OSError, UnicodeError):
        if not literal:
            raise
        resolved = []
    return _interleaved(literal + [address for address in resolved if address[0] in families])


async def _resolve(host: str, port: int) -> list[Address]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


def _interleaved(addresses: list[Address]) -> list[Address]:
    ipv6 = [address for address in addresses if address[0] == socket.AF_INET6]
    ipv4 = [address for address in addresses if address[0] == socket.AF_INET]
    in_turn: list[Address] = []
    while ipv6 or ipv4:
        in_turn += ipv6[:1] + ipv4[:1]
        ipv6, ipv4 = ipv6[1:], ipv4[1:]
    return in_turn


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


async def _connect_any(addresses: list[Address], mark: MarkSocket) -> socket.socket:
    """The first socket that connects. Raises the last error when none does."""
    waiting = list(addresses)
    attempts: set[asyncio.Task[socket.socket]] = set()
    error: Exception = OSError("no address to try")
    try:
        while waiting or attempts:
            if waiting:
                attempts.add(asyncio.create_task(_connect_to(waiting.pop(0), mark)))
            done, attempts = await asyncio.wait(
                attempts,
                timeout=NEXT_ADDRESS_AFTER_S if waiting else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            connected = [task.result() for task in done if task.exception() is None]
            for spare in connected[1:]:
                spare.close()
            if connected:
                return connected[0]
            error = next((e for task in done if isinstance(e := task.exception(), Exception)), error)
    finally:
        for task in attempts:
            task.cancel()
            task.add_done_callback(_close_late)
    raise error


async def _connect_to(address: Address, mark: MarkSocket) -> socket.socket:
    family, where = address
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        mark(connecting)
        await asyncio.get_running_loop().sock_connect(connecting, where)
    except BaseException:
        connecting.close()
        raise
    return connecting


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


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
