"""Paths that die, and come back; nodes that move; bad weather. And what the other timings would cost."""

from __future__ import annotations

import pytest

from meshnode.disco.constants import TAILSCALE
from meshnode.disco.context import Settings
from meshnode.disco.destinations import DerpDestination
from meshnode.disco.events import PathChanged
from tests.meshnode.disco.nats import Kind, Nat
from tests.meshnode.disco.simulation import SimNode, introduce, pair
from tests.meshnode.disco.world import World

TOLD = 2.0
"""Seconds within which traffic goes on."""


def talking(
    world: World, one: Kind = Kind.PORT, other: Kind = Kind.PORT, settings: Settings | None = None
) -> tuple[SimNode, SimNode]:
    """Two nodes with a direct path and 50 packets per second over it, each answered."""
    a, b = pair(world, one, other, settings=settings)
    a.talk(b, 0.02, 90.0)
    world.run_for(10.0)
    assert a.is_direct(b)
    assert b.is_direct(a)
    return a, b


def gaps(a: SimNode, b: SimNode, start: float) -> tuple[float, float]:
    end = a.world.now
    return a.longest_gap(start, end), b.longest_gap(start, end)


@pytest.mark.parametrize("phase", [0.0, 0.13, 0.29, 0.5, 0.71, 0.97])
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.25])
def test_a_dead_path_is_left_for_the_relay_in_time(phase: float, delay: float) -> None:
    """Wherever between two heartbeats it dies, and however far the peer is."""
    world = World(1)
    world.extra_delay = lambda source, target: delay
    a, b = talking(world)
    world.run_for(phase)
    start = world.now
    world.cuts.append(lambda source, target: True)
    world.run_for(10.0)
    assert max(gaps(a, b, start)) <= TOLD
    assert not a.is_direct(b)


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_path_that_dies_in_one_direction(direction: str) -> None:
    world = World(2)
    a, b = talking(world)
    start = world.now
    world.cuts.append(lambda source, target: source is (a if direction == "there" else b))
    world.run_for(10.0)
    assert max(gaps(a, b, start)) <= TOLD


def test_it_is_found_again_when_it_works_again() -> None:
    world = World(3)
    a, b = talking(world)
    world.cuts.append(lambda source, target: True)
    world.run_for(20.0)
    world.cuts.clear()
    start = world.now
    assert world.run_until(lambda: a.is_direct(b) and b.is_direct(a), 31.0)
    world.run_for(1.0)
    assert max(gaps(a, b, start)) <= 0.1, "going back costs nothing"


def test_a_short_cut_is_survived_on_the_same_path() -> None:
    world = World(3)
    a, b = talking(world)
    start = world.now
    world.cuts.append(lambda source, target: True)
    world.run_for(3.0)
    world.cuts.clear()
    assert world.run_until(lambda: a.is_direct(b) and b.is_direct(a), 2.0)
    world.run_for(2.0)
    assert max(gaps(a, b, start)) <= TOLD


def test_a_nat_that_restarts() -> None:
    """Its mappings are gone, and the ports of new ones are others."""
    world = World(4)
    a, b = talking(world)
    start = world.now
    (nat,) = a._boxes[4]
    assert isinstance(nat, Nat)
    nat.restart()
    world.run_for(10.0)
    assert max(gaps(a, b, start)) <= TOLD
    assert a.is_direct(b)
    assert b.is_direct(a)


@pytest.mark.parametrize("kinds", [(Kind.PORT, Kind.PORT), (Kind.OPEN, Kind.PORT), (Kind.PORT, Kind.ADDRESS)])
@pytest.mark.parametrize("mover", [0, 1])
def test_a_node_moves(kinds: tuple[Kind, Kind], mover: int) -> None:
    world = World(5)
    nodes = talking(world, *kinds)
    start = world.now
    nodes[mover].move(kinds[mover], 9)
    world.run_for(3.0)
    assert max(gaps(*nodes, start)) <= 1.0
    assert all(one.is_direct(other) for one, other in (nodes, nodes[::-1]))
    assert nodes[1 - mover].manager.confirmed(nodes[mover].node_key) == nodes[mover].endpoints[0]


def test_a_move_to_a_network_without_udp_and_back() -> None:
    world = World(6)
    a, b = talking(world)
    start = world.now
    a.move(Kind.NO_UDP, 9)
    world.run_for(10.0)
    assert max(gaps(a, b, start)) <= TOLD
    a.move(Kind.PORT, 8)
    assert world.run_until(lambda: a.is_direct(b) and b.is_direct(a), 1.0)


def test_the_relay_dies_and_nobody_notices() -> None:
    world = World(7)
    a, b = talking(world)
    start = world.now
    world.relay_is_up = False
    world.run_for(60.0)
    assert max(gaps(a, b, start)) <= 0.05
    lost = set(range(round((start - 1001) / 0.02), 3000)) - b.numbers()
    assert not lost


def test_without_a_relay_open_networks_find_each_other_still() -> None:
    world = World(8)
    a, b = pair(world, Kind.OPEN, Kind.PORT)
    world.relay_is_up = False
    b.echoes = False
    b.talk(a, 0.1, 3.0)
    assert world.run_until(lambda: b.is_direct(a), 0.2)


def test_bad_weather_is_no_reason_to_leave() -> None:
    """One datagram in fifty lost, delays that vary by 100 ms: data hardly ever takes the relay."""
    world = World(9, loss=0.02)
    world.extra_delay = lambda source, target: world.rng.random() * 0.1
    a, b = talking(world)
    before = len([event for _, event in a.events if isinstance(event, PathChanged)])
    b.received.clear()
    world.run_for(60.0)
    relayed = sum(isinstance(one.via, DerpDestination) for one in b.received)
    assert relayed / len(b.received) <= 0.03
    changes = len([event for _, event in a.events if isinstance(event, PathChanged)]) - before
    assert changes <= 6


def test_steady_latency_makes_no_path_changes() -> None:
    world = World(10)
    world.extra_delay = lambda source, target: 0.3
    a, b = talking(world)
    world.run_for(60.0)
    assert len([event for _, event in a.events if isinstance(event, PathChanged)]) == 2
    assert len([event for _, event in b.events if isinstance(event, PathChanged)]) == 2


def test_a_path_that_becomes_slow_is_left_for_a_better_one() -> None:
    world = World(11)
    a = SimNode(world, "a", Kind.PORT, has_ipv6=True)
    b = SimNode(world, "b", Kind.PORT, has_ipv6=True, echoes=True)
    introduce(a, b)
    a.talk(b, 0.1, 200.0)
    world.run_for(5.0)
    ipv6 = a.manager.confirmed(b.node_key)
    assert ":" in str(ipv6)
    slow = {"2001:db8:1::2", "2001:db8:2::2"}
    world.delay_of_host = lambda host: 0.2 if host in slow else 0.0
    world.run_for(150.0)
    assert a.manager.confirmed(b.node_key) == b.endpoints[0]


# --- against the timings of the other implementation ---


def test_an_answer_to_every_ping_and_call_is_worth_it() -> None:
    """Both sides are direct sooner, and the one that began does not wait for its next round."""
    times = []
    for settings in (Settings(), Settings(timings=TAILSCALE)):
        world = World(1)
        a, b = pair(world, Kind.PORT, Kind.PORT, settings=settings)
        b.echoes = False
        begin = world.now
        a.talk(b, 0.1, 10.0)
        assert world.run_until(lambda a=a, b=b: a.is_direct(b), 10.0)  # type: ignore[misc]
        times.append(world.now - begin)
    assert times[0] <= 0.1
    assert times[1] >= 4.0


def test_frequent_heartbeats_are_worth_it() -> None:
    outages = []
    for settings in (Settings(), Settings(timings=TAILSCALE)):
        world = World(1)
        a, b = talking(world, settings=settings)
        start = world.now
        world.cuts.append(lambda source, target: True)
        world.run_for(20.0)
        outages.append(max(gaps(a, b, start)))
    assert outages[0] <= 1.5
    assert outages[1] >= 4.0


@pytest.mark.parametrize("stock_is_first", [True, False])
def test_beside_a_peer_with_the_other_timings(stock_is_first: bool) -> None:
    """It gains too: what we answer and when is what confirms its paths."""
    world = World(1)
    settings = [Settings(timings=TAILSCALE), Settings()]
    if not stock_is_first:
        settings.reverse()
    a, b = pair(world, Kind.PORT, Kind.PORT, settings=settings[0], other_settings=settings[1])
    a.talk(b, 0.02, 40.0)
    ours, other = (b, a) if stock_is_first else (a, b)
    assert world.run_until(lambda: ours.is_direct(other), 0.2)
    assert world.run_until(lambda: other.is_direct(ours), 6.0)
    world.run_for(10.0)
    assert ours.is_direct(other)
    assert other.is_direct(ours)
