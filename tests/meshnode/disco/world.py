"""A network under a clock that only the test moves: what is under way, NATs, STUN servers, a relay, weather.

No sockets, no sleeps. The nodes in it are those of simulation.py.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from meshproto.addresses import AddrPort
from meshproto.keys import NodePublic

if TYPE_CHECKING:
    from tests.meshnode.disco.simulation import SimNode

PORT = 41641
DIRECT_DELAY = 0.02
"""Seconds one way over the Internet; the relay's way is DERP_DELAY, a LAN's LAN_DELAY."""
DERP_DELAY = 0.03
LAN_DELAY = 0.0005
STUN_SERVERS = (AddrPort("198.51.100.1", 3478), AddrPort("198.51.100.2", 3478))
STUN_SERVERS_IPV6 = (AddrPort("2001:db8:5::1", 3478),)
MAX_AT_ONCE = 2000


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
