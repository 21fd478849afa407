"""Where datagrams leave: the main sockets, auxiliary ones, peer relays and DERP."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from meshnode.dataplane import DropReason
from meshnode.disco.destinations import AuxPath, DerpDestination, Destination, RelayPath, Via
from meshnode.disco.events import Datagram
from meshnode.disco.geneve import WIREGUARD, GeneveHeader
from meshnode.engine.udp import UdpSockets, UdpUnavailable
from meshnode.engine.udp_socket import UdpSocket
from meshproto.addresses import AddrPort
from meshproto.keys import NodePublic

__all__ = ["AuxSockets", "PathCounts", "RelaySend", "Wire"]

MAX_KNOWN_PATHS: Final = 4096
"""Paths whose kind is remembered."""

RelaySend = Callable[[int, NodePublic, bytes | memoryview, int], None]
"""Gives datagrams for a peer, all but the last of this length, to the DERP relays of a region. They are
copied, and may be lost on the way."""


def path_kind(via: Via) -> str:
    """The name that metrics give to such a path."""
    if isinstance(via, DerpDestination):
        return "derp"
    kind = "peer_relay" if isinstance(via, RelayPath) else "direct"
    address = via if isinstance(via, AddrPort) else via.address
    return f"{kind}_ipv6" if ":" in address.host else f"{kind}_ipv4"


class _Count:
    __slots__ = ("bytes", "packets")

    def __init__(self) -> None:
        self.packets = 0
        self.bytes = 0


class PathCounts:
    """WireGuard datagrams and their bytes, by the kind of path that they take."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Count] = {}
        self._known: dict[Via, _Count] = {}  # what to add to: asking for the kind costs more than counting

    @property
    def packets(self) -> dict[str, int]:
        """Datagrams by kind."""
        return {kind: count.packets for kind, count in self._kinds.items()}

    @property
    def bytes(self) -> dict[str, int]:
        """Bytes by kind."""
        return {kind: count.bytes for kind, count in self._kinds.items()}

    def count(self, via: Via, size: int, packets: int) -> None:
        """`size` bytes in so many datagrams."""
        count = self._known.get(via)
        if count is None:
            if len(self._known) >= MAX_KNOWN_PATHS:
                self._known.clear()
            count = self._known[via] = self._kinds.setdefault(path_kind(via), _Count())
        count.bytes += size
        count.packets += packets


class AuxSockets:
    """The auxiliary sockets that hard NATs call for (`meshnode.disco.spray`), opened when first sent from."""

    def __init__(
        self, udp: UdpSockets, loop: asyncio.AbstractEventLoop, on_readable: Callable[[UdpSocket, int], None]
    ) -> None:
        self._udp = udp
        self._loop = loop
        self._on_readable = on_readable
        self._open: dict[int, UdpSocket] = {}

    def get(self, path: AuxPath) -> UdpSocket | None:
        """The socket that `path` leaves from; None when the host gives us no more of them."""
        found = self._open.get(path.socket)
        if found is None:
            try:
                found = self._udp.open_auxiliary(path.address)
            except UdpUnavailable:
                return None
            self._open[path.socket] = found
            self._loop.add_reader(found.fileno(), self._on_readable, found, path.socket)
        return found

    def release(self, numbers: Iterable[int]) -> None:
        """Close these, as far as they were ever opened."""
        for number in numbers:
            released = self._open.pop(number, None)
            if released is not None:
                self._loop.remove_reader(released.fileno())
                self._loop.remove_writer(released.fileno())
                released.close()

    def close(self) -> None:
        """Close all. Safe to call again."""
        self.release(list(self._open))


class Wire:
    """Sends to every kind of destination. What goes no further is counted in `drops`."""

    def __init__(self, udp: UdpSockets, aux: AuxSockets) -> None:
        self._udp = udp
        self._aux = aux
        self.drops: Counter[DropReason] = udp.drops
        self.sent = PathCounts()
        self.blocked = udp.state.blocked
        """The sockets with a backlog."""
        self.unreachable = udp.state.unreachable
        """Where the host had no way to. Whoever deals with it clears it."""
        self.relay: RelaySend = self._no_relay

    def send(self, data: memoryview, stride: int, destination: Destination) -> None:
        """Send `data` as datagrams of `stride` bytes, the last maybe shorter: one GSO unit at most."""
        self.sent.count(destination, len(data), -(-len(data) // stride))
        self.deliver(data, stride, destination)

    def deliver(self, data: memoryview, stride: int, destination: Destination) -> None:
        """The same for what was counted already."""
        if isinstance(destination, AddrPort):
            self._udp.send(data, stride, destination)
        elif isinstance(destination, AuxPath):
            sock = self._aux.get(destination)
            if sock is None:
                self.drops[DropReason.SEND_FAILED] += -(-len(data) // stride)
            else:
                sock.send(data, stride, destination.address)
        elif isinstance(destination, RelayPath):
            header = GeneveHeader(WIREGUARD, destination.vni).encode()
            for start in range(0, len(data), stride):
                wrapped = memoryview(header + data[start : start + stride])
                self._udp.send(wrapped, len(wrapped), destination.address)
        else:
            self.relay(destination.region_id, destination.peer, data, stride)

    def socket_for(self, destination: Destination) -> tuple[UdpSocket, AddrPort] | None:
        """The socket that batches for `destination` leave from as they are, and where to."""
        sock: UdpSocket | None = None
        address = destination if isinstance(destination, AddrPort) else None
        if isinstance(destination, AddrPort):
            sock = self._udp.socket_for(destination)
        elif isinstance(destination, AuxPath):
            sock, address = self._aux.get(destination), destination.address
        if sock is None or address is None or not sock.takes_batches:
            return None
        return sock, address

    def send_disco(self, datagram: Datagram) -> None:
        """Send a disco message, now or not at all: it is repeated where it matters."""
        payload, destination = datagram.payload, datagram.destination
        if isinstance(destination, DerpDestination):
            self.relay(destination.region_id, destination.peer, payload, len(payload))
        elif isinstance(destination, AuxPath):
            sock = self._aux.get(destination)
            if sock is not None:
                sock.try_send(payload, destination.address, dont_fragment=datagram.dont_fragment)
        else:
            address = destination.address if isinstance(destination, RelayPath) else destination
            self._udp.try_send(payload, address, dont_fragment=datagram.dont_fragment)

    def _no_relay(self, region_id: int, peer: NodePublic, data: bytes | memoryview, stride: int) -> None:
        self.drops[DropReason.NO_DESTINATION] += -(-len(data) // stride)
