"""The small machines one by one, with the time as a number."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.disco.budget import Budget
from meshnode.disco.candidates import Candidates, Origin, is_usable
from meshnode.disco.constants import (
    DEFAULT,
    MAX_CALL_ENDPOINTS,
    MAX_LEARNED,
    MAX_NETMAP_ENDPOINTS,
    MAX_PINGS_IN_FLIGHT,
    SPRAY_PROBES,
    SPRAY_SOCKETS,
    WIRE_MTUS,
)
from meshnode.disco.destinations import AuxPath, RelayPath
from meshnode.disco.discovery import Discovery
from meshnode.disco.liveness import Liveness
from meshnode.disco.mtu import MtuProbe, ping_size, wire_mtu_of
from meshnode.disco.pings import Ping, PingsInFlight, Purpose
from meshnode.disco.schedule import Schedule
from meshnode.disco.spray import PREDICTIONS, Role, Spray, predicted_ports, role_of, spray_targets
from meshproto.addresses import AddrPort

ONE = AddrPort("203.0.113.1", 1)
TWO = AddrPort("203.0.113.2", 2)
LAN = AddrPort("192.168.1.2", 3)
IPV6 = AddrPort("2001:db8::1", 4)

# --- liveness ---


@pytest.fixture
def liveness() -> Liveness:
    """Of a path with 40 ms, just confirmed at 100."""
    machine = Liveness(DEFAULT)
    machine.pinged(99.96)
    machine.answered(99.96, 100.0)
    return machine


def test_trust_wears_off_without_traffic(liveness: Liveness) -> None:
    assert liveness.is_trusted(106.4)
    assert not liveness.is_trusted(106.6)
    assert liveness.given_up_from == math.inf


def test_a_ping_without_answer_ends_trust_soon(liveness: Liveness) -> None:
    liveness.pinged(101.0)
    assert liveness.is_trusted(101.39)
    assert not liveness.is_trusted(101.41)
    assert liveness.given_up_from == 106.0


def test_an_answer_restores_it(liveness: Liveness) -> None:
    liveness.pinged(101.0)
    liveness.pinged(101.2)
    liveness.answered(101.2, 101.5)
    assert liveness.is_trusted(101.6)
    assert liveness.given_up_from == math.inf


def test_an_answer_to_the_first_ping_says_nothing_of_the_second(liveness: Liveness) -> None:
    liveness.pinged(101.0)
    liveness.pinged(101.2)
    liveness.answered(101.0, 101.25)
    assert not liveness.is_trusted(101.65)


def test_a_far_path_is_given_the_time_it_needs() -> None:
    far = Liveness(DEFAULT)
    for second in range(20):
        far.pinged(second)
        far.answered(second, second + 0.7)
    assert far.answer_time == pytest.approx(0.8)
    far.pinged(20.0)
    assert far.is_trusted(20.75)
    assert not far.is_trusted(20.9)


def test_repeated_when_unanswered_and_ever_slower(liveness: Liveness) -> None:
    assert liveness.ping_due(1.0) == 100.96
    liveness.pinged(101.0)
    assert liveness.ping_due(1.0) == 101.2
    liveness.pinged(101.2)
    liveness.pinged(101.4)
    assert liveness.ping_due(1.0) == pytest.approx(101.9)
    assert liveness.ping_due(3.0) == pytest.approx(101.9)


def test_a_busy_process_is_excused(liveness: Liveness) -> None:
    liveness.pinged(101.0)
    liveness.excuse(2.0)
    assert liveness.is_trusted(103.3)
    liveness.answered(101.0, 103.3)
    liveness.pinged(104.0)
    assert not liveness.is_trusted(104.0 + liveness.answer_time)


def test_a_restarted_one_knows_nothing(liveness: Liveness) -> None:
    liveness.restart()
    assert not liveness.is_trusted(100.0)
    assert liveness.ping_due(3.0) == -math.inf


# --- discovery ---


def test_a_round_has_steps_once_each() -> None:
    discovery = Discovery(DEFAULT)
    discovery.begin(10.0)
    assert [discovery.take_step(now) for now in (10.0, 10.1, 10.15, 10.16)] == [0, None, 1, None]
    assert discovery.take_step(10.95) == 3  # late: two steps are one
    assert not discovery.is_running
    assert discovery.next_step == math.inf


def test_rounds_are_ever_further_apart_until_something_is_new() -> None:
    discovery, now, gaps = Discovery(DEFAULT), 0.0, []
    for _ in range(5):
        discovery.begin(now)
        gaps.append(discovery.next_round - now)
        now = discovery.next_round
    assert gaps == [5, 10, 20, 30, 30]
    discovery.encourage()
    assert discovery.next_round == -math.inf
    discovery.begin(now)
    assert discovery.next_round == now + 5


# --- candidates ---


@pytest.fixture
def candidates() -> Candidates:
    return Candidates(DEFAULT)


def paths(candidates: Candidates) -> list[object]:
    return [one.path for one in candidates]


def test_each_origin_replaces_its_own(candidates: Candidates) -> None:
    assert candidates.set_netmap([ONE, LAN], None)
    assert candidates.set_call_me_maybe([ONE, TWO], None)
    assert paths(candidates) == [ONE, LAN, TWO]
    assert not candidates.set_call_me_maybe([ONE], None)
    assert not candidates.set_netmap([], None)
    assert paths(candidates) == [ONE]


def test_the_one_in_use_stays_until_it_is_released(candidates: Candidates) -> None:
    candidates.set_netmap([ONE, TWO], None)
    candidates.set_netmap([], ONE)
    assert paths(candidates) == [ONE]
    candidates.release(ONE)
    assert len(candidates) == 0


def test_numbers_are_bounded(candidates: Candidates) -> None:
    many = [AddrPort("203.0.113.1", port) for port in range(1, 1000)]
    candidates.set_netmap(many, None)
    assert len(candidates) == MAX_NETMAP_ENDPOINTS
    candidates.set_call_me_maybe(many[500:], None)
    assert len(candidates) == MAX_NETMAP_ENDPOINTS + MAX_CALL_ENDPOINTS
    for number, one in enumerate(reversed(many)):
        candidates.heard_ping(one, None, float(number))
    assert len(candidates) <= MAX_NETMAP_ENDPOINTS + MAX_CALL_ENDPOINTS + MAX_LEARNED


def test_the_one_heard_longest_ago_gives_way(candidates: Candidates) -> None:
    heard = [AddrPort("203.0.113.1", port) for port in range(1, MAX_LEARNED + 2)]
    for number, one in enumerate(heard[:-1]):
        candidates.heard_ping(one, None, float(number))
    candidates.heard_ping(heard[0], None, 100.0)
    candidates.heard_ping(heard[-1], None, 101.0)
    assert heard[1] not in paths(candidates)
    assert heard[0] in paths(candidates)


def test_learned_ones_live_while_they_ping(candidates: Candidates) -> None:
    candidates.set_netmap([ONE], None)
    candidates.heard_ping(ONE, None, 0.0)
    candidates.heard_ping(TWO, None, 0.0)
    candidates.expire(None, 44.0)
    assert paths(candidates) == [ONE, TWO]
    candidates.expire(None, 46.0)
    assert paths(candidates) == [ONE]
    assert candidates.get(ONE).origin == Origin.NETMAP  # type: ignore[union-attr]


def test_latency_is_smoothed(candidates: Candidates) -> None:
    one = candidates.add(ONE, Origin.NETMAP)
    one.answered(0.0, 0.1)
    one.answered(1.0, 1.9)
    assert one.latency == pytest.approx(0.2)


def test_where_the_peers_nat_is(candidates: Candidates) -> None:
    candidates.set_netmap([ONE, LAN, IPV6], None)
    assert candidates.public_ipv4() == [ONE]
    candidates.set_call_me_maybe([TWO, LAN], None)
    assert candidates.public_ipv4() == [TWO]
    later = AddrPort("203.0.113.2", 9)
    candidates.set_call_me_maybe([LAN, TWO, later, IPV6, ONE], None)
    assert candidates.public_ipv4() == [TWO, later], "in the order in which they were named"


def test_sockets_that_are_closed_take_their_candidates_along(candidates: Candidates) -> None:
    for socket in (1, 2):
        candidates.heard_ping(AuxPath(ONE, socket), None, 0.0)
    assert candidates.sockets == {1, 2}
    candidates.drop_sockets()
    assert paths(candidates) == []


@pytest.mark.parametrize(
    ("text", "usable"),
    [
        ("203.0.113.1:1", True),
        ("10.0.0.1:1", True),
        ("127.0.0.1:1", True),
        ("[2001:db8::1]:1", True),
        ("203.0.113.1:0", False),
        ("0.0.0.0:1", False),
        ("224.0.0.1:1", False),
        ("255.255.255.255:1", False),
        ("[fe80::1]:1", False),
        ("[ff02::1]:1", False),
        ("[::]:1", False),
    ],
)
def test_what_can_be_a_candidate(text: str, usable: bool) -> None:
    assert is_usable(AddrPort.parse(text)) is usable


# --- pings in flight ---


def test_a_ping_is_answered_once_and_in_time() -> None:
    pings = PingsInFlight(5.0)
    pings.add(b"a", Ping(ONE, 0.0, Purpose.DISCOVERY, 0))
    pings.add(b"b", Ping(TWO, 1.0, Purpose.DISCOVERY, 0))
    assert pings.take(b"a", 4.0) == Ping(ONE, 0.0, Purpose.DISCOVERY, 0)
    assert pings.take(b"a", 4.0) is None
    assert pings.take(b"b", 6.0) is None
    assert len(pings) == 0


def test_pings_in_flight_are_bounded() -> None:
    pings = PingsInFlight(5.0)
    for number in range(MAX_PINGS_IN_FLIGHT + 10):
        pings.add(number.to_bytes(12, "big"), Ping(ONE, 0.0, Purpose.DISCOVERY, 0))
    assert len(pings) == MAX_PINGS_IN_FLIGHT
    assert pings.take((9).to_bytes(12, "big"), 0.0) is None
    assert pings.take((10).to_bytes(12, "big"), 0.0) is not None


# --- budget ---


@given(st.lists(st.floats(0, 0.5), max_size=200))
def test_a_budget_is_never_exceeded(gaps: list[float]) -> None:
    budget, now, spent = Budget(10.0, 5.0), 0.0, 0
    for gap in gaps:
        now += gap
        spent += budget.spend(now)
    assert spent <= 5 + 10 * now + 1e-6


# --- schedule ---


class Thing:
    def __init__(self) -> None:
        self.wake_at = math.inf
        self.scheduled_at = math.inf


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 100)), max_size=100))
def test_nobody_is_called_early_or_forgotten(wishes: list[tuple[int, float]]) -> None:
    schedule: Schedule[Thing] = Schedule()
    things = [Thing() for _ in range(10)]
    for number, when in wishes:
        things[number].wake_at = when
        schedule.update(things[number])
    for now in range(0, 101, 5):
        while (thing := schedule.take_due(now)) is not None:
            if thing.wake_at <= now:
                thing.wake_at = math.inf
            schedule.update(thing)
        assert all(thing.wake_at > now for thing in things)
    assert schedule.next_timeout is None


def test_the_schedule_stays_small() -> None:
    schedule: Schedule[Thing] = Schedule()
    thing = Thing()
    for step in range(10_000):
        thing.wake_at = 10_000.0 - step
        schedule.update(thing)
    assert len(schedule._heap) < 100
    schedule.remove(thing)
    assert schedule.next_timeout is None


# --- spray ---


@pytest.mark.parametrize(
    ("own", "peer", "role"),
    [
        (True, False, Role.HARD),
        (False, True, Role.EASY),
        (True, True, None),
        (False, False, None),
        (None, True, None),
        (True, None, None),
        (False, None, None),
    ],
)
def test_roles(own: bool | None, peer: bool | None, role: Role | None) -> None:
    assert role_of(own, peer) is role


@pytest.mark.parametrize(
    ("observed", "first"),
    [
        ([5000, 5001], 5002),
        ([5004, 5000], 5008),
        ([5000], None),
        ([], None),
        ([5000, 9000], None),
        ([5000, 5001, 41641], 5002),  # the last is a guess: forwarded by hand
        ([1024, 5000, 5001], 5002),
    ],
)
def test_prediction(observed: list[int], first: int | None) -> None:
    ports = predicted_ports(observed)
    assert ports[:1] == ([] if first is None else [first])
    assert len(ports) in (0, PREDICTIONS)


def test_no_port_beyond_the_last() -> None:
    assert predicted_ports([65530, 65531])[-1] == 65535


def run(spray: Spray, begin: float, end: float) -> list[object]:
    sent: list[object] = []
    now = begin
    while not spray.is_over(now) and now < end:
        sent += spray.take_due(now)
        now = max(now + 1e-6, spray.next_timeout)
    return sent


def test_the_easy_side_probes_ports_none_twice_and_stops() -> None:
    targets = spray_targets(Role.EASY, [ONE, AddrPort("203.0.113.1", 9000), TWO])
    spray = Spray(Role.EASY, targets, range(0), random.Random(1).randbytes, 0.0, 4.0)
    sent = run(spray, 0.0, 10.0)
    assert len(sent) == len(set(sent)) == SPRAY_PROBES == spray.sent
    assert {one.host for one in sent} == {"203.0.113.1"}  # type: ignore[attr-defined]
    assert all(1024 <= one.port <= 65535 for one in sent)  # type: ignore[attr-defined]


def test_predicted_ports_come_first() -> None:
    targets = [AddrPort("203.0.113.1", port) for port in (5000, 5001)]
    spray = Spray(Role.EASY, targets, range(0), random.Random(1).randbytes, 0.0, 4.0)
    assert spray.take_due(0.0) == [AddrPort("203.0.113.1", 5002)]


def test_the_hard_side_opens_sockets() -> None:
    spray = Spray(Role.HARD, (ONE,), range(10, 10 + SPRAY_SOCKETS), random.Random(1).randbytes, 0.0, 4.0)
    sent = run(spray, 0.0, 10.0)
    assert sent == [AuxPath(ONE, socket) for socket in range(10, 10 + SPRAY_SOCKETS)]
    assert not spray.is_over(3.9)
    assert spray.is_over(4.0)


def test_a_spray_does_not_make_up_for_lost_time() -> None:
    spray = Spray(Role.EASY, (ONE,), range(0), random.Random(1).randbytes, 0.0, 4.0)
    assert len(spray.take_due(2.0)) == 64
    assert len(spray.take_due(2.0)) == 0


# --- MTU ---


@pytest.mark.parametrize(
    ("path", "overhead"), [(ONE, 28), (IPV6, 48), (AuxPath(ONE, 1), 28), (RelayPath(ONE, 1), 36)]
)
def test_sizes_make_whole_packets(path: AddrPort, overhead: int) -> None:
    assert ping_size(1500, path) == 1500 - overhead
    assert wire_mtu_of(ping_size(1500, path), path) == 1500


def test_mtu_is_probed_twice_and_then_later_again() -> None:
    probe = MtuProbe(DEFAULT)
    probe.start(ONE, 10.0)
    assert probe.take_due(10.0) == [mtu - 28 for mtu in WIRE_MTUS]
    assert probe.answered(ONE, 1280 - 28) is None  # no news
    assert probe.answered(ONE, 1400 - 28) == 1400
    assert probe.answered(ONE, 1280 - 28) is None
    assert probe.answered(TWO, 9000 - 28) is None
    assert probe.take_due(11.0) == [1500 - 28, 8000 - 28, 9000 - 28]
    assert probe.take_due(12.0) == []
    assert probe.next_timeout == 11.0 + DEFAULT.mtu_again_after
    assert probe.take_due(probe.next_timeout) == [mtu - 28 for mtu in WIRE_MTUS]
