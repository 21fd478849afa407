"""When candidates are pinged: in rounds of a few steps, ever further apart while nothing comes of it.

It knows times only. Whom to ping in a step is its owner's to see, and whether a round is wanted at all.
"""

from __future__ import annotations

import math
from typing import Final

from meshnode.disco.constants import Timings

NEVER: Final = math.inf


class Discovery:
    """The rounds of one peer. A step is numbered from 0; round and step are due at `next_step`."""

    __slots__ = ("_interval", "_next", "_step", "_timings", "seeking_since", "started_at")

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self._step = len(timings.steps)
        self._interval = timings.round_interval
        self._next = -math.inf  # when another round may begin, while there is no path
        self.started_at = -math.inf
        """When the latest round began."""
        self.seeking_since: float | None = None
        """Since when there is no path although there is traffic for one."""

    @property
    def is_running(self) -> bool:
        """Whether steps of a round are left."""
        return self._step < len(self._timings.steps)

    @property
    def next_step(self) -> float:
        """When the next step of the running round is due."""
        return self.started_at + self._timings.steps[self._step] if self.is_running else NEVER

    @property
    def next_round(self) -> float:
        """When the next round may begin, while there is no path."""
        return self._next

    def begin(self, now: float) -> None:
        """Start a round. The next one is further away than the last one was."""
        self.started_at = now
        self._step = 0
        self._next = now + self._interval
        self._interval = min(2 * self._interval, self._timings.max_round_interval)

    def take_step(self, now: float) -> int | None:
        """The number of the step that is due, once; None when none is. Steps that are late are one."""
        step = None
        while self.next_step <= now:
            step = self._step
            self._step += 1
        return step

    def restart(self) -> None:
        """What was found out before is worth nothing: begin anew as soon as a round is wanted."""
        self.finish()
        self.encourage()
        self.started_at = -math.inf

    def finish(self) -> None:
        """Leave out what is left of the round."""
        self._step = len(self._timings.steps)

    def encourage(self) -> None:
        """Something is new: the next round may begin at once, and rounds are close together again."""
        self._interval = self._timings.round_interval
        self._next = -math.inf
