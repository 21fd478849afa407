"""The node's UDP port: one socket per address family, both on the same port (reference §6.7)."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from meshnode.dataplane import DropReason
from meshnode.engine.udp_socket import SendState, UdpOptions, UdpSocket
from meshproto.addresses import AddrPort

__all__ = ["UdpOptions", "UdpPortInUse", "UdpSockets", "UdpUnavailable"]

SO_SNDBUFFORCE: Final = 32
SO_RCVBUFFORCE: Final = 33
SOCKET_BUFFER_SIZE: Final = 7 * 1024 * 1024
"""Bytes, about 110 batches; the default of 208 KiB costs a quarter of the throughput."""

MAX_PORT_ATTEMPTS: Final = 100
ALL_ON: Final = UdpOptions()
_NO_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL)

log = logging.getLogger(__name__)


class UdpUnavailable(Exception):
    """No socket could be opened; the message says why and what to do."""


class UdpPortInUse(UdpUnavailable):
    """Another program has the port."""


class UdpSockets:
    """One socket for each family that the machine has. `state` says what could not be sent."""

    def __init__(
        self,
        sockets: Sequence[UdpSocket],
        state: SendState,
        port: int,
        *,
        fwmark: int = 0,
        options: UdpOptions = ALL_ON,
    ) -> None:
        self.sockets = tuple(sockets)
        self.state = state
        self.drops = state.drops
        self.local_port = port
        self._fwmark = fwmark
        self._options = options
        self._ipv4 = self._of(socket.AF_INET)
        self._ipv6 = self._of(socket.AF_INET6)

    @classmethod
    def open(cls, port: int = 0, *, fwmark: int = 0, options: UdpOptions = ALL_ON) -> UdpSockets:
        """Bind `port` of every family, or with 0 one that is free in all. IPv6 may be missing.

        `fwmark` goes on every packet, for policy routing, where we have CAP_NET_ADMIN. Raises UdpPortInUse,
        UdpUnavailable.
        """
        for _ in range(1 if port else MAX_PORT_ATTEMPTS):
            ipv4 = _bind(socket.AF_INET, port)
            bound = ipv4.getsockname()[1] if ipv4 is not None else port
            try:
                ipv6 = _bind(socket.AF_INET6, bound)
            except UdpPortInUse:
                if ipv4 is None:
                    raise
                if not port:
                    ipv4.close()
                    continue
                ipv6 = None
                log.warning("UDP port %d is in use over IPv6: going on with IPv4 only", port)
            found = [sock for sock in (ipv4, ipv6) if sock is not None]
            if not found:
                raise UdpUnavailable("the machine has neither IPv4 nor IPv6")
            state = SendState()
            for sock in found:
                _tune(sock, fwmark)
            local_port = found[0].getsockname()[1]
            sockets = [UdpSocket(sock, options, state) for sock in found]
            return cls(sockets, state, local_port, fwmark=fwmark, options=options)
        raise UdpPortInUse("no UDP port is free in both IPv4 and IPv6: give one")

    def send(self, data: memoryview, stride: int, destination: AddrPort) -> None:
        """See `UdpSocket.send`. A destination of a family that the machine lacks is counted as lost."""
        sock = self.socket_for(destination)
        if sock is None:
            self.drops[DropReason.SEND_FAILED] += -(-len(data) // stride)
            return
        sock.send(data, stride, destination)

    def try_send(self, datagram: bytes, destination: AddrPort, *, dont_fragment: bool = False) -> bool:
        """See `UdpSocket.try_send`."""
        sock = self.socket_for(destination)
        return sock is not None and sock.try_send(datagram, destination, dont_fragment=dont_fragment)

    def socket_for(self, destination: AddrPort) -> UdpSocket | None:
        """The socket of that family, if the machine has it."""
        return self._ipv6 if ":" in destination.host else self._ipv4

    @property
    def has_ipv6(self) -> bool:
        """Whether there is a socket of that family."""
        return self._ipv6 is not None

    def open_auxiliary(self, towards: AddrPort) -> UdpSocket:
        """One more socket, on a port of its own, that can send to `towards`. Raises UdpUnavailable."""
        sock = _bind(socket.AF_INET6 if ":" in towards.host else socket.AF_INET, 0)
        if sock is None:
            raise UdpUnavailable(f"the machine cannot send to {towards}")
        _mark(sock, self._fwmark)
        return UdpSocket(sock, self._options, self.state)

    def close(self) -> None:
        """Close all sockets. Safe to call again."""
        for sock in self.sockets:
            sock.close()

    def _of(self, family: int) -> UdpSocket | None:
        return next((sock for sock in self.sockets if sock.family == family), None)


def _bind(family: int, port: int) -> socket.socket | None:
    """A socket on `port`, or None when the machine does not have the family."""
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        if error.errno in _NO_FAMILY:
            return None
        raise UdpUnavailable(f"cannot open a UDP socket: {error.strerror}") from error
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind(("", port))
    except OSError as error:
        sock.close()
        if error.errno in _NO_FAMILY:
            return None
        if error.errno == errno.EADDRINUSE:
            raise UdpPortInUse(
                f"UDP port {port} is in use by another program: choose another, or 0"
            ) from error
        if error.errno == errno.EACCES:
            raise UdpUnavailable(f"UDP port {port} needs root: choose one above 1023, or 0") from error
        raise UdpUnavailable(f"cannot bind UDP port {port}: {error.strerror}") from error
    return sock


def _tune(sock: socket.socket, fwmark: int) -> None:
    """Large buffers, and the mark: each as far as it is permitted."""
    for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, SOCKET_BUFFER_SIZE)
        except OSError:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, plain, SOCKET_BUFFER_SIZE)
    _mark(sock, fwmark)


def _mark(sock: socket.socket, fwmark: int) -> None:
    if fwmark:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, fwmark)
        except OSError as error:
            log.warning(
                "packets are sent without mark (%s): an exit node's routes may catch them", error.strerror
            )
