"""The shell around a WireGuard device: readable TUN and sockets in, sends and writes out, one timer.

It decides nothing about the protocol. Each turn reads until empty or to a budget, hands what came to the
device, and ends with `_finish_turn`: events to the paths, datagrams to the network, the timer to the next
deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from meshnode.dataplane import RECEIVE_BUFFER_SIZE, TUN_BUFFER_SIZE, DropReason
from meshnode.engine.outbox import Outbox
from meshnode.engine.tun import Tun, TunGone
from meshnode.engine.udp import UdpSockets
from meshnode.engine.udp_socket import UdpSocket
from meshnode.paths import Destination, Paths
from meshnode.wireguard import (
    Device,
    Event,
    HandshakeTimedOut,
    Kind,
    Outgoing,
    PeerConfig,
    PeerHeardFrom,
)
from meshproto.addresses import AddrPort
from meshproto.keys import NodePrivate, NodePublic

__all__ = ["Engine"]

READ_BUDGET: Final = 8
"""Reads of one turn, so that neither direction starves the other or the rest of the program."""

log = logging.getLogger(__name__)


class Engine:
    """Owns the TUN and the sockets; the device and the paths stay the caller's to look at.

    All methods are to be called from the loop's thread.
    """

    def __init__(
        self, device: Device, paths: Paths, tun: Tun, udp: UdpSockets, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.device = device
        self.paths = paths
        self.on_other: Callable[[memoryview, AddrPort], None] = self._count_other
        """Called with each datagram that is not WireGuard's; the bytes are valid during the call."""
        self.on_event: Callable[[Event], None] = lambda event: None
        """Called with each event of the device, after the paths have heard of it."""
        self.on_tun_gone: Callable[[], None] = lambda: None
        """Called once if the interface is deleted under us; the sockets go on."""
        self._tun = tun
        self._udp = udp
        self._loop = loop
        self._outbox = Outbox(udp)
        self._tun_buffer = memoryview(bytearray(TUN_BUFFER_SIZE))
        self._receive_buffer = memoryview(bytearray(RECEIVE_BUFFER_SIZE))
        self._opened_buffer = memoryview(bytearray(RECEIVE_BUFFER_SIZE))
        self._timer: asyncio.TimerHandle | None = None
        self._is_running = False
        self._is_reading_tun = False
        self._has_tun = True
        self._writers: set[UdpSocket] = set()
        device.coalescing = tun.coalescing

    @property
    def local_port(self) -> int:
        """The UDP port that peers can reach us at."""
        return self._udp.local_port

    @property
    def interface(self) -> str:
        """The name of the tunnel's interface."""
        return self._tun.name

    @property
    def drops(self) -> Counter[DropReason]:
        """What went no further, by reason: the device's and what the operating system refused."""
        return self.device.drops + self._udp.drops

    @property
    def receive_overflow(self) -> int:
        """Datagrams that the kernel dropped because they came faster than we read."""
        return sum(sock.receive_overflow for sock in self._udp.sockets)

    def start(self) -> None:
        """Begin to move packets."""
        if self._is_running:
            return
        self._is_running = True
        for sock in self._udp.sockets:
            self._loop.add_reader(sock.fileno(), self._on_udp_readable, sock)
        self._resume_tun()
        self._finish_turn(self._loop.time())

    async def close(self) -> None:
        """Stop, and close the TUN and the sockets: the interface goes. Safe to call again."""
        if self._is_running:
            self._is_running = False
            self._pause_tun()
            for sock in self._udp.sockets:
                self._loop.remove_reader(sock.fileno())
            for sock in self._writers:
                self._loop.remove_writer(sock.fileno())
            self._writers.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._udp.close()
        self._tun.close()

    def configure(
        self,
        private_key: NodePrivate,
        peers: Sequence[PeerConfig],
        candidates: Mapping[NodePublic, Sequence[AddrPort]],
    ) -> None:
        """Make the device be this node with these peers, and `candidates` be where they may be reached.

        Declarative; sessions and confirmed paths of peers that stay are kept. Raises ValueError as
        `Device.set_peers`.
        """
        now = self._loop.time()
        self.device.set_private_key(private_key)
        before = self.device.peers
        self.device.set_peers(peers, now)
        after = self.device.peers
        for peer in set(before).difference(after):
            self.paths.remove_peer(peer)
        for peer in after:
            self.paths.set_peer(peer, candidates.get(peer, ()))
        self._finish_turn(now)

    def initiate(self, peer: NodePublic) -> None:
        """Start a handshake with `peer` because the path changed. Raises KeyError for an unknown one."""
        now = self._loop.time()
        self.device.initiate(peer, now)
        self._finish_turn(now)

    # --- from the tunnel ---

    def _on_tun_readable(self) -> None:
        now = self._loop.time()
        read_into, buffer, outbox = self._tun.read_into, self._tun_buffer, self._outbox
        encapsulate, destinations = self.device.encapsulate, self.paths.destinations
        try:
            for _ in range(READ_BUDGET):
                length = read_into(buffer)
                if not length:
                    break
                sealed = encapsulate(buffer[:length], outbox.room(), now)
                if sealed is not None:
                    outbox.add(sealed.units, destinations(sealed.peer, Kind.DATA, now))
                    if self._udp.is_blocked:
                        break
        except TunGone as error:
            log.error("%s", error)
            self._has_tun = False
            self._pause_tun()
            self.on_tun_gone()
        outbox.flush()
        self._finish_turn(now)

    # --- from the network ---

    def _on_udp_readable(self, sock: UdpSocket) -> None:
        now = self._loop.time()
        received, opened = self._receive_buffer, self._opened_buffer
        for _ in range(READ_BUDGET):
            datagrams = sock.receive_into(received)
            if datagrams is None:
                break
            length, stride, source = datagrams
            outcome = self.device.decapsulate(received[:length], stride, source, opened, now)
            for start, size in outcome.units:
                lost = self._tun.write(opened[start : start + size])
                if lost:
                    self._tun_write_failed(lost)
            for start, size in outcome.other:
                self.on_other(received[start : start + size], source)
        self._finish_turn(now)

    def _tun_write_failed(self, lost: int) -> None:
        self._udp.drops[DropReason.TUN_WRITE_FAILED] += lost
        self.device.coalescing = self._tun.coalescing

    def _count_other(self, datagram: memoryview, source: AddrPort) -> None:
        self._udp.drops[DropReason.UNKNOWN_DATAGRAM] += 1

    # --- the end of every turn ---

    def _finish_turn(self, now: float) -> None:
        due = self.device.next_timeout()
        if due is not None and due <= now:
            self.device.handle_timeout(now)
            due = self.device.next_timeout()
        for event in self.device.take_events():
            self._tell_paths(event, now)
            self.on_event(event)
        for outgoing in self.device.take_datagrams():
            self._send(outgoing, now)
        if self._udp.is_blocked:
            self._watch_blocked()
        self._arm(due)

    def _tell_paths(self, event: Event, now: float) -> None:
        if isinstance(event, PeerHeardFrom):
            self.paths.heard_from(event.peer, AddrPort(*event.source), now)
        elif isinstance(event, HandshakeTimedOut):
            self.paths.handshake_timed_out(event.peer, now)

    def _send(self, outgoing: Outgoing, now: float) -> None:
        destinations: Sequence[Destination] = ()
        if outgoing.reply_to is not None:
            destinations = (AddrPort(*outgoing.reply_to),)
        elif outgoing.peer is not None:
            destinations = self.paths.destinations(outgoing.peer, outgoing.kind, now)
        if not destinations:
            self._udp.drops[DropReason.NO_DESTINATION] += 1
        for destination in destinations:
            self._udp.send(memoryview(outgoing.datagram), len(outgoing.datagram), destination)

    # --- back-pressure: a full socket stops the tunnel's reader, and the kernel slows its senders down ---

    def _watch_blocked(self) -> None:
        for sock in self._udp.sockets:
            if sock.is_blocked and sock not in self._writers and self._is_running:
                self._writers.add(sock)
                self._loop.add_writer(sock.fileno(), self._on_udp_writable, sock)
                self._pause_tun()

    def _on_udp_writable(self, sock: UdpSocket) -> None:
        sock.flush()
        if sock.is_blocked:
            return
        self._writers.discard(sock)
        self._loop.remove_writer(sock.fileno())
        if not self._writers:
            self._outbox.flush()
            self._resume_tun()

    def _pause_tun(self) -> None:
        if self._is_reading_tun:
            self._loop.remove_reader(self._tun.fileno())
            self._is_reading_tun = False

    def _resume_tun(self) -> None:
        if self._has_tun and not self._is_reading_tun:
            self._loop.add_reader(self._tun.fileno(), self._on_tun_readable)
            self._is_reading_tun = True

    # --- time ---

    def _arm(self, due: float | None) -> None:
        """One timer. One that fires too early only arms itself again, so a later deadline moves nothing."""
        timer = self._timer
        if due is None or not self._is_running:
            return
        if timer is not None:
            if timer.when() <= due:
                return
            timer.cancel()
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._finish_turn(self._loop.time())
