"""A check from its first probe to its report, with the time as a number."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.netcheck.check import Netcheck, Probe
from meshnode.netcheck.plan import full_plan, incremental_plan
from meshnode.netcheck.report import Family, Report
from meshproto.addresses import AddrPort
from meshproto.messages import DERPRegion
from tests.meshnode.netcheck.maps import OTHER, OWN, OWN_IPV6, WORLD, region

IPV4 = (Family.IPV4,)
BOTH = (Family.IPV4, Family.IPV6)
LATENCY = {1: 0.02, 2: 0.03, 3: 0.08, 4: 0.28, 5: 0.2}


def check(
    regions: dict[int, DERPRegion] = WORLD, families: tuple[Family, ...] = IPV4, **changes: bool
) -> Netcheck:
    return Netcheck(
        full_plan(regions, families),
        entropy=random.Random(1).randbytes,
        now=0.0,
        os_has_ipv6=True,
        **changes,
    )


def run(machine: Netcheck, answers: dict[str, tuple[float, AddrPort]]) -> tuple[float, list[Probe]]:
    """Answers by node and family (`1a/v4`): latency, observed address. Returns the end, and the probes."""
    now, sent = 0.0, []
    coming: list[tuple[float, bytes, AddrPort]] = []
    while not machine.is_done(now) and not machine.wants_fallback(now):
        for probe in machine.take_probes(now):
            sent.append(probe)
            machine.sent(probe, now)
            key = f"{probe.node.name}/{probe.family.value}"
            if key in answers:
                latency, observed = answers[key]
                coming.append((now + latency, probe.tx_id, observed))
        coming.sort()
        due = machine.next_timeout(now)
        assert due > now, "no endless turns"
        if coming and coming[0][0] <= due:
            now, tx_id, observed = coming.pop(0)
            machine.stun_received(tx_id, observed, now)
        else:
            now = due
    return now, sent


def everywhere(observed: AddrPort = OWN) -> dict[str, tuple[float, AddrPort]]:
    return {
        f"{one.name}/v4": (LATENCY[number], observed)
        for number, region in WORLD.items()
        for one in region.nodes
    }


def test_everybody_answers() -> None:
    machine = check(verbose=True)
    end, sent = run(machine, everywhere())
    report = machine.report
    assert report.region_latency == pytest.approx(LATENCY)
    assert report.udp
    assert report.ipv4
    assert report.ipv4_can_send
    assert report.mapping_varies_by_dest_ip is False
    assert report.global_v4 == OWN
    assert report.global_v4_counters[OWN] == 5
    assert end == pytest.approx(0.28)
    assert len(sent) < 15, "no more tries where an answer came"


def test_enough_answers_end_it_soon() -> None:
    machine = check()
    end, _ = run(machine, everywhere())
    assert end <= 0.08 + 2 * 0.08 + 1e-9
    assert set(machine.report.region_latency) == {1, 2, 3, 5}, "Sydney is not waited for"


def test_a_lost_probe_is_made_up_for() -> None:
    answers = everywhere()
    del answers["1a/v4"]
    machine = check(verbose=True)
    run(machine, answers)
    assert machine.report.region_latency[1] == pytest.approx(0.02)


def test_a_hard_nat_is_seen_by_two_regions() -> None:
    answers = everywhere()
    answers["2a/v4"] = (0.03, OTHER)
    machine = check()
    run(machine, answers)
    assert machine.report.mapping_varies_by_dest_ip is True
    assert machine.report.global_v4 == OWN
    assert list(machine.report.global_v4_counters)[:2] == [OWN, OTHER]


def test_a_hard_nat_is_seen_by_two_servers_of_one_region() -> None:
    regions = {1: region(1, "home", "Home", nodes=2)}
    for observed, varies in ((OTHER, True), (OWN, False)):
        machine = check(regions)
        _, sent = run(machine, {"1a/v4": (0.02, OWN), "1b/v4": (0.02, observed)})
        assert machine.report.mapping_varies_by_dest_ip is varies
        assert [probe.node.name for probe in sent] == ["1a", "1b"]


def test_one_server_cannot_tell() -> None:
    machine = check({1: region(1, "home", "Home")})
    end, sent = run(machine, {"1a/v4": (0.02, OWN)})
    assert machine.report.mapping_varies_by_dest_ip is None
    assert end == pytest.approx(0.02)
    assert len(sent) == 1


def test_ipv6_beside_ipv4() -> None:
    answers = everywhere()
    answers["1a/v6"] = (0.015, OWN_IPV6)
    machine = check(families=BOTH)
    run(machine, answers)
    assert machine.report.ipv6
    assert machine.report.global_v6 == OWN_IPV6
    assert machine.report.region_latency[1] == pytest.approx(0.015)
    assert machine.report.region_v4_latency[1] == pytest.approx(0.02)


def test_a_family_that_the_path_swallows_does_not_hold_up_a_small_map() -> None:
    regions = {1: region(1, "home", "Home", nodes=2)}
    machine = check(regions, BOTH)
    end, sent = run(machine, {"1a/v4": (0.02, OWN), "1b/v4": (0.02, OWN)})
    assert end == pytest.approx(0.2 + 0.3)
    assert machine.report.mapping_varies_by_dest_ip is False
    assert len([probe for probe in sent if probe.family is Family.IPV6]) == 3


def test_the_second_server_of_the_only_region_is_still_asked() -> None:
    machine = check({1: region(1, "home", "Home", nodes=3)}, BOTH)
    run(machine, {"1a/v4": (0.001, OWN), "1a/v6": (0.001, OWN_IPV6), "1c/v4": (0.001, OTHER)})
    assert machine.report.mapping_varies_by_dest_ip is True


def test_time_before_a_probe_left_is_no_latency() -> None:
    machine = check()
    probe = machine.take_probes(0.0)[0]
    machine.sent(probe, 0.05)
    machine.stun_received(probe.tx_id, OWN, 0.07)
    assert machine.report.region_latency[probe.region_id] == pytest.approx(0.02)


def test_without_a_way_out_it_does_not_wait() -> None:
    machine = check()
    for now in (0.0, 0.1, 0.2):
        assert not machine.wants_fallback(now)
        for probe in machine.take_probes(now):
            machine.not_sent(probe)
    assert machine.wants_fallback(0.2)
    assert not machine.report.ipv4_can_send


def test_without_udp_the_relays_are_measured_otherwise() -> None:
    machine = check()
    end, sent = run(machine, {})
    assert end == 3.0
    assert len(sent) == 15
    assert machine.wants_fallback(end)
    assert not machine.is_done(end)
    machine.https_measured(1, Family.IPV4, 0.1)
    machine.icmp_measured(2, 0.05)
    assert machine.report.region_latency == {1: 0.1, 2: 0.05}
    assert machine.report.icmpv4
    assert machine.report.ipv4
    assert not machine.report.udp
    machine.fallback_ended()
    assert machine.is_done(end)


def test_the_fallback_has_an_end() -> None:
    machine = check()
    run(machine, {})
    assert not machine.is_done(4.9)
    assert machine.is_done(5.0)


def test_without_servers_it_does_not_wait() -> None:
    machine = check({})
    assert machine.take_probes(0.0) == []
    assert machine.wants_fallback(0.0)


def test_an_incremental_check_is_over_with_its_answers() -> None:
    last = Report()
    for number, latency in LATENCY.items():
        last.add_latency(number, Family.IPV4, latency)
    machine = Netcheck(
        incremental_plan(WORLD, IPV4, last, home=1),
        entropy=random.Random(1).randbytes,
        now=0.0,
        os_has_ipv6=True,
    )
    end, sent = run(machine, everywhere())
    assert end == pytest.approx(0.08)
    assert len(sent) <= 7


def test_an_answer_counts_once_and_strangers_do_not() -> None:
    machine = check()
    probe = machine.take_probes(0.0)[0]
    assert machine.stun_received(probe.tx_id, OWN, 0.02)
    assert not machine.stun_received(probe.tx_id, OWN, 0.03)
    assert not machine.stun_received(b"\x00" * 12, OTHER, 0.03)
    assert machine.report.global_v4_counters == {OWN: 1}


@given(
    st.dictionaries(
        st.sampled_from(
            [
                f"{one.name}/{family.value}"
                for region in WORLD.values()
                for one in region.nodes
                for family in Family
            ]
        ),
        st.tuples(st.floats(0.001, 4.0), st.sampled_from([OWN, OTHER, OWN_IPV6])),
    ),
    st.booleans(),
)
def test_it_always_ends_in_time(answers: dict[str, tuple[float, AddrPort]], verbose: bool) -> None:
    machine = check(families=BOTH, verbose=verbose)
    end, sent = run(machine, answers)
    assert end <= 3.0
    assert len(sent) <= 30
    report = machine.report
    assert report.udp == bool(report.region_latency)
    assert all(
        latency
        == min(
            table[number] for table in (report.region_v4_latency, report.region_v6_latency) if number in table
        )
        for number, latency in report.region_latency.items()
    )
