"""Nodes with a disco manager each, in a `World`.

A `SimNode` does what the engine will do: after every entry it handles what is due, drains events and
datagrams, and asks to be woken at `next_timeout()`. Instead of WireGuard it sends numbered packets.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from meshnode.disco.box import is_envelope
from meshnode.disco.context import Settings
from meshnode.disco.destinations import AuxPath, DerpDestination, Destination, Path, RelayPath, Via
from meshnode.disco.endpoints import EndpointBook
from meshnode.disco.events import (
    EndpointsWanted,
    Event,
    PathChanged,
    PeerInfo,
    SocketsReleased,
)
from meshnode.disco.manager import Manager
from meshnode.netcheck.report import Family, Report
from meshnode.wireguard import Kind as Datagrams
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPrivate, NodePrivate, NodePublic
from tests.meshnode.disco.nats import Box, Firewall, Kind, boxes
from tests.meshnode.disco.world import DIRECT_DELAY, PORT, STUN_SERVERS, STUN_SERVERS_IPV6, World

RESTUN_INTERVAL = 23.0
HOME = 1
"""The region of everybody."""


@dataclass
class Received:
    """One data packet that arrived."""

    number: int
    at: float
    via: Via


@dataclass
class SimNode:
    """A node and its shell."""

    world: World
    name: str
    kind: Kind
    settings: Settings = field(default_factory=Settings)
    lan: str | None = None
    has_ipv6: bool = False
    has_ipv4: bool = True
    echoes: bool = False

    def __post_init__(self) -> None:
        world, number = self.world, len(self.world.nodes) + 1
        rng = random.Random(world.rng.random())
        self.number = number
        self.node_key = NodePrivate(rng.randbytes(32)).public
        self.disco_private = DiscoPrivate(rng.randbytes(32))
        self.manager = Manager(
            self.disco_private, self.node_key, entropy=rng.randbytes, settings=self.settings
        )
        self.manager.set_reachability(world.now, has_derp=True)
        self._boxes: dict[int, list[Box]] = {
            4: boxes(self.kind, number, rng),
            6: [Firewall()] if self.has_ipv6 else [],
        }
        own = f"203.0.113.{10 + number}" if self.kind is Kind.OPEN else f"192.168.{number}.2"
        if self.lan is not None:
            own = f"192.168.0.{number}"
        self.addresses = [own] if self.has_ipv4 else []
        if self.has_ipv6:
            self.addresses.append(f"2001:db8:{number}::2")
        self.received: list[Received] = []
        self.events: list[tuple[float, Event]] = []
        self.peers: dict[NodePublic, SimNode] = {}
        self.path_since: dict[NodePublic, float] = {}
        self.sockets_opened = 0
        self.said = 0
        self._talking = 0
        self._sockets: dict[int, int] = {}
        self._next_port = 50_000
        self._timer: float | None = None
        self._report = Report()
        self._book = EndpointBook()
        self._answered: set[AddrPort] = set()
        self._measuring = False
        world.nodes.append(self)

    # --- set-up ---

    def boxes(self, to: AddrPort) -> list[Box]:
        return self._boxes[6 if ":" in to.host else 4]

    def meet(self, other: SimNode, *, endpoints: Sequence[AddrPort] | None = None) -> None:
        """The network map says who `other` is."""
        self.peers[other.node_key] = other
        if endpoints is None:
            endpoints = other.endpoints
        info = PeerInfo(other.node_key, other.manager.disco_key, endpoints, HOME)
        self.manager.set_peer(info, self.world.now)
        self.turn()

    @property
    def endpoints(self) -> tuple[AddrPort, ...]:
        return self.manager._context.endpoints

    def move(self, kind: Kind, number: int) -> None:
        """Another network: other NATs, another address; the sockets are new."""
        self.kind = kind
        self._boxes[4] = boxes(kind, number, self.world.rng)
        self.addresses = [f"203.0.113.{10 + number}" if kind is Kind.OPEN else f"192.168.{number}.2"]
        self._book.forget()
        self.manager.network_changed(self.world.now)
        self.measure()
        self.turn()

    # --- STUN ---

    def measure(self) -> None:
        """Ask the STUN servers; when they had time to answer, tell the manager."""
        if self._measuring:
            return
        self._measuring = True
        self._report = Report()
        self._answered.clear()
        self._ask_stun(list(STUN_SERVERS + STUN_SERVERS_IPV6), tries=3)

    def _ask_stun(self, servers: list[AddrPort], tries: int) -> None:
        """Those that do not answer are asked again, as netcheck does."""
        if not tries or not servers:
            self._measured()
            return
        for server in servers:
            inner = self._inner(server, PORT)
            if inner is not None:
                self.world.udp(self, inner, server, b"stun")
        self.world.call_at(
            self.world.now + 3 * DIRECT_DELAY, lambda: self._ask_stun(self._silent(servers), tries - 1)
        )

    def _silent(self, servers: list[AddrPort]) -> list[AddrPort]:
        return [one for one in servers if one not in self._answered and self._inner(one, PORT) is not None]

    def measure_regularly(self) -> None:
        self.measure()
        self.world.call_at(self.world.now + RESTUN_INTERVAL, self.measure_regularly)

    def stun_answered(self, server: AddrPort, observed: AddrPort) -> None:
        family = Family.IPV6 if ":" in observed.host else Family.IPV4
        self._answered.add(server)
        self._report.stun_answered(len(self._answered), family, observed, 2 * DIRECT_DELAY)

    def _measured(self) -> None:
        self._measuring = False
        now, report = self.world.now, self._report
        local = [AddrPort(address, PORT) for address in self.addresses]
        found = self._book.gather(report, port_mapped=None, local=local, is_port_fixed=False, now=now)
        self.manager.set_own_endpoints(
            [one.address for one in found], now, mapping_varies=report.mapping_varies_by_dest_ip
        )
        self.manager.set_reachability(now, has_derp=True, has_udp=report.udp)
        self.turn()

    # --- what the engine does ---

    def turn(self) -> None:
        now = self.world.now
        due = self.manager.next_timeout()
        if due is not None and due <= now:
            self.manager.handle_timeout(now)
        for event in self.manager.take_events():
            self.events.append((now, event))
            self._act_on(event)
        for datagram in self.manager.take_datagrams():
            self._send(datagram.destination, datagram.payload)
        due = self.manager.next_timeout()
        if due is not None and (self._timer is None or due < self._timer):
            self._timer = max(due, now)
            self.world.call_at(self._timer, self._on_timer)

    def _on_timer(self) -> None:
        if self._timer is not None and self.world.now >= self._timer:
            self._timer = None
            self.turn()

    def _act_on(self, event: Event) -> None:
        if isinstance(event, EndpointsWanted):
            self.measure()
        elif isinstance(event, SocketsReleased):
            for socket in event.sockets:
                self._sockets.pop(socket, None)
        elif isinstance(event, PathChanged):
            self.path_since[event.peer] = self.world.now

    def _send(self, destination: Destination, payload: bytes) -> None:
        if isinstance(destination, DerpDestination):
            self.world.derp(self, destination.peer, payload)
            return
        assert not isinstance(destination, RelayPath)
        if isinstance(destination, AuxPath):
            if destination.socket not in self._sockets:
                self._next_port += 1
                self.sockets_opened += 1
                self._sockets[destination.socket] = self._next_port
            inner = self._inner(destination.address, self._sockets[destination.socket])
            to = destination.address
        else:
            inner, to = self._inner(destination, PORT), destination
        if inner is not None:
            self.world.udp(self, inner, to, payload)

    def _inner(self, to: AddrPort, port: int) -> AddrPort | None:
        wanted = ":" in to.host
        return next((AddrPort(own, port) for own in self.addresses if (":" in own) == wanted), None)

    @property
    def open_sockets(self) -> int:
        return len(self._sockets)

    # --- what arrives ---

    def receive_udp(self, inner: AddrPort, source: AddrPort, payload: bytes) -> None:
        if inner.host not in self.addresses:
            return
        via: Path = source
        if inner.port != PORT:
            socket = next((one for one, port in self._sockets.items() if port == inner.port), None)
            if socket is None:
                return
            via = AuxPath(source, socket)
        if is_envelope(payload):
            self.manager.receive_udp(payload, via, self.world.now)
        else:
            self._receive_data(payload, via)
        self.turn()

    def receive_derp(self, source: NodePublic, payload: bytes) -> None:
        if is_envelope(payload):
            self.manager.receive_derp(payload, source, HOME, self.world.now)
        else:
            self._receive_data(payload, DerpDestination(HOME, source))
        self.turn()

    # --- data ---

    def send_data(self, peer: SimNode, number: int, *, is_echo: bool = False) -> None:
        payload = b"echo" if is_echo else b"data"
        payload += self.node_key.raw + number.to_bytes(8, "big")
        for destination in self.manager.destinations(peer.node_key, Datagrams.DATA, self.world.now):
            self._send(destination, payload)
        self.turn()

    def _receive_data(self, payload: bytes, via: Via) -> None:
        peer = self.peers[NodePublic(payload[4:36])]
        number = int.from_bytes(payload[36:44], "big")
        self.manager.heard_from(peer.node_key, via, self.world.now)
        is_new = number not in {one.number for one in self.received[-200:]}
        self.received.append(Received(number, self.world.now, via))
        if self.echoes and is_new and payload.startswith(b"data"):
            self.send_data(peer, number, is_echo=True)

    def talk(self, peer: SimNode, interval: float, seconds: float, first: int = 0) -> None:
        """Send packets numbered from `first`, one each `interval`, until `stop_talking`."""
        end = self.world.now + seconds - interval / 2
        self._talking += 1
        talk = self._talking

        def say(number: int) -> None:
            if talk == self._talking and self.world.now < end:
                self.said += 1
                self.send_data(peer, number)
                self.world.call_at(self.world.now + interval, lambda: say(number + 1))

        say(first)

    def stop_talking(self) -> None:
        self._talking += 1

    # --- what tests ask ---

    def is_direct(self, peer: SimNode) -> bool:
        confirmed = self.manager.confirmed(peer.node_key)
        return confirmed is not None and not isinstance(confirmed, DerpDestination)

    def numbers(self) -> set[int]:
        return {one.number for one in self.received}

    def longest_gap(self, start: float, end: float) -> float:
        """The longest time between `start` and `end` without a new packet."""
        times = [start, *(one.at for one in self.received if start <= one.at <= end), end]
        return max(later - earlier for earlier, later in itertools.pairwise(times))


def pair(
    world: World,
    one: Kind,
    other: Kind,
    *,
    settings: Settings | None = None,
    other_settings: Settings | None = None,
) -> tuple[SimNode, SimNode]:
    """Two nodes that know their endpoints and each other, and have not spoken yet."""
    a = SimNode(world, "a", one, settings or Settings())
    b = SimNode(world, "b", other, other_settings or settings or Settings(), echoes=True)
    introduce(a, b)
    return a, b


def introduce(a: SimNode, b: SimNode) -> None:
    """Each learns where it is, and the network map tells each of the other."""
    for node in (a, b):
        node.measure_regularly()
    a.world.run_for(1.0)
    a.meet(b)
    b.meet(a)
