"""Nodes with a disco manager each, behind NATs, with relays, STUN servers and weather, under a clock that
only the test moves. No sockets, no sleeps.

A `SimNode` does what the engine will do: after every entry it handles what is due, drains events and
datagrams, and asks to be woken at `next_timeout()`. Instead of WireGuard it sends numbered packets.

    python -m tests.meshnode.disco.simulation      prints the matrix of all pairs
"""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
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
    SprayEnded,
)
from meshnode.disco.manager import Manager
from meshnode.netcheck.report import Family, Report
from meshnode.wireguard import Kind as Datagrams
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPrivate, NodePrivate, NodePublic
from tests.meshnode.disco.nats import Box, Firewall, Kind, boxes

PORT = 41641
DIRECT_DELAY = 0.02
"""Seconds one way over the Internet; the relay's way is DERP_DELAY, a LAN's LAN_DELAY."""
DERP_DELAY = 0.03
LAN_DELAY = 0.0005
STUN_SERVERS = (AddrPort("198.51.100.1", 3478), AddrPort("198.51.100.2", 3478))
STUN_SERVERS_IPV6 = (AddrPort("2001:db8:5::1", 3478),)
RESTUN_INTERVAL = 23.0
AFTERWARDS = 1.5
"""Seconds for which a pair goes on talking once it is direct, so that a wrong choice would be seen."""
MAX_AT_ONCE = 2000
HOME = 1
"""The region of everybody."""


class World:
    """The clock, what is under way, and the weather."""

    def __init__(self, seed: int = 1, loss: float = 0.0) -> None:
        self.now = 1000.0
        self.rng = random.Random(seed)
        self.loss = loss
        self.extra_delay: Callable[[SimNode, SimNode], float] = lambda source, target: 0.0
        self.delay_of_host: Callable[[str], float] = lambda host: 0.0
        self.cuts: list[Callable[[SimNode, SimNode], bool]] = []
        self.relay_is_up = True
        self.nodes: list[SimNode] = []
        self.sent_datagrams = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = itertools.count()

    def call_at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (max(when, self.now), next(self._number), what))

    def run_until(self, done: Callable[[], bool], limit: float) -> bool:
        """Until `done`, at most `limit` seconds. Returns whether it came to pass."""
        end = self.now + limit
        at_once = 0
        while not done():
            if not self._events or self._events[0][0] > end:
                self.now = end
                return done()
            when, _, what = heapq.heappop(self._events)
            at_once = at_once + 1 if when == self.now else 0
            assert at_once < MAX_AT_ONCE, "timers do not come to rest"
            self.now = when
            what()
        return True

    def run_for(self, seconds: float) -> None:
        self.run_until(lambda: False, seconds)

    # --- UDP ---

    def udp(self, node: SimNode, inner: AddrPort, to: AddrPort, payload: bytes) -> None:
        """A datagram leaves `node`. Loss and cuts are decided here, filters where it arrives."""
        self.sent_datagrams += 1
        if self.rng.random() < self.loss:
            return
        if target := self._neighbour(node, to):
            self._arrive_later(node, target, inner, to, payload, LAN_DELAY)
            return
        source = inner
        for box in node.boxes(to):
            translated = box.outbound(source, to, self.now)
            if translated is None:
                return
            source = translated
        if to in STUN_SERVERS + STUN_SERVERS_IPV6:
            self._answer_stun(source, to, payload)
            return
        target = self._behind(to)
        if target is not None:
            self._arrive_later(node, target, source, to, payload, DIRECT_DELAY, crosses=True)

    def _arrive_later(
        self,
        sender: SimNode,
        target: SimNode,
        source: AddrPort,
        to: AddrPort,
        payload: bytes,
        delay: float,
        *,
        crosses: bool = False,
    ) -> None:
        if any(cut(sender, target) for cut in self.cuts):
            return
        delay += self.extra_delay(sender, target) + self.delay_of_host(to.host)

        def arrive() -> None:
            inner: AddrPort | None = to
            if crosses:
                for box in reversed(target.boxes(to)):
                    inner = box.inbound(inner, source, self.now) if inner is not None else None
            if inner is not None:
                target.receive_udp(inner, source, payload)

        self.call_at(self.now + delay, arrive)

    def _neighbour(self, node: SimNode, to: AddrPort) -> SimNode | None:
        for other in self.nodes:
            if other is not node and other.lan == node.lan is not None and to.host in other.addresses:
                return other
        return None

    def _behind(self, to: AddrPort) -> SimNode | None:
        for node in self.nodes:
            outermost = next((box.address for box in reversed(node.boxes(to)) if box.address), None)
            if to.host == outermost or (outermost is None and to.host in node.addresses):
                return node
        return None

    def _answer_stun(self, source: AddrPort, server: AddrPort, payload: bytes) -> None:
        def answer() -> None:
            node = self._behind(source)
            inner: AddrPort | None = source
            if node is None:
                return
            for box in reversed(node.boxes(source)):
                inner = box.inbound(inner, server, self.now) if inner is not None else None
            if inner is not None:
                node.stun_answered(server, source)

        self.call_at(self.now + 2 * DIRECT_DELAY, answer)

    # --- DERP ---

    def derp(self, sender: SimNode, to: NodePublic, payload: bytes) -> None:
        if not self.relay_is_up:
            return
        for target in self.nodes:
            if target.node_key == to:
                self._relay(sender, target, payload)

    def _relay(self, sender: SimNode, target: SimNode, payload: bytes) -> None:
        def arrive() -> None:
            if self.relay_is_up:
                target.receive_derp(sender.node_key, payload)

        self.call_at(self.now + DERP_DELAY, arrive)


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
    for node in (a, b):
        node.measure_regularly()
    world.run_for(1.0)
    a.meet(b)
    b.meet(a)
    return a, b


@dataclass(frozen=True)
class Outcome:
    """What became of one pair."""

    first_packet: float | None
    """Seconds until the first packet arrived."""
    lost: int
    direct_one: float | None
    """Seconds until the one that began, and the other, had a direct path."""
    direct_both: float | None
    technique: str
    datagrams: int


def meet(one: Kind, other: Kind, seed: int, limit: float = 8.0, settings: Settings | None = None) -> Outcome:
    """One begins to talk to the other, which answers."""
    world = World(seed)
    a, b = pair(world, one, other, settings=settings)
    begin, before = world.now, world.sent_datagrams
    a.talk(b, 0.1, limit + AFTERWARDS)
    first_direct: list[float] = []

    def both_direct() -> bool:
        if a.is_direct(b) and not first_direct:
            first_direct.append(world.now)
        return a.is_direct(b) and b.is_direct(a)

    found = world.run_until(both_direct, limit)
    both = world.now - begin
    world.run_for(AFTERWARDS)
    a.stop_talking()
    world.run_for(1.0)
    arrived = {packet.number: packet.at for packet in reversed(b.received)}
    return Outcome(
        first_packet=arrived[0] - begin if 0 in arrived else None,
        lost=a.said - len(arrived),
        direct_one=first_direct[0] - begin if first_direct else None,
        direct_both=both if found else None,
        technique=_technique(a, b, found),
        datagrams=world.sent_datagrams - before,
    )


def _technique(a: SimNode, b: SimNode, is_direct: bool) -> str:
    sprays = [event for node in (a, b) for _, event in node.events if isinstance(event, SprayEnded)]
    if not is_direct:
        reason = a.manager.status(b.node_key, a.world.now).relay_reason
        return f"relay: {reason.value}" if reason is not None else "relay"
    if any(spray.is_direct for spray in sprays):
        return f"spray, {max(spray.sent for spray in sprays)} sent"
    return "direct"


def matrix(kinds: Iterable[Kind], seeds: Iterable[int]) -> str:
    """The table that people read: for each pair the fate of the first packet, time to direct, technique."""
    lines = [f"{'one':22} {'other':22} {'first':>7} {'lost':>4} {'direct':>8} {'max':>7}  technique"]
    for one, other in itertools.product(list(kinds), repeat=2):
        outcomes = [meet(one, other, seed) for seed in seeds]
        times = [outcome.direct_both for outcome in outcomes if outcome.direct_both is not None]
        first = max(outcome.first_packet or float("inf") for outcome in outcomes)
        median = (
            f"{statistics.median(times):7.3f}s"
            if len(times) == len(outcomes)
            else f"{len(times)}/{len(outcomes)}"
        )
        greatest = f"{max(times):6.3f}s" if times else ""
        lost = sum(outcome.lost for outcome in outcomes)
        lines.append(
            f"{one.value:22} {other.value:22} {first:6.3f}s {lost:4} {median:>8} {greatest:>7}"
            f"  {outcomes[0].technique}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(matrix(Kind, range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)) + "\n")
