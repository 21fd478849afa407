"""Two devices driven at random in any weather, by owners who change their minds: what must always hold."""

from __future__ import annotations

import dataclasses

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshnode.wireguard import PeerConfig
from tests.meshnode.wireguard.simulation import Node, Weather, key, network, pair

PSKS = st.sampled_from([None, bytes(range(32))])
SIDES = st.integers(0, 1)


class TwoDevices(RuleBasedStateMachine):
    @initialize(
        seed=st.integers(0, 2**32),
        loss=st.sampled_from([0.0, 0.2, 0.6]),
        slowest=st.sampled_from([0.01, 0.3, 6.0]),
    )
    def start(self, seed: int, loss: float, slowest: float) -> None:
        self.world, a, b = pair(seed, Weather(loss, 0.2, (0.001, slowest)))
        self.nodes = (a, b)
        self.sent: tuple[set[int], set[int]] = (set(), set())
        self.number = 0

    @rule(side=SIDES, count=st.integers(1, 10), size=st.integers(8, 1300))
    def send(self, side: int, count: int, size: int) -> None:
        for _ in range(count):
            self.number += 1
            self.sent[side].add(self.number)
            self.nodes[side].send(self.nodes[1 - side], self.number, size)

    @rule(seconds=st.sampled_from([0.001, 0.02, 1.0, 4.9, 10.0, 25.0, 119.0, 170.0, 545.0]))
    def wait(self, seconds: float) -> None:
        self.world.run(seconds)

    @rule(side=SIDES)
    def mute(self, side: int) -> None:
        self.nodes[side].muted = not self.nodes[side].muted

    @rule(side=SIDES)
    def path_changed(self, side: int) -> None:
        node, other = self.nodes[side], self.nodes[1 - side]
        if other.public in node.configs:
            node.device.initiate(other.public, self.world.now)
            node.settle()

    @rule(side=SIDES, psk=PSKS, keepalive=st.sampled_from([0, 7, 25]))
    def configure(self, side: int, psk: bytes | None, keepalive: int) -> None:
        node, other = self.nodes[side], self.nodes[1 - side]
        node.peer_with(other, psk=psk, keepalive=keepalive)

    @rule(side=SIDES)
    def remove(self, side: int) -> None:
        self.nodes[side].configs.clear()
        self.nodes[side].apply()

    @rule(side=SIDES, number=st.integers(100, 102))
    def another_identity(self, side: int, number: int) -> None:
        node, other = self.nodes[side], self.nodes[1 - side]
        old, new = node.public, key(number + 10 * side)
        node.private = new
        node.device.set_private_key(new)
        node.settle()
        self.world.by_key[new.public] = node
        if old in other.configs:
            other.configs = {new.public: dataclasses.replace(other.configs[old], public_key=new.public)}
            other.apply()

    @rule(side=SIDES, offset=st.sampled_from([-3600.0, 0.0, 3600.0]))
    def wall_clock_steps(self, side: int, offset: float) -> None:
        self.nodes[side].wall_offset = offset

    @invariant()
    def delivery_is_honest(self) -> None:
        for side, node in enumerate(self.nodes):
            assert len(set(node.received)) == len(node.received), "delivered twice"
            assert set(node.received) <= self.sent[1 - side], "delivered what nobody sent"

    @invariant()
    def tables_agree(self) -> None:
        for node in self.nodes:
            sessions, indices = set(), set()
            for peer in node.device._peers.values():
                sessions |= {keypair.session.local_index for keypair in peer.slots}
                if peer.handshake.pending is not None:
                    indices.add(peer.handshake.pending.local_index)
            assert set(node.device._context.indices._owners) == sessions | indices
            assert len(node.device._context.sessions) == len(sessions)
            for index in sessions:
                assert node.device._context.sessions.get(index) is not None

    @invariant()
    def nothing_is_overdue_or_too_old(self) -> None:
        for node in self.nodes:
            due = node.device.next_timeout()
            assert due is None or due > self.world.now
            for peer in node.device._peers.values():
                assert all(keypair.expires_at > self.world.now for keypair in peer.slots)

    @invariant()
    def outputs_were_drained(self) -> None:
        for node in self.nodes:
            assert node.device.take_datagrams() == []
            assert node.device.take_events() == []

    def teardown(self) -> None:
        """However it was left: agreed, and in good weather, they talk again."""
        if not hasattr(self, "nodes"):
            return
        self.world.weather = Weather()
        for node, other in (self.nodes, reversed(self.nodes)):
            node.muted = False
            node.wall_offset = 7200.0
            self.agree(node, other)
        self.world.run(12.0)
        a, b = self.nodes
        for node, other in ((a, b), (b, a)):
            node.send(other, 10**9)
        self.world.run(12.0)
        assert 10**9 in a.received
        assert 10**9 in b.received

    def agree(self, node: Node, other: Node) -> None:
        config = PeerConfig(other.public, frozenset({network(other.address)}))
        node.configs = {other.public: config}
        node.apply()


TwoDevices.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestTwoDevices = TwoDevices.TestCase
