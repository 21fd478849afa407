"""The shell around a WireGuard device: readable TUN and sockets in, sends and writes out, one timer.

It decides nothing about the protocol. A turn begins on the fast path, which moves what it was told how to
move; the device and the paths learn of it when it has already left. What the fast path cannot decide goes
through the device, and for the next time the fast path is told how. Then comes `_finish_turn`: events to the
paths, datagrams to the network, the timer to the next deadline. Whatever happens besides data makes the fast
path forget what it was told.

The time is the system's monotonic clock, which both event loops count in too, but uvloop's in whole
milliseconds, and it stands still during a turn: too coarse to compare paths by.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Final

from meshnode.dataplane import (
    RECEIVE_BUFFER_SIZE,
    Coalescing,
    DropReason,
    Turn,
)
from meshnode.dataplane_document import Offloads
from meshnode.disco import geneve
from meshnode.disco.demux import Protocol, classify, classify_relayed
from meshnode.disco.destinations import (
    DerpDestination,
    Destination,
    Path,
    RelayPath,
    Via,
    as_source,
    from_source,
)
from meshnode.disco.events import Event as PathEvent
from meshnode.disco.events import PathChanged, PeerInfo, SocketsReleased
from meshnode.disco.manager import Manager
from meshnode.engine.flows import Flows
from meshnode.engine.tun import Tun
from meshnode.engine.udp import UdpSockets
from meshnode.engine.udp_socket import UdpSocket
from meshnode.engine.wire import AuxSockets, PathCounts, RelaySend, Wire
from meshnode.wireguard import (
    Device,
    Event,
    HandshakeTimedOut,
    Outgoing,
    PeerConfig,
    PeerHeardFrom,
)
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic, NodePrivate, NodePublic

__all__ = ["Engine"]

SETTLE_AFTER_S: Final = 0.002
"""What was moved is told to the device and the paths this much later: none of their timers is finer, and
what is moved meanwhile costs nothing more."""

UNDECIDED_PER_TURN: Final = 8
"""TUN reads of one turn that go through the device, so that neither direction starves the other."""

log = logging.getLogger(__name__)


class Engine:
    """Owns the TUN and the sockets; the device and the paths stay the caller's to look at.

    All methods are to be called from the loop's thread.
    """

    def __init__(
        self, device: Device, paths: Manager, tun: Tun, udp: UdpSockets, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.device = device
        self.paths = paths
        self.on_stun: Callable[[bytes, AddrPort], None] = lambda datagram, source: None
        """Called with each STUN message that came to the main sockets."""
        self.on_path_event: Callable[[PathEvent], None] = lambda event: None
        """Called with each event of the paths."""
        self.on_event: Callable[[Event], None] = lambda event: None
        """Called with each event of the device, after the paths have heard of it."""
        self.on_tun_gone: Callable[[], None] = lambda: None
        """Called once if the interface is deleted under us; the sockets go on."""
        self._tun = tun
        self._udp = udp
        self._loop = loop
        self._aux = AuxSockets(udp, loop, self._on_udp_readable)
        self._wire = Wire(udp, self._aux)
        device.coalescing = tun.coalescing
        self._flows = Flows(device, paths, self._wire, tun.fileno())
        self._settling: asyncio.TimerHandle | None = None
        self._opened_buffer = memoryview(bytearray(RECEIVE_BUFFER_SIZE))
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0
        self._is_running = False
        self._is_reading_tun = False
        self._has_tun = True
        self._writers: set[UdpSocket] = set()
        self._disco_keys: dict[NodePublic, DiscoPublic | None] = {}

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
    def offloads(self) -> Offloads:
        """What is in use now."""
        tun, sockets = self._tun, self._udp.sockets
        return Offloads(
            tun_tcp=tun.tcp_offload,
            tun_udp=tun.udp_offload,
            merge_tcp=Coalescing.TCP in tun.coalescing,
            merge_udp=Coalescing.UDP in tun.coalescing,
            udp_gso=all(sock.gso for sock in sockets),
            udp_gro=all(sock.gro for sock in sockets),
        )

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
        self._finish_turn(monotonic())

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
        for handle in (self._timer, self._settling):
            if handle is not None:
                handle.cancel()
        self._timer = self._settling = None
        self._aux.close()
        self._udp.close()
        self._tun.close()

    @property
    def received(self) -> PathCounts:
        """Authentic WireGuard transport data, by path."""
        return self._flows.received

    @property
    def sent(self) -> PathCounts:
        """WireGuard datagrams that left, by path."""
        return self._wire.sent

    @property
    def has_ipv6(self) -> bool:
        """Whether the host gave us an IPv6 socket."""
        return self._udp.has_ipv6

    def use_relays(self, send: RelaySend) -> None:
        """What goes over DERP is given to `send`."""
        self._wire.relay = send

    def send_stun(self, datagram: bytes, destination: AddrPort) -> bool:
        """Send from the socket that peers reach us at. Returns whether it left."""
        return self._udp.try_send(datagram, destination)

    def configure(
        self, private_key: NodePrivate, peers: Sequence[PeerConfig], paths: Sequence[PeerInfo]
    ) -> None:
        """Make the device be this node with these peers, and `paths` be what is known of where they are.

        Declarative; sessions and confirmed paths of peers that stay are kept. Raises ValueError as
        `Device.set_peers`.
        """
        now = monotonic()
        self.device.set_private_key(private_key)
        self.device.set_peers(peers, now)
        self.paths.set_node_key(private_key.public)
        configured = set(self.device.peers)
        known = self._disco_keys
        infos = [info for info in paths if info.node_key in configured]
        self.paths.set_peers(infos, now)
        self._disco_keys = {info.node_key: info.disco_key for info in infos}
        for peer, disco_key in self._disco_keys.items():
            # It has restarted, and its session with it: waiting for our own timers would cost 15 s.
            if known.get(peer, disco_key) != disco_key and self.device.stats(peer).has_session:
                self.device.initiate(peer, now)
        self._flows.forget(now)
        self._finish_turn(now)

    def initiate(self, peer: NodePublic) -> None:
        """Start a handshake with `peer` because the path changed. Raises KeyError for an unknown one."""
        now = monotonic()
        self.device.initiate(peer, now)
        self._finish_turn(now)

    @contextmanager
    def turn(self) -> Iterator[float]:
        """For whoever calls `paths` from outside: gives the time, and sends what came of it afterwards."""
        now = monotonic()
        yield now
        self._flows.forget(now)
        self._finish_turn(now)

    # --- a turn ---

    def _on_tun_readable(self) -> None:
        self._turn(None, None)

    def _on_udp_readable(self, sock: UdpSocket, aux: int | None = None) -> None:
        """`aux` is the number of an auxiliary socket."""
        self._turn(sock, aux)

    def _turn(self, sock: UdpSocket | None, aux: int | None) -> None:
        now = monotonic()
        if self._timer is not None and now >= self._timer_due:
            self.device.begin_turn(now)
        turn = self._flows.turn(sock, aux, self._is_reading_tun, now)
        if turn is None:
            if self._settling is None:
                self._settling = self._loop.call_later(SETTLE_AFTER_S, self._on_settle)
            return
        self._look_at(turn, aux, now)
        for _ in range(UNDECIDED_PER_TURN):
            if turn is None or turn.undecided is None:
                break
            turn = self._flows.turn(None, None, self._is_reading_tun and not self._wire.blocked, now)
            if turn is not None:
                self._look_at(turn, None, now)
        self._finish_turn(now)

    def _on_settle(self) -> None:
        self._settling = None
        now = monotonic()
        self._flows.settle(now)
        self._finish_turn(now)

    def _look_at(self, turn: Turn, aux: int | None, now: float) -> None:
        """What the fast path left to us."""
        flows, device = self._flows, self.device
        if turn.unsent:
            flows.resend(turn.unsent, now)
        flows.settle(now)
        for unit in turn.unwritten:
            self._write(memoryview(unit))
        for message, sender in turn.admitted:
            device.handshake_admitted(message, as_source(flows.via(sender, aux)), now)
        for message, sender in turn.cookies_wanted:
            device.cookie_wanted(message, as_source(flows.via(sender, aux)), now)
        for datagram, sender in turn.other:
            via = flows.via(sender, aux)
            if not device.receive_other(datagram, as_source(via), now):
                self._receive_other(datagram, via, now)
        if turn.undecided is not None:
            flows.decide(memoryview(turn.undecided), now)
        if turn.is_tun_gone:
            self._tun_gone()

    def _tun_gone(self) -> None:
        log.error("the interface %s was deleted", self._tun.name)
        self._has_tun = False
        self._pause_tun()
        self.on_tun_gone()

    # --- what came by other ways than a socket's datagrams ---

    def _open(self, datagrams: memoryview, stride: int, via: Via, now: float) -> list[tuple[int, int]]:
        """Give WireGuard's packets to the tunnel. Returns where the other datagrams are."""
        opened = self._opened_buffer
        source = via if type(via) is AddrPort else as_source(via)
        units, other = self.device.decapsulate(datagrams, stride, source, opened, now)
        for start, size in units:
            self._write(opened[start : start + size])
        if units:
            self._flows.received.count(via, len(datagrams), -(-len(datagrams) // stride))
        return other

    def _write(self, unit: memoryview) -> None:
        lost = self._tun.write(unit)
        if lost:
            self._udp.drops[DropReason.TUN_WRITE_FAILED] += lost
            self.device.coalescing = self._tun.coalescing

    def _receive_other(self, datagram: bytes, via: Path, now: float) -> None:
        protocol = classify(datagram)
        if protocol is Protocol.DISCO:
            self.paths.receive_udp(datagram, via, now)
            self._flows.forget(now)
        elif protocol is Protocol.STUN and isinstance(via, AddrPort):
            self.on_stun(datagram, via)
        elif protocol is Protocol.GENEVE_DISCO and isinstance(via, AddrPort):
            self.paths.receive_geneve(datagram, via, now)
            self._flows.forget(now)
        elif protocol is Protocol.GENEVE_WIREGUARD and isinstance(via, AddrPort):
            header = geneve.read_header(datagram)
            assert header is not None
            inner = memoryview(datagram)[geneve.HEADER_SIZE :]
            self._count_unknown(self._open(inner, len(inner), RelayPath(via, header.vni), now))
        else:
            self._count_unknown([(0, len(datagram))])

    def receive_relayed(self, region_id: int, source: NodePublic, data: bytes, stride: int) -> None:
        """A DERP relay of the region brought packets of `source`: of `stride` bytes, the last maybe shorter.

        A disco message comes alone.
        """
        now = monotonic()
        if classify_relayed(data) is Protocol.DISCO:
            self.paths.receive_derp(data, source, region_id, now)
            self._flows.forget(now)
        elif len(data) <= len(self._opened_buffer):
            via = DerpDestination(region_id, source)
            self._count_unknown(self._open(memoryview(data), stride, via, now))
        self._finish_turn(now)

    def _count_unknown(self, datagrams: Sequence[tuple[int, int]]) -> None:
        if datagrams:
            self._udp.drops[DropReason.UNKNOWN_DATAGRAM] += len(datagrams)

    # --- the end of every turn ---

    def _finish_turn(self, now: float) -> None:
        device, paths, wire = self.device, self.paths, self._wire
        if wire.unreachable:
            for address in list(wire.unreachable):
                paths.send_failed(address, now)
            wire.unreachable.clear()
            self._flows.forget(now)
        device_due, paths_due = device.next_timeout(), paths.next_timeout()
        is_device_due = device_due is not None and device_due <= now
        are_paths_due = paths_due is not None and paths_due <= now
        if is_device_due or are_paths_due or device.has_output or paths.has_output:
            self._flows.forget(now)
            if is_device_due:
                device.handle_timeout(now)
            if are_paths_due:
                paths.handle_timeout(now)
            while device.has_output or paths.has_output:
                self._take_output(now)
            device_due, paths_due = device.next_timeout(), paths.next_timeout()
        if wire.blocked:
            self._watch_blocked()
        self._flows.refresh(now)
        for due in (device_due, paths_due):
            if due is not None and (self._timer is None or due < self._timer_due):
                self._arm(due)

    def _take_output(self, now: float) -> None:
        """Events, then datagrams: each of them may cause more."""
        for event in self.device.take_events():
            self._tell_paths(event, now)
            self.on_event(event)
        for news in self.paths.take_events():
            self._path_news(news, now)
        for one in self.device.take_datagrams():
            self._send(one, now)
        for message in self.paths.take_datagrams():
            self._wire.send_disco(message)

    def _tell_paths(self, event: Event, now: float) -> None:
        if isinstance(event, PeerHeardFrom):
            self.paths.heard_from(event.peer, from_source(event.source), now)
        elif isinstance(event, HandshakeTimedOut):
            self.paths.handshake_timed_out(event.peer, now)

    def _path_news(self, news: PathEvent, now: float) -> None:
        if isinstance(news, PathChanged):
            if self.device.awaits_handshake(news.peer):
                self.device.initiate(news.peer, now)
        elif isinstance(news, SocketsReleased):
            self._aux.release(news.sockets)
        self.on_path_event(news)

    def _send(self, outgoing: Outgoing, now: float) -> None:
        destinations: Sequence[Destination] = ()
        if outgoing.reply_to is not None:
            destinations = (from_source(outgoing.reply_to),)
        elif outgoing.peer is not None:
            destinations = self.paths.destinations(outgoing.peer, outgoing.kind, now)
        if not destinations:
            self._udp.drops[DropReason.NO_DESTINATION] += 1
        for destination in destinations:
            self._wire.send(memoryview(outgoing.datagram), len(outgoing.datagram), destination)

    # --- back-pressure: a full socket stops the tunnel's reader, and the kernel slows its senders down ---

    def _watch_blocked(self) -> None:
        for sock in self._wire.blocked - self._writers:
            if self._is_running:
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

    def _arm(self, due: float) -> None:
        """One timer. One that fires too early only arms itself again, so a later deadline moves nothing."""
        if not self._is_running:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due  # uvloop's handle of a deadline that has passed does not tell it
        self._timer = self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._finish_turn(monotonic())
