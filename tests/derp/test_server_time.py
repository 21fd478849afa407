"""The relay's core: what it does by the clock, and before a restart."""

from __future__ import annotations

import pytest

from derp import frames
from derp.client_core import (
    Restarting,
)
from derp.server_core import KEEP_ALIVE_BEHIND_PROXY_S, KEEP_ALIVE_S, Limits
from derp.session import Arrival
from meshproto.keys import NodePrivate
from tests.derp.keys import ALICE, BOB
from tests.derp.relay_sim import RelaySim

OTHER_RELAY = NodePrivate(bytes(range(9, 41)))


class TestTime:
    @pytest.mark.parametrize(
        ("behind_proxy", "period"), [(False, KEEP_ALIVE_S), (True, KEEP_ALIVE_BEHIND_PROXY_S)]
    )
    def test_keep_alive_when_there_is_nothing_else(self, behind_proxy: bool, period: float) -> None:
        sim = RelaySim()
        client = sim.connect(ALICE, arrival=Arrival("192.0.2.1", 1, behind_proxy=behind_proxy))
        sent = sim.core.counters.bytes_sent
        sim.advance(period - 1)
        assert sim.core.counters.bytes_sent == sent
        sim.advance(period + 1)
        assert sim.core.counters.bytes_sent == sent + 2 * len(frames.KEEP_ALIVE)
        assert not client.closed

    def test_rate_limit_makes_the_shell_wait(self) -> None:
        sim = RelaySim(limits=Limits(bytes_per_second=10_000, burst_bytes=1))
        alice, bob = sim.log_in(ALICE), sim.log_in(BOB)
        assert alice.session.read_again_at is None
        sim.send(alice, BOB, bytes(60_000))
        assert alice.session.read_again_at is None  # the largest packet always fits
        sim.send(alice, BOB, bytes(60_000))
        assert alice.session.read_again_at == pytest.approx(sim.now + 5.45, abs=0.05)
        assert len(bob.take_packets()) == 2  # nothing is lost, TCP slows the sender down
        sim.core.set_limits(Limits(), sim.now)
        assert alice.session.read_again_at is None
        sim.send(alice, BOB, bytes(60_000))
        assert alice.session.read_again_at is None

    def test_relays_of_the_region_have_no_rate_limit(self) -> None:
        sim = RelaySim(limits=Limits(bytes_per_second=1))
        relay = sim.mesh_peer(OTHER_RELAY)
        for _ in range(3):
            sim.say(relay, frames.forward_packet(ALICE.public.raw, BOB.public.raw, bytes(60_000)))
        assert relay.session.read_again_at is None

    def test_home_moves(self) -> None:
        sim = RelaySim()
        alice = sim.log_in(ALICE)
        alice.core.note_preferred(True)
        sim.settle()
        counters = sim.core.counters
        assert (counters.home_moves_in, counters.home_moves_out) == (0, 0)  # it has only arrived
        sim.advance(6)
        for is_home in (False, False, True):
            alice.core.note_preferred(is_home)
            sim.settle()
        assert (counters.home_moves_in, counters.home_moves_out) == (1, 1)

    def test_restart_is_announced(self) -> None:
        sim = RelaySim()
        alice = sim.log_in(ALICE)
        sim.core.connect(Arrival("192.0.2.1", 1), sim.now).take_output(sim.now)
        sim.core.take_ready()
        sim.core.announce_restart(0.5, 60)
        assert sim.core.take_ready() == [alice.session]
        events = alice.core.receive_data(alice.session.take_output(sim.now), sim.now)
        assert events == [Restarting(0.5, 60.0)]
