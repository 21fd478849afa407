"""The home region, and what is not a reason to move."""

from __future__ import annotations

import pytest

from meshnode.netcheck.home import HomeChooser
from meshnode.netcheck.report import Family, Report


def report(**latencies: float) -> Report:
    """`r1=20` is region 1, 20 ms away."""
    made = Report()
    for name, milliseconds in latencies.items():
        made.add_latency(int(name[1:]), Family.IPV4, milliseconds / 1000)
    return made


def choose(
    chooser: HomeChooser,
    made: Report,
    now: float = 1000.0,
    *,
    scores: dict[int, float] | None = None,
    heard_at: float | None = None,
) -> int:
    return chooser.choose(made, now, scores=scores or {}, begun_at=now - 1, heard_from_home_at=heard_at)


@pytest.mark.parametrize(
    ("home", "latencies", "expected"),
    [
        (0, {"r1": 20, "r2": 30}, 1),
        (2, {"r1": 10, "r2": 40}, 1),
        (2, {"r1": 25, "r2": 30}, 2),  # 5 ms are too little
        (2, {"r1": 85, "r2": 100}, 2),  # 15 ms, but 85 %
        (2, {"r1": 60, "r2": 100}, 1),
        (2, {"r1": 66, "r2": 100}, 1),
        (2, {"r1": 67, "r2": 100}, 2),
        (2, {"r1": 60}, 1),  # the old home does not answer
        (1, {"r1": 20, "r2": 20}, 1),
        (0, {"r1": 20, "r2": 20}, 1),
        (7, {"r1": 20}, 1),
    ],
)
def test_table(home: int, latencies: dict[str, float], expected: int) -> None:
    chooser, made = HomeChooser(home), report(**latencies)
    assert choose(chooser, made) == expected
    assert made.preferred_derp == chooser.home == expected


@pytest.mark.parametrize(("heard_at", "expected"), [(999.5, 2), (993.0, 2), (991.0, 1), (None, 1)])
def test_a_home_that_is_heard_from_is_kept_though_it_did_not_answer(
    heard_at: float | None, expected: int
) -> None:
    assert choose(HomeChooser(2), report(r1=10), heard_at=heard_at) == expected


@pytest.mark.parametrize(("heard_at", "expected"), [(900.0, 2), (870.0, 0), (None, 0)])
def test_nothing_answers(heard_at: float | None, expected: int) -> None:
    chooser = HomeChooser(2)
    assert choose(chooser, report(), heard_at=heard_at) == expected
    assert chooser.home == 2, "which is still the one to go back to"


def test_what_was_nearer_a_minute_ago_counts() -> None:
    chooser = HomeChooser()
    assert choose(chooser, report(r1=20, r2=50)) == 1
    assert choose(chooser, report(r1=90, r2=50), 1060.0) == 1, "a bad moment"
    assert choose(chooser, report(r1=90, r2=50), 1400.0) == 2


def test_a_region_must_answer_now() -> None:
    chooser = HomeChooser()
    choose(chooser, report(r1=20, r2=50))
    assert choose(chooser, report(r2=50), 1060.0) == 2


def test_scores_of_the_coordinator() -> None:
    assert choose(HomeChooser(), report(r1=20, r2=30), scores={2: 0.5}) == 2


def test_another_network_has_other_distances() -> None:
    chooser = HomeChooser()
    choose(chooser, report(r1=20, r2=50))
    chooser.forget()
    assert choose(chooser, report(r1=90, r2=50), 1060.0) == 2


def test_it_does_not_flap() -> None:
    chooser = HomeChooser()
    homes = [
        choose(chooser, report(r1=20 + 8 * (number % 2), r2=24), 1000.0 + 20 * number) for number in range(50)
    ]
    assert set(homes) == {1}
