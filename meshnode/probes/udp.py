"""UDP sockets for who has none yet: a free port of each family, marked as what must not be tunnelled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from derp.dial import MarkSocket
from meshproto.addresses import AddrPort

__all__ = ["UdpPair"]

_MAX_DATAGRAM: Final = 2048
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)

OnDatagram = Callable[[bytes, AddrPort], None]


class UdpPair:
    """Of the running event loop. A family that the machine does not have has no socket."""

    def __init__(self, mark: MarkSocket, on_datagram: OnDatagram) -> None:
        self._on_datagram = on_datagram
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[int, socket.socket] = {}
        for family in _FAMILIES:
            try:
                self._sockets[family] = _bind(family, mark)
            except OSError:
                continue
            self._loop.add_reader(self._sockets[family], self._read, self._sockets[family])

    def send(self, datagram: bytes, destination: AddrPort) -> bool:
        """False when the system refused it. A local firewall's refusal is none: to others it is silence."""
        sock = self._sockets.get(socket.AF_INET6 if ":" in destination.host else socket.AF_INET)
        if sock is None:
            return False
        try:
            sock.sendto(datagram, destination)
        except PermissionError:
            return True
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Safe to call again."""
        for sock in self._sockets.values():
            self._loop.remove_reader(sock)
            sock.close()
        self._sockets = {}

    def _read(self, sock: socket.socket) -> None:
        try:
            datagram, source = sock.recvfrom(_MAX_DATAGRAM)
        except OSError:  # the network's complaint about something that we sent
            return
        self._on_datagram(datagram, AddrPort(source[0], source[1]))


def _bind(family: int, mark: MarkSocket) -> socket.socket:
    made = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        mark(made)
        made.bind(("", 0))
    except OSError:
        made.close()
        raise
    return made
