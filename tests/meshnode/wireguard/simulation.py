"""Devices joined by links in bad weather, under a clock that only the test moves. No sockets, no sleeps.

A `Node` does what the engine does: after every entry it handles what is due, drains events and datagrams, and
asks to be woken at `next_timeout()`. The `World` keeps the clock and what is under way; an `Eavesdropper`
sees every datagram.
"""

from __future__ import annotations

import heapq
import ipaddress
import itertools
import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from meshnode import dataplane
from meshnode.wireguard import DEFAULT, Device, Event, Outgoing, PeerConfig, Source, Timings, messages
from meshproto.keys import NodePrivate, NodePublic

EPOCH = 1_700_000_000.0
EXPERIMENTAL_PROTOCOL = 253  # RFC 3692: nobody coalesces or checksums it


def key(number: int) -> NodePrivate:
    """The same private key for the same number, always."""
    return NodePrivate(random.Random(number).randbytes(32))


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    return ipaddress.ip_network(text)


def packet(source: str, destination: str, number: int = 0, payload: int = 28) -> bytes:
    """One TUN read: virtio_net_hdr, IPv4 header, and a payload that begins with `number`."""
    header = bytearray(20)
    header[0] = 0x45
    header[2:4] = (20 + payload).to_bytes(2, "big")
    header[8:10] = bytes([64, EXPERIMENTAL_PROTOCOL])
    header[12:16] = ipaddress.IPv4Address(source).packed
    header[16:20] = ipaddress.IPv4Address(destination).packed
    return bytes(10) + bytes(header) + number.to_bytes(8, "big").ljust(payload, b"\xaa")


def number_of(tunnel_packet: bytes) -> int:
    """What `packet` was given."""
    return int.from_bytes(tunnel_packet[30:38], "big")


@dataclass
class Weather:
    """What happens to datagrams. Delays are uniform between the two, so they also reorder."""

    loss: float = 0.0
    duplicate: float = 0.0
    delay: tuple[float, float] = (0.01, 0.01)


@dataclass
class Eavesdropper:
    """Sees all that is sent, and checks what must never be seen."""

    seen: Counter[str] = field(default_factory=Counter)
    nonces: set[tuple[int, int]] = field(default_factory=set)
    indices: set[int] = field(default_factory=set)
    sealed_lengths: set[int] = field(default_factory=set)
    log: list[tuple[float, str, bytes]] = field(default_factory=list)

    NAMES: ClassVar[dict[int, str]] = {1: "initiation", 2: "response", 3: "cookie reply", 4: "data"}

    def see(self, now: float, sender: str, datagram: bytes) -> None:
        kind = messages.message_type(datagram)
        name = self.NAMES[kind]
        if kind == messages.TRANSPORT_DATA:
            nonce = (int.from_bytes(datagram[4:8], "little"), int.from_bytes(datagram[8:16], "little"))
            assert nonce not in self.nonces, "a nonce was used twice"
            self.nonces.add(nonce)
            self.sealed_lengths.add(len(datagram) - 32)
            if len(datagram) == 32:
                name = "keepalive"
        else:
            assert len(datagram) == messages.SIZE_OF_TYPE[kind]
        if kind in (messages.INITIATION, messages.RESPONSE):
            self.indices.add(messages.sender_index_untrusted(datagram))
        self.seen[name] += 1
        self.log.append((now, f"{sender}: {name}", datagram))

    def times(self, line: str) -> list[float]:
        """When `"a: initiation"` and the like were seen."""
        return [now for now, what, _ in self.log if what == line]

    def waits(self, sender: str) -> list[float]:
        """Before each initiation of `sender` but its first: since its last initiation or response."""
        waits, last = [], None
        for now, what, _ in self.log:
            if what == f"{sender}: initiation" and last is not None:
                waits.append(now - last)
            if what in (f"{sender}: initiation", f"{sender}: response"):
                last = now
        return waits

    def datagrams(self, line: str) -> list[bytes]:
        return [datagram for _, what, datagram in self.log if what == line]


class Node:
    """A device, its tunnel address, and its one address outside."""

    def __init__(self, world: World, name: str, private: NodePrivate, address: str, **device: object) -> None:
        self.world = world
        self.name = name
        self.address = address
        self.source: Source = (f"192.0.2.{len(world.nodes) + 1}", 41641)
        self.private = private
        rng = random.Random(f"{world.seed} {name}")
        self.wall_offset = 0.0
        self.device = Device(
            private,
            entropy=rng.randbytes,
            wall=lambda: EPOCH + world.now + self.wall_offset,
            **device,  # type: ignore[arg-type]
        )
        self.configs: dict[NodePublic, PeerConfig] = {}
        self.received: list[int] = []
        self.tunnel: list[bytes] = []
        self.foreign: list[bytes] = []
        self.events: list[Event] = []
        self.muted = False
        self._out = memoryview(bytearray(dataplane.SEAL_BUFFER_SIZE))
        self._wake_at = math.inf

    @property
    def public(self) -> NodePublic:
        return self.private.public

    def peer_with(self, other: Node, *prefixes: str, psk: bytes | None = None, keepalive: int = 0) -> None:
        """Configure `other` as a peer that owns its tunnel address and `prefixes`."""
        allowed = frozenset({network(other.address), *map(network, prefixes)})
        self.configs[other.public] = PeerConfig(other.public, allowed, psk, keepalive)
        self.apply()

    def apply(self) -> None:
        self.device.set_peers(list(self.configs.values()), self.world.now)
        self.settle()

    def send(self, destination: Node | str, number: int = 0, payload: int = 28) -> bool:
        """Put a packet into the tunnel. True when it was sealed, False when it waits or was dropped."""
        address = destination.address if isinstance(destination, Node) else destination
        sealed = self.device.encapsulate(
            memoryview(packet(self.address, address, number, payload)), self._out, self.world.now
        )
        if sealed is not None:
            for unit in sealed.units:
                for offset in range(unit.offset, unit.offset + unit.length, unit.stride):
                    end = min(offset + unit.stride, unit.offset + unit.length)
                    self.world.carry(self, self.world.by_key[sealed.peer], bytes(self._out[offset:end]))
        self.settle()
        return sealed is not None

    def receive(self, datagram: bytes, source: Source, stride: int = 0) -> None:
        """A receive of the socket."""
        received = self.device.decapsulate(
            memoryview(datagram), stride or len(datagram), source, self._out, self.world.now
        )
        for offset, length in received.units:
            self.tunnel.append(bytes(self._out[offset : offset + length]))
            self.received.append(number_of(self.tunnel[-1]))
        self.foreign += [datagram[offset : offset + length] for offset, length in received.other]
        self.settle()

    def settle(self) -> None:
        """What the engine does after every entry."""
        device, now = self.device, self.world.now
        while (due := device.next_timeout()) is not None and due <= now:
            device.handle_timeout(now)
        self.events += device.take_events()
        for outgoing in device.take_datagrams():
            self._transmit(outgoing)
        if due is not None and due < self._wake_at:
            self._wake_at = due
            self.world.at(due, lambda: self._wake(due))

    def _wake(self, due: float) -> None:
        if due == self._wake_at:
            self._wake_at = math.inf
            self.settle()

    def _transmit(self, outgoing: Outgoing) -> None:
        if outgoing.reply_to is not None:
            receiver = self.world.by_source.get(outgoing.reply_to)
        else:
            receiver = self.world.by_key.get(outgoing.peer) if outgoing.peer else None
        if receiver is not None:
            self.world.carry(self, receiver, outgoing.datagram)

    def happened(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


class World:
    """The clock, the links, and what is under way."""

    def __init__(self, seed: int = 0, weather: Weather | None = None) -> None:
        self.seed = seed
        self.now = 0.0
        self.weather = weather or Weather()
        self.wire = Eavesdropper()
        self.nodes: list[Node] = []
        self.by_key: dict[NodePublic, Node] = {}
        self.by_source: dict[Source, Node] = {}
        self._rng = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def node(self, name: str, private: NodePrivate, address: str, **device: object) -> Node:
        node = Node(self, name, private, address, **device)
        self.nodes.append(node)
        self.by_key[node.public] = node
        self.by_source[node.source] = node
        return node

    def at(self, when: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._queue, (when, next(self._order), action))

    def after(self, delay: float, action: Callable[[], object]) -> None:
        self.at(self.now + delay, action)

    def carry(self, sender: Node, receiver: Node, datagram: bytes) -> None:
        """Send a datagram through the weather."""
        self.wire.see(self.now, sender.name, datagram)
        if sender.muted:
            return
        copies = 1 + (self._rng.random() < self.weather.duplicate)
        source = sender.source
        for _ in range(copies):
            if self._rng.random() >= self.weather.loss:
                delay = self._rng.uniform(*self.weather.delay)
                self.after(delay, lambda: receiver.receive(datagram, source))

    def run(self, seconds: float) -> None:
        """Let the time pass, and everything happen that is due."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            when, _, action = heapq.heappop(self._queue)
            self.now = max(self.now, when)
            action()
        self.now = end

    def traffic(self, sender: Node, receiver: Node, times: Iterable[float], first: int = 0) -> list[int]:
        """Schedule numbered packets at `times` from now; return their numbers."""
        numbers = []
        for number, when in enumerate(times, first):
            self.after(when, partial(sender.send, receiver, number))
            numbers.append(number)
        return numbers


def pair(
    seed: int = 0,
    weather: Weather | None = None,
    *,
    timings: Timings = DEFAULT,
    psks: Sequence[bytes | None] = (None, None),
    keepalives: Sequence[int] = (0, 0),
    mtu: int = 1280,
) -> tuple[World, Node, Node]:
    """Two nodes, `a` and `b`, that are each other's peer."""
    world = World(seed, weather)
    a = world.node("a", key(1), "100.64.0.1", timings=timings, mtu=mtu)
    b = world.node("b", key(2), "100.64.0.2", timings=timings, mtu=mtu)
    a.peer_with(b, psk=psks[0], keepalive=keepalives[0])
    b.peer_with(a, psk=psks[1], keepalive=keepalives[1])
    return world, a, b


def connected(seed: int = 0, timings: Timings = DEFAULT, **options: object) -> tuple[World, Node, Node]:
    """Two nodes with a session that `a` initiated and both have used, at time 1."""
    world, a, b = pair(seed, timings=timings, **options)  # type: ignore[arg-type]
    a.send(b, 1)
    world.run(0.5)
    b.send(a, 2)
    world.run(0.5)
    assert b.received == [1]
    assert a.received == [2]
    return world, a, b
