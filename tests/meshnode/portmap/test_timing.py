"""Renewals, a gateway's clock, and which grants are worth anything."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from meshnode.portmap.mapping import Grant, MappingFailed, is_usable_external
from meshnode.portmap.timing import GatewayClock, nat_pmp_rule, pcp_rule, renewal_delay

RULES = pytest.mark.parametrize("rule", [nat_pmp_rule, pcp_rule])


@given(lifetime=st.integers(30, 86400))
def test_renewals_come_at_half_of_what_is_left_and_end(lifetime: int) -> None:
    at, times = 0.0, []
    while lifetime - at > 4:
        at += renewal_delay(lifetime - at)
        times.append(at)
    assert times[0] == lifetime / 2
    assert all(later - earlier >= 4 for earlier, later in zip([0.0, *times], times, strict=False))
    assert len(times) < 20


@RULES
@given(steps=st.lists(st.floats(0, 100_000), min_size=1, max_size=20), start=st.integers(0, 1 << 30))
def test_a_clock_that_runs_like_ours_is_the_same_gateway(
    rule: object, steps: list[float], start: int
) -> None:
    clock = GatewayClock(rule)  # type: ignore[arg-type]
    now = 0.0
    assert clock.observe(now, start)
    for step in steps:
        now += step
        assert clock.observe(now, start + int(now))


@RULES
@given(uptime=st.integers(0, 1 << 30), elapsed=st.floats(0, 1_000_000), since_restart=st.floats(0, 1_000_000))
def test_a_clock_that_began_anew_is_noticed(
    rule: object, uptime: int, elapsed: float, since_restart: float
) -> None:
    """From the moment that what it shows cannot be a clock that is 1/8 slow and 2 s late."""
    assume(since_restart <= elapsed)
    assume(uptime + elapsed * 7 / 8 - 3 > since_restart)
    clock = GatewayClock(rule)  # type: ignore[arg-type]
    clock.observe(0.0, uptime)
    assert not clock.observe(elapsed, int(since_restart))


def test_only_pcp_minds_a_clock_that_runs_ahead() -> None:
    assert nat_pmp_rule(10, 1000)
    assert not pcp_rule(10, 1000)


@pytest.mark.parametrize(
    ("address", "usable"),
    [
        ("25.0.113.20", True),
        ("203.0.113.20", True),  # of a lab
        ("100.63.255.255", True),
        ("100.64.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("172.32.0.1", True),
        ("192.168.1.20", False),
        ("192.0.0.2", False),
        ("169.254.1.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("0.1.2.3", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
    ],
)
def test_which_address_outside_is_of_use(address: str, usable: bool) -> None:
    parsed = IPv4Address(address)
    assert is_usable_external(parsed) == usable
    if usable:
        assert str(Grant.of(parsed, 1, 7200).external) == f"{address}:1"
    else:
        with pytest.raises(MappingFailed, match=address):
            Grant.of(parsed, 1, 7200)


@pytest.mark.parametrize(
    ("lifetime", "believed"), [(30, 30), (7200, 7200), (86401, 86400), (2**32 - 1, 86400)]
)
def test_a_long_life_is_not_believed(lifetime: int, believed: int) -> None:
    assert Grant.of(IPv4Address("25.0.113.20"), 1, lifetime).lifetime == believed


@pytest.mark.parametrize(("port", "lifetime"), [(1, 0), (1, 29), (0, 7200)])
def test_a_grant_of_nothing_is_a_failure(port: int, lifetime: int) -> None:
    with pytest.raises(MappingFailed):
        Grant.of(IPv4Address("25.0.113.20"), port, lifetime)
