"""The fast path and what it was told: the decisions that it repeats, and the books that are kept afterwards.

What it moves has left before anybody hears of it. `settle` lets the device and the paths know, soon enough
for their timers; `forget` is for whoever changes something that a flow was decided by: everything but data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from meshnode.dataplane import SEAL_BUFFER_SIZE, DropReason, SocketAddress, Turn, Unsent
from meshnode.disco.destinations import AuxPath, Destination, Path, as_source
from meshnode.disco.manager import Manager
from meshnode.engine.fast_path import FastPath
from meshnode.engine.udp_socket import UdpSocket, from_socket_address, to_socket_address
from meshnode.engine.wire import PathCounts, Wire
from meshnode.wireguard import Device, Kind
from meshproto.addresses import AddrPort
from meshproto.keys import NodePublic

__all__ = ["Flows"]

MAIN: Final = -1
"""The number of the main sockets for the fast path; auxiliary ones have their own."""

MAX_SOURCES: Final = 4096
"""Senders whose address is remembered in the form that the rest of the program has."""


class Flows:
    """Owns the fast path between the sockets of `wire` and the tunnel device with the descriptor `tun`."""

    def __init__(self, device: Device, paths: Manager, wire: Wire, tun: int) -> None:
        self.received = PathCounts()
        """Authentic transport data, by path."""
        self._device = device
        self._paths = paths
        self._wire = wire
        self._tunnel = device.gate, device.mtu, device.max_unit, device.coalescing
        self._fast_path = FastPath(tun, device.sessions, device.allowed_ips, *self._tunnel)
        self._known: dict[int, Destination] = {}  # what the fast path knows, by the device's number of a peer
        self._sources: dict[SocketAddress, AddrPort] = {}
        self._sealed = memoryview(bytearray(SEAL_BUFFER_SIZE))

    def turn(self, sock: UdpSocket | None, aux: int | None, reads_tun: bool, now: float) -> Turn | None:
        """See `PureFastPath.turn`. `aux` is the number of an auxiliary socket."""
        raw = sock.raw if sock is not None else None
        return self._fast_path.turn(raw, MAIN if aux is None else aux, reads_tun, now)

    def refresh(self, now: float) -> None:
        """Should be called at the end of every turn that was not all data."""
        device = self._device
        device.prepare(now)
        tunnel = device.gate, device.mtu, device.max_unit, device.coalescing
        if tunnel != self._tunnel:
            self._tunnel = tunnel
            self._fast_path.set_tunnel(*tunnel)

    def settle(self, now: float) -> None:
        """Let the device and the paths know what was moved."""
        sent, heard, drops = self._fast_path.take_moved()
        for one in heard:
            via = self.via(one.source, None if one.socket == MAIN else one.socket)
            self._device.data_received(one, as_source(via), now)
            self.received.count(via, one.datagram_bytes, one.packets)
        is_outdated = False
        for peer_id, packets, size in sent:
            destination = self._known[peer_id]
            self._wire.sent.count(destination, size, packets)
            peer = self._device.data_sealed(peer_id, size, now)
            if peer is not None:
                destinations = self._paths.destinations(peer, Kind.DATA, now)
                is_outdated |= len(destinations) != 1 or destinations[0] != destination
        if is_outdated:
            self._clear()
        if drops:
            self._wire.drops.update(drops)

    def forget(self, now: float) -> None:
        """Something may have changed that the flows were decided by."""
        if self._known:
            self.settle(now)
            self._clear()

    def resend(self, unsent: Iterable[Unsent], now: float) -> None:
        """Once more, by who knows what to do when that fails too."""
        for peer_id, datagrams, stride in unsent:
            self._wire.deliver(memoryview(datagrams), stride, self._known[peer_id])
        self.forget(now)

    def decide(self, read: memoryview, now: float) -> None:
        """Send one TUN read through the device, and tell the fast path how, if that holds for a while."""
        sealed = self._device.encapsulate(read, self._sealed, now)
        if sealed is None:
            return
        wire = self._wire
        destinations = self._paths.destinations(sealed.peer, Kind.DATA, now)
        if not destinations:
            wire.drops[DropReason.NO_DESTINATION] += sum(
                -(-unit.length // unit.stride) for unit in sealed.units
            )
        for offset, length, stride in sealed.units:
            for destination in destinations:
                wire.send(self._sealed[offset : offset + length], stride, destination)
        if len(destinations) == 1 and not wire.blocked:
            self._tell(sealed.peer, destinations[0], now)

    def via(self, sender: SocketAddress, aux: int | None) -> Path:
        """Where a datagram came from, as the paths know it."""
        address = self._sources.get(sender)
        if address is None:
            if len(self._sources) >= MAX_SOURCES:
                self._sources.clear()
            address = self._sources[sender] = from_socket_address(sender)
        return address if aux is None else AuxPath(address, aux)

    def _tell(self, peer: NodePublic, destination: Destination, now: float) -> None:
        way, flow = self._wire.socket_for(destination), self._device.flow(peer, now)
        if way is None or flow is None:
            return
        sock, address = way
        to, until = to_socket_address(address), min(flow.until, self._paths.holds_until(peer))
        if to is not None and until > now:
            self._fast_path.set_flow(flow.peer_id, flow.session, sock.raw, to, until)
            self._known[flow.peer_id] = destination

    def _clear(self) -> None:
        self._known.clear()
        self._fast_path.clear_flows()
