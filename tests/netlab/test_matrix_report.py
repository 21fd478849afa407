"""What the matrix makes of its measurements; without any network."""

from __future__ import annotations

import pytest

from tests.netlab.matrix import all_pairs, disjoint
from tests.netlab.matrix_report import as_json, markdown
from tests.netlab.meeting import Cell, Expected, Meeting, Pings, expected
from tests.netlab.networks import KINDS, NETWORKS, find

OUTPUT = """\
PING 100.64.0.2 (100.64.0.2) 56(84) bytes of data.
[1000.060] 64 bytes from 100.64.0.2: icmp_seq=1 ttl=64 time=40.0 ms
[1000.103] 64 bytes from 100.64.0.2: icmp_seq=2 ttl=64 time=3.00 ms
[1000.303] 64 bytes from 100.64.0.2: icmp_seq=4 ttl=64 time=3.00 ms

--- 100.64.0.2 ping statistics ---
{sent} packets transmitted, 3 received, 40% packet loss, time 400ms
"""


def meeting(direct: float | None, *, first: float | None = 20.0, technique: str = "spray") -> Meeting:
    pings = Pings(0.0, first, 30, int(first is None))
    if direct is None:
        return Meeting(pings, None, None, reason="both_behind_hard_nat")
    return Meeting(pings, direct, direct / 2, technique)


def test_pings_are_counted_from_the_first_until_half_a_second_before_the_end() -> None:
    pings = Pings.parse(OUTPUT.format(sent=9), started=999.0)
    assert pings.began == pytest.approx(1000.02)
    assert (pings.first_ms, pings.sent, pings.lost) == (40.0, 9, 1)
    assert Pings.parse(OUTPUT.format(sent=10), started=999.0).lost == 2
    assert Pings.parse("", started=999.0) == Pings(999.0, None, 0, 0)


def test_direct_is_when_both_sides_are() -> None:
    assert meeting(0.5).direct == 0.5
    assert Meeting(Pings(0.0, 1.0, 9, 0), 0.5, None).direct is None


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [
        ("open", "cgnat-port-restricted", Expected.EASY),
        ("open", "symmetric-random", Expected.HARD),
        ("cgnat-symmetric-sequential", "port-restricted", Expected.HARD),
        ("symmetric-sequential", "symmetric-random", Expected.RELAY),
        ("open", "udp-blocked", Expected.RELAY),
        ("only-443", "full-cone", Expected.RELAY),
        ("port-mapper", "symmetric-random", Expected.HARD),
        ("port-mapper", "port-restricted", Expected.EASY),
        ("ipv6", "ipv6-firewall", Expected.EASY),
        ("ipv6", "symmetric-random", Expected.RELAY),
    ],
)
def test_what_is_expected_of_a_pair_whoever_speaks_first(left: str, right: str, wanted: Expected) -> None:
    assert expected(KINDS[left], KINDS[right]) is wanted
    assert expected(KINDS[right], KINDS[left]) is wanted


def test_an_easy_pair_has_to_be_direct_always_and_at_once() -> None:
    assert Cell("open", "open", Expected.EASY, (meeting(0.1), meeting(0.2))).shortcomings() == []
    assert Cell("open", "open", Expected.EASY, (meeting(0.1), meeting(None))).shortcomings()
    assert Cell("open", "open", Expected.EASY, (meeting(1.5),)).shortcomings()
    assert Cell("open", "open", Expected.EASY, (meeting(0.1, first=None),)).shortcomings()


@pytest.mark.parametrize(("late", "is_right"), [(1, True), (2, False)])
def test_a_hard_pair_may_miss_one_time_in_twenty(late: int, is_right: bool) -> None:
    meetings = (*(meeting(2.0) for _ in range(20 - late)), *(meeting(5.5) for _ in range(late)))
    assert (Cell("open", "symmetric-random", Expected.HARD, meetings).shortcomings() == []) is is_right


def test_nobody_is_in_two_pairs_of_a_batch() -> None:
    batches = disjoint(all_pairs())
    assert sorted(pair for batch in batches for pair in batch) == sorted(all_pairs())
    for batch in batches:
        assert len({left for left, _ in batch}) == len({right for _, right in batch}) == len(batch)


def test_the_report_shows_every_pair_and_what_is_not_as_wanted() -> None:
    cells = [
        Cell("open", "open", Expected.EASY, (meeting(0.12, technique="advertised"),)),
        Cell("open", "symmetric-random", Expected.HARD, (meeting(None),)),
    ]
    text = markdown(cells, runs=1)
    assert "| open | 0.12 | – |" in text
    assert "| open | open | direct | 20 ms | 0 | 0.12 s | 0.12 s | advertised |" in text
    assert "Not as wanted: open → symmetric-random: direct within 5 s in 0 of 1 runs." in text
    document = as_json(cells)
    assert document[0]["runs"][0]["direct"] == 0.12
    assert document[1]["shortcomings"]


def test_networks_are_found_by_name_or_by_two_kinds() -> None:
    assert find("cgnat-both") is NETWORKS["cgnat-both"]
    assert find("open,symmetric-random").right is KINDS["symmetric-random"].site
    for unknown in ("", "nowhere", "open,nowhere"):
        with pytest.raises(KeyError):
            find(unknown)
