"""Every pair of networks: the first packet arrives, none is lost, and what can be direct is, in time."""

from __future__ import annotations

import statistics

import pytest

from meshnode.disco.constants import SPRAY_PROBES, SPRAY_SOCKETS
from meshnode.disco.context import Settings
from meshnode.disco.destinations import DerpDestination
from meshnode.disco.events import SprayEnded, SprayStarted
from meshproto.addresses import AddrPort
from tests.meshnode.disco.meetings import meet
from tests.meshnode.disco.nats import EASY, HARD, Kind
from tests.meshnode.disco.simulation import SimNode, introduce, pair
from tests.meshnode.disco.world import DERP_DELAY, PORT, World

PAIRS = [(one, other) for one in Kind for other in Kind]


def can_be_direct(one: Kind, other: Kind) -> bool:
    """What the reference's §7.1 and §7.3 say: two hard NATs never, no UDP never, all else somehow."""
    return Kind.NO_UDP not in (one, other) and not {one, other} <= HARD


@pytest.mark.parametrize(("one", "other"), PAIRS, ids=lambda kind: kind.value)
def test_pair(one: Kind, other: Kind) -> None:
    outcome = meet(one, other, seed=1, limit=6.0)
    assert outcome.lost == 0
    assert outcome.first_packet == pytest.approx(DERP_DELAY)
    if not can_be_direct(one, other):
        assert outcome.direct_both is None
        assert outcome.technique.startswith("relay")
        assert outcome.datagrams < 200, "on the relay, quietly"
    else:
        assert outcome.direct_both is not None
        assert outcome.direct_both <= (1.0 if {one, other} <= EASY else 5.0)


def test_easy_pairs_take_a_way_over_derp_and_one_round_trip() -> None:
    times = [meet(one, other, seed=2, limit=1.0).direct_both for one in EASY for other in EASY]
    assert all(time is not None and time <= 0.1 for time in times)


@pytest.mark.parametrize("hard_first", [True, False])
def test_random_ports_are_met_in_time(hard_first: bool) -> None:
    kinds = (Kind.RANDOM, Kind.PORT) if hard_first else (Kind.PORT, Kind.RANDOM)
    times = [meet(*kinds, seed=seed, limit=6.0).direct_both for seed in range(20)]
    in_time = [time for time in times if time is not None and time <= 5.0]
    assert len(in_time) >= 19
    assert statistics.median(in_time) < 2.5


def test_a_nat_that_counts_is_met_without_a_spray() -> None:
    for seed in range(5):
        outcome = meet(Kind.SEQUENTIAL, Kind.PORT, seed=seed, limit=3.0)
        assert outcome.direct_both is not None
        assert outcome.direct_both < 0.5
        assert outcome.technique == "direct"


def test_with_loss_too() -> None:
    """Steps and retries make up for one datagram in ten."""
    times = []
    for seed in range(20):
        world = World(seed, loss=0.1)
        a, b = pair(world, Kind.PORT, Kind.PORT)
        if not a.endpoints or not b.endpoints:
            continue
        begin = world.now
        a.talk(b, 0.1, 8.0)
        assert world.run_until(lambda a=a, b=b: a.is_direct(b) and b.is_direct(a), 8.0)  # type: ignore[misc]
        times.append(world.now - begin)
    assert statistics.median(times) <= 0.3
    assert max(times) <= 1.5


def test_a_peer_whose_endpoints_nobody_told() -> None:
    """Its call tells them."""
    world = World(1)
    a, b = SimNode(world, "a", Kind.PORT), SimNode(world, "b", Kind.PORT, echoes=True)
    for node in (a, b):
        node.measure_regularly()
    world.run_for(1.0)
    a.meet(b, endpoints=())
    b.meet(a, endpoints=())
    a.talk(b, 0.1, 2.0)
    assert world.run_until(lambda: a.is_direct(b) and b.is_direct(a), 0.3)


def test_one_who_only_listens_is_reached_directly_too() -> None:
    world = World(1)
    a, b = pair(world, Kind.PORT, Kind.PORT)
    b.echoes = False
    a.talk(b, 0.1, 3.0)
    assert world.run_until(lambda: a.is_direct(b), 0.2)


def test_before_our_own_endpoints_are_known() -> None:
    """A node that has just started talks at once; its call leaves when it knows where it is."""
    world = World(1)
    a, b = SimNode(world, "a", Kind.PORT), SimNode(world, "b", Kind.PORT, echoes=True)
    b.measure()
    world.run_for(1.0)
    a.meet(b)
    b.meet(a)
    a.talk(b, 0.1, 2.0)
    assert world.run_until(lambda: a.is_direct(b) and b.is_direct(a), 0.4)
    assert 0 in b.numbers()


# --- IPv6 and LANs ---


def test_ipv6_where_ipv4_is_hopeless() -> None:
    world = World(1)
    a = SimNode(world, "a", Kind.RANDOM, has_ipv6=True)
    b = SimNode(world, "b", Kind.RANDOM, has_ipv6=True, echoes=True)
    introduce(a, b)
    a.talk(b, 0.1, 2.0)
    assert world.run_until(lambda: a.is_direct(b) and b.is_direct(a), 0.3)
    path = a.manager.confirmed(b.node_key)
    assert isinstance(path, AddrPort)
    assert ":" in path.host


def test_ipv6_is_preferred_where_it_is_not_much_slower() -> None:
    world = World(1)
    a = SimNode(world, "a", Kind.PORT, has_ipv6=True)
    b = SimNode(world, "b", Kind.PORT, has_ipv6=True, echoes=True)
    introduce(a, b)
    a.talk(b, 0.1, 2.0)
    world.run_for(1.0)
    assert a.manager.confirmed(b.node_key) == AddrPort("2001:db8:2::2", PORT)


def test_neighbours_talk_over_their_lan() -> None:
    world = World(1)
    a = SimNode(world, "a", Kind.PORT, lan="home")
    b = SimNode(world, "b", Kind.PORT, lan="home", echoes=True)
    introduce(a, b)
    a.talk(b, 0.1, 2.0)
    assert world.run_until(lambda: a.is_direct(b), 0.2)
    world.run_for(1.0)
    assert a.manager.confirmed(b.node_key) == AddrPort("192.168.0.2", PORT)


# --- what a spray may cost ---


def sprayed(world: World, *nodes: SimNode) -> tuple[int, int]:
    """How many sprays were started, and how many datagrams they took."""
    events = [event for node in nodes for _, event in node.events]
    started = sum(isinstance(event, SprayStarted) for event in events)
    return started, sum(event.sent for event in events if isinstance(event, SprayEnded))


def test_sockets_are_closed_but_for_the_one_that_was_met() -> None:
    world = World(1)
    a, b = pair(world, Kind.RANDOM, Kind.PORT)
    a.talk(b, 0.1, 8.0)
    assert world.run_until(lambda: a.is_direct(b) and b.is_direct(a), 6.0)
    world.run_for(1.0)
    assert a.sockets_opened == SPRAY_SOCKETS
    assert a.open_sockets == 1
    assert b.sockets_opened == 0


def test_a_spray_that_fails_is_not_repeated_on_this_network() -> None:
    world = World(1)
    a, b = pair(world, Kind.RANDOM, Kind.PORT)
    world.cuts.append(lambda source, target: True)
    a.talk(b, 0.5, 200.0)
    world.run_for(200.0)
    started, sent = sprayed(world, a, b)
    assert started == 2, "one on either side"
    assert sent <= SPRAY_PROBES + SPRAY_SOCKETS + 64
    assert a.open_sockets == 0
    assert not a.is_direct(b)
    world.cuts.clear()
    a.move(Kind.RANDOM, 9)
    a.talk(b, 0.1, 8.0)
    assert world.run_until(lambda: a.is_direct(b) and b.is_direct(a), 8.0)


def test_a_path_that_was_won_by_a_spray_can_be_won_again_later() -> None:
    world = World(1)
    a, b = pair(world, Kind.RANDOM, Kind.PORT)
    a.talk(b, 0.1, 8.0)
    assert world.run_until(lambda: a.is_direct(b) and b.is_direct(a), 6.0)
    world.run_for(320.0)  # idle; the NAT forgets
    assert sprayed(world, a, b)[0] == 2
    a.talk(b, 0.1, 12.0, first=1000)
    world.run_for(0.5)
    assert not a.is_direct(b)
    assert world.run_until(lambda: a.is_direct(b) and b.is_direct(a), 5.0)
    assert sprayed(world, a, b)[0] == 4


def test_the_switch() -> None:
    outcome = meet(Kind.RANDOM, Kind.PORT, seed=1, limit=6.0, settings=Settings(spray=False))
    assert outcome.direct_both is None
    assert outcome.datagrams < 100


def test_two_hard_nats_stay_on_the_relay_and_make_no_noise() -> None:
    world = World(1)
    a, b = pair(world, Kind.RANDOM, Kind.RANDOM)
    a.talk(b, 1.0, 300.0)
    world.run_for(60.0)
    before = world.sent_datagrams
    world.run_for(240.0)
    assert sprayed(world, a, b) == (0, 0)
    assert (world.sent_datagrams - before) / 240 <= 2.0, "per second, STUN included"
    assert isinstance(a.manager.confirmed(b.node_key), DerpDestination)
