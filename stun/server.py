"""Sockets around a `Responder`: UDP over IPv4 and IPv6, answers from the very address that was asked.

On a machine with several addresses a socket bound to none of them would answer from whichever the routes
prefer, and a NAT would not let that in. So the kernel says with each datagram where it was sent to.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from stun import kernel_filter
from stun.messages import TransportAddress
from stun.responder import Reply, Responder
from stun.socket_drops import dropped

BATCH_SIZE = 64  # datagrams per turn of the event loop, so that a flood leaves time for others
MAX_DATAGRAM = 2048  # bytes; no request that we answer comes near
RECEIVE_BUFFER_SIZE = 1024 * 1024  # bytes in the kernel: bursts wait instead of being lost
MAX_LOCALS = 256  # addresses of ours that are remembered in the form in which they are used

_NO_IPV6 = "cannot be used: this machine has no IPv6"
_IP_PKTINFO = 8  # linux/in.h; the socket module has no name for it
_IPV4_PACKET_INFO = struct.Struct("=i4s4s")  # interface, local address, destination
_IPV6_PACKET_INFO = struct.Struct("=16si")  # destination, interface
_ANCILLARY_SIZE = socket.CMSG_SPACE(_IPV6_PACKET_INFO.size)


class CannotListen(Exception):
    """An address cannot be served; `str()` says why and what to do."""

    def __init__(self, address: TransportAddress, reason: str, *, is_family_missing: bool = False) -> None:
        """`is_family_missing`: this machine has no IPv6."""
        super().__init__(f"{address} {reason}")
        self.address = address
        self.is_family_missing = is_family_missing


class StunServer:
    """Answers on each of `addresses` until closed."""

    def __init__(self, responder: Responder, endpoints: Sequence[_Endpoint]) -> None:
        self.responder = responder
        self._endpoints = {endpoint.address: endpoint for endpoint in endpoints}
        self._loop = asyncio.get_running_loop()
        for endpoint in endpoints:
            self._loop.add_reader(endpoint.socket, self._read, endpoint)

    @classmethod
    def open(cls, addresses: Sequence[TransportAddress], responder: Responder) -> StunServer:
        """Start to answer, on the running event loop. Raises CannotListen."""
        endpoints: list[_Endpoint] = []
        try:
            for address in addresses:
                endpoints.append(_Endpoint(address))
        except CannotListen:
            for endpoint in endpoints:
                endpoint.socket.close()
            raise
        return cls(responder, endpoints)

    @property
    def addresses(self) -> list[TransportAddress]:
        """Where it listens, with the ports that were chosen for 0."""
        return list(self._endpoints)

    @property
    def kernel_drops(self) -> int:
        """Datagrams that never reached the responder: no binding requests, or too many at once."""
        return sum(dropped(endpoint.socket) for endpoint in self._endpoints.values())

    def close(self) -> None:
        """Stop answering."""
        for endpoint in self._endpoints.values():
            self._loop.remove_reader(endpoint.socket)
            endpoint.socket.close()
        self._endpoints = {}

    def _read(self, endpoint: _Endpoint) -> None:
        now = self._loop.time()
        for _ in range(BATCH_SIZE):
            try:
                datagram, source, local = endpoint.receive()
            except BlockingIOError:
                return
            except OSError:
                continue  # the network's complaint about an earlier answer
            asker = TransportAddress(source[0], source[1])
            reply = self.responder.respond(datagram, asker, local, now)
            if isinstance(reply, Reply):
                destination = (source[0], reply.port, *source[2:])
                self._endpoints.get(reply.sender, endpoint).send(reply, destination)


class _Endpoint:
    """A bound socket that knows where datagrams were sent to."""

    def __init__(self, wanted: TransportAddress) -> None:
        self._is_ipv6 = ":" in wanted.host
        self.socket = _bind(wanted)
        self.address = TransportAddress(*self.socket.getsockname()[:2])
        self._locals: dict[bytes, TransportAddress] = {}  # by what the kernel says of a datagram

    def receive(self) -> tuple[bytes, Any, TransportAddress]:
        """A datagram, its source as the socket module writes it, and where it was sent to."""
        datagram, ancillary, _, source = self.socket.recvmsg(MAX_DATAGRAM, _ANCILLARY_SIZE)
        for _, kind, info in ancillary:
            if kind in (_IP_PKTINFO, socket.IPV6_PKTINFO):
                return datagram, source, self._locals.get(info) or self._local(info)
        return datagram, source, self.address

    def _local(self, info: bytes) -> TransportAddress:
        """Where a datagram was sent to, of which the kernel says `info`."""
        if self._is_ipv6:
            host = socket.inet_ntop(socket.AF_INET6, _IPV6_PACKET_INFO.unpack(info)[0])
        else:
            host = socket.inet_ntop(socket.AF_INET, _IPV4_PACKET_INFO.unpack(info)[2])
        if len(self._locals) >= MAX_LOCALS:
            self._locals.clear()
        local = self._locals[info] = TransportAddress(host, self.address.port)
        return local

    def send(self, reply: Reply, destination: Any) -> None:
        """Send from the address that the reply names. What the network refuses is lost."""
        with suppress(OSError):
            self.socket.sendmsg(
                [reply.datagram], [self._from(reply.sender.host, destination)], 0, destination
            )

    def _from(self, host: str, destination: Any) -> tuple[int, int, bytes]:
        if not self._is_ipv6:
            local = socket.inet_pton(socket.AF_INET, host)
            return socket.IPPROTO_IP, _IP_PKTINFO, _IPV4_PACKET_INFO.pack(0, local, bytes(4))
        local = socket.inet_pton(socket.AF_INET6, host)
        scope = destination[3]  # non-zero for link-local addresses, which mean nothing without interface
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IPV6_PACKET_INFO.pack(local, scope)


def _bind(wanted: TransportAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    try:
        bound = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError as error:
        raise CannotListen(wanted, _NO_IPV6, is_family_missing=True) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_SIZE)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        with suppress(OSError):  # a saving, not a need: the responder judges everything that comes
            kernel_filter.attach(bound)
        bound.bind((wanted.host, wanted.port))
    except (OSError, OverflowError) as error:
        bound.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL and wanted.host == "::":
            raise CannotListen(wanted, _NO_IPV6, is_family_missing=True) from error
        raise CannotListen(wanted, _reason(error)) from error
    return bound


def _reason(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        return "is in use by another program; stop that one, or choose another port"
    if number == errno.EADDRNOTAVAIL:
        return "is not an address of this machine; choose one, or 0.0.0.0 or [::] for all"
    if number in (errno.EACCES, errno.EPERM):
        return "is not permitted; run as root, or choose a port above 1023"
    return f"cannot be used: {error}"
