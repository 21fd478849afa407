"""Which servers are asked, how often, and when."""

from __future__ import annotations

import pytest

from meshnode.netcheck.plan import (
    Plan,
    answers_over,
    full_plan,
    incremental_plan,
    stun_port,
)
from meshnode.netcheck.report import Family, Report
from meshproto.messages import DERPRegion
from tests.meshnode.netcheck.maps import WORLD, node, region

BOTH = (Family.IPV4, Family.IPV6)
IPV4 = (Family.IPV4,)


def tries(plan: Plan) -> dict[tuple[int, Family], list[tuple[float, str]]]:
    return {
        (one.region_id, one.family): [(round(one_try.delay, 3), one_try.node.name) for one_try in one.tries]
        for one in plan.sets
    }


def last(**latencies: float) -> Report:
    report = Report()
    for name, latency in latencies.items():
        report.add_latency(int(name[1:]), Family.IPV4, latency)
    return report


def test_a_full_plan_asks_everybody_three_times_in_turn() -> None:
    plan = tries(full_plan(WORLD, BOTH))
    assert len(plan) == 10
    assert plan[1, Family.IPV4] == [(0.0, "1a"), (0.1, "1b"), (0.2, "1c")]
    assert plan[3, Family.IPV6] == [(0.0, "3a"), (0.1, "3b"), (0.2, "3a")]


def test_an_incremental_plan_asks_the_nearest_and_the_home() -> None:
    report = last(r1=0.010, r2=0.020, r3=0.030, r4=0.300, r5=0.200)
    plan = tries(incremental_plan(WORLD, IPV4, report, home=4))
    assert plan == {
        (1, Family.IPV4): [(0.0, "1a"), (0.012, "1b")],
        (2, Family.IPV4): [(0.0, "2a"), (0.024, "2a")],
        (3, Family.IPV4): [(0.0, "3a")],
        (4, Family.IPV4): [(0.0, "4a"), (0.36, "4a"), (0.77, "4a"), (1.23, "4a")],
    }


def test_the_third_is_asked_over_one_family_only() -> None:
    report = last(r1=0.010, r2=0.020, r3=0.030)
    report.ipv6 = True
    plan = tries(incremental_plan(WORLD, BOTH, report, home=1))
    assert [key for key in plan if key[0] == 3] == [(3, Family.IPV4)]
    assert (1, Family.IPV6) in plan
    assert len(plan[1, Family.IPV4]) == 4


def test_an_unknown_region_has_a_spacing_too() -> None:
    plan = tries(incremental_plan(WORLD, IPV4, last(r1=0.010), home=2))
    assert [delay for delay, _ in plan[2, Family.IPV4]] == [0.0, 0.2, 0.45, 0.75]


def test_without_latencies_it_is_a_full_one() -> None:
    assert incremental_plan(WORLD, BOTH, Report(), home=1).is_full
    assert not incremental_plan(WORLD, BOTH, last(r1=0.1), home=1).is_full


def test_regions_that_are_not_to_be_measured() -> None:
    regions = {
        1: region(1, "a", "A"),
        2: region(2, "b", "B", no_measure_no_home=True),
        3: region(3, "c", "C", nodes=0),
        4: region(4, "d", "D", avoid=True),
    }
    assert {key[0] for key in tries(full_plan(regions, IPV4))} == {1, 4}
    report = last(r1=0.1, r4=0.001)
    assert {key[0] for key in tries(incremental_plan(regions, IPV4, report, home=1))} == {1}
    assert {key[0] for key in tries(incremental_plan(regions, IPV4, report, home=4))} == {1, 4}


@pytest.mark.parametrize(
    ("changes", "ipv4", "ipv6"),
    [
        ({}, True, True),
        ({"ipv4": "192.0.2.1", "ipv6": "none"}, True, False),
        ({"ipv4": "none"}, False, True),
        ({"host_name": "", "ipv4": "192.0.2.1"}, True, False),
        ({"stun_port": -1}, False, False),
        ({"stun_port": 3479}, True, True),
    ],
)
def test_which_family_a_node_answers_over(changes: dict[str, object], ipv4: bool, ipv6: bool) -> None:
    one = node("1a", 1, **changes)
    assert answers_over(one, Family.IPV4) is ipv4
    assert answers_over(one, Family.IPV6) is ipv6


def test_ports() -> None:
    assert [stun_port(node("1a", 1, stun_port=port)) for port in (0, -1, 3479)] == [3478, 0, 3479]


def test_a_region_whose_nodes_do_not_answer_is_left_out() -> None:
    regions = {
        1: region(1, "a", "A", nodes=0),
        2: DERPRegion(region_id=2, nodes=(node("2a", 2, stun_port=-1),)),
    }
    assert full_plan(regions, BOTH).sets == ()
