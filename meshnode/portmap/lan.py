"""Datagrams between us and the gateway: one question and its answer, and what a gateway says unasked.

Only what comes from the gateway's own address is looked at.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address
from typing import Generic, TypeVar, cast

from meshnode.control.dial import MarkSocket
from meshnode.portmap.mapping import Lan, MappingFailed

__all__ = ["Listener", "ask", "collect", "listen", "udp_socket"]

log = logging.getLogger(__name__)

Reply = TypeVar("Reply")

MULTICAST_TTL = 2
"""UPnP Device Architecture 1.1 §1.1."""


def udp_socket(mark: MarkSocket, local: IPv4Address, port: int = 0, *, shared: bool = False) -> socket.socket:
    """A non-blocking, marked socket at a local address. Raises OSError.

    `shared` lets other programs have the same address and port, as they must for multicast.
    """
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        mark(sock)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((str(local), port))
    except BaseException:
        sock.close()
        raise
    return sock


class _Answers(asyncio.DatagramProtocol, Generic[Reply]):
    """Waits for the first datagram that `accept` makes something of, or for the news that nobody is there."""

    def __init__(self, accept: Callable[[bytes], Reply | None]) -> None:
        self._accept = accept
        self.answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.answer.done():
            return
        reply = self._accept(data)
        if reply is not None:
            self.answer.set_result(reply)

    def error_received(self, exc: Exception) -> None:
        if isinstance(exc, ConnectionRefusedError) and not self.answer.done():
            self.answer.set_exception(MappingFailed("the gateway has no such service"))


async def ask(
    lan: Lan,
    port: int,
    request: bytes,
    accept: Callable[[bytes], Reply | None],
    waits: Iterable[float],
    mark: MarkSocket,
) -> Reply:
    """Send a request to a port of the gateway until it is answered: once for each of the `waits` in seconds.

    The socket is connected, so that the kernel lets nothing in that is not from there, and every request has
    its own. Raises MappingFailed.
    """
    loop = asyncio.get_running_loop()
    try:
        sock = udp_socket(mark, lan.self_ip)
        try:
            sock.connect((str(lan.gateway), port))
            transport, protocol = await loop.create_datagram_endpoint(lambda: _Answers(accept), sock=sock)
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise MappingFailed(f"the gateway cannot be asked: {error}") from error
    try:
        for wait in waits:
            transport.sendto(request)
            await asyncio.wait([protocol.answer], timeout=wait)
            if protocol.answer.done():
                return protocol.answer.result()
    finally:
        transport.close()
        protocol.answer.cancel()
    raise MappingFailed("the gateway does not answer")


class Listener(asyncio.DatagramProtocol):
    """Gives every datagram that the gateway sends to a callback, until `close`."""

    def __init__(self, gateway: IPv4Address, receive: Callable[[bytes], None]) -> None:
        self._gateway = str(gateway)
        self._receive = receive
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)  # uvloop's is one without saying so

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if addr[0] == self._gateway:
            self._receive(data)

    def error_received(self, exc: Exception) -> None:
        log.debug("a socket for messages of the gateway: %s", exc)

    def send(self, datagram: bytes, address: IPv4Address, port: int) -> None:
        """Nothing is raised if it cannot be sent."""
        assert self._transport is not None
        self._transport.sendto(datagram, (str(address), port))

    def close(self) -> None:
        """Close the socket. Safe to call again."""
        if self._transport is not None:
            self._transport.close()


async def collect(lan: Lan, receive: Callable[[bytes], None], mark: MarkSocket) -> Listener:
    """A socket to send searches from, to groups too, and to hear the gateway's answers. Raises OSError."""
    sock = udp_socket(mark, lan.self_ip)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, lan.self_ip.packed)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, MULTICAST_TTL)
    return await _attach(sock, lan, receive)


async def listen(
    lan: Lan, group: IPv4Address, port: int, receive: Callable[[bytes], None], mark: MarkSocket
) -> Listener:
    """Hear what the gateway sends to a multicast group, on the interface with our address. Raises OSError."""
    sock = udp_socket(mark, group, port, shared=True)
    try:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group.packed + lan.self_ip.packed)
    except OSError:
        sock.close()
        raise
    return await _attach(sock, lan, receive)


async def _attach(sock: socket.socket, lan: Lan, receive: Callable[[bytes], None]) -> Listener:
    loop = asyncio.get_running_loop()
    try:
        _, listener = await loop.create_datagram_endpoint(lambda: Listener(lan.gateway, receive), sock=sock)
    except BaseException:
        sock.close()
        raise
    return listener
