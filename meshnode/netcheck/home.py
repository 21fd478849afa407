"""Which DERP region to be at home in, and not to move for nothing (reference §5.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from meshnode.netcheck.report import Report

__all__ = ["HISTORY_TIME", "HomeChooser"]

HISTORY_TIME: Final = 305.0
"""Seconds for which reports are remembered: one full check, and then some."""
SMALL_ADVANTAGE: Final = 0.010
"""Seconds by which another region must be nearer, at least."""
GREAT_RATIO: Final = 2 / 3
"""And no further away than this part of the old home."""
HEARD_LATELY: Final = 8.0
HEARD_AT_ALL: Final = 120.0
"""Seconds for which a frame from the home shows that it is accessible; the latter where nothing answered."""


class HomeChooser:
    """Keeps the reports of the last minutes, because a single latency says little."""

    __slots__ = ("_history", "home")

    def __init__(self, home: int = 0) -> None:
        self.home = home
        """The region chosen last; 0 is none."""
        self._history: list[tuple[float, Report]] = []

    def choose(
        self,
        report: Report,
        now: float,
        *,
        scores: Mapping[int, float],
        begun_at: float,
        heard_from_home_at: float | None,
    ) -> int:
        """The home after `report`, whose `preferred_derp` it becomes.

        `scores` are the coordinator's factors on latencies. `heard_from_home_at` is when the last frame from
        the home's relay came; `begun_at` is when the check began.
        """
        self._history = [(at, one) for at, one in self._history if at > now - HISTORY_TIME]
        self._history.append((now, report))
        heard_age = None if heard_from_home_at is None else now - heard_from_home_at
        if not report.region_latency:
            is_alive = heard_age is not None and heard_age <= HEARD_AT_ALL
            report.preferred_derp = self.home if is_alive else 0
            return report.preferred_derp
        best, latency = self._nearest(report, scores)
        is_heard = heard_from_home_at is not None and (
            heard_from_home_at >= begun_at or now - heard_from_home_at <= HEARD_LATELY
        )
        if self.home and best != self.home and self._is_not_worth_it(report, latency, is_heard):
            best = self.home
        self.home = report.preferred_derp = best
        return best

    def forget(self) -> None:
        """The network is another one: its distances are too."""
        self._history.clear()

    def _nearest(self, report: Report, scores: Mapping[int, float]) -> tuple[int, float]:
        """Of the regions that answered just now, the one that was nearest lately."""
        lately = {
            region: min(one.region_latency.get(region, latency) for _, one in self._history)
            * scores.get(region, 1.0)
            for region, latency in report.region_latency.items()
        }
        best = min(lately, key=lambda region: (lately[region], region))
        return best, lately[best]

    def _is_not_worth_it(self, report: Report, best: float, is_heard: bool) -> bool:
        current = report.region_latency.get(self.home)
        if current is None:
            return is_heard
        return current - best < SMALL_ADVANTAGE or best > GREAT_RATIO * current
