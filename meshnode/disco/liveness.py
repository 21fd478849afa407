"""Whether the path in use still works: judged by the pings that left over it and the pongs that came back.

A pong proves that the path worked, both ways, when its ping was sent. From then on trust wears off:

    trusted   the last pong is young, and no ping has waited too long for its answer
    doubted   data goes over DERP as well; it may arrive twice, which WireGuard does not mind
    given up  a ping has waited for `give_up` seconds

How long is too long follows from the path's own round trips, as TCP's retransmission timer does (RFC 6298),
so that a satellite is not doubted for its distance, nor a LAN believed for half a second in vain.
"""

from __future__ import annotations

import math
from typing import Final

from meshnode.disco.constants import Timings

NEVER: Final = math.inf

SLACK: Final = 0.1
"""Seconds that an answer may take beyond the usual, however steady the path has been: a busy process."""
PATIENCE: Final = 0.7
"""Seconds that an answer may take at most, however much the round trips vary, on all but very long paths:
after a heartbeat's second, this is what is left of two."""
MAX_UNANSWERED: Final = 64
"""Pings of one path whose times are kept; far more than `give_up` lets through."""


class Liveness:
    """Of one path; `restart` for another one."""

    __slots__ = (
        "_grace",
        "_timings",
        "_trusted_until",
        "_unanswered",
        "_variation",
        "last_ping",
        "round_trip",
    )

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self.restart()

    def restart(self) -> None:
        """Nothing is known yet."""
        self.last_ping: float = -math.inf
        self.round_trip: float | None = None
        """Smoothed, in seconds."""
        self._variation = 0.0
        self._trusted_until = -math.inf
        self._unanswered: list[float] = []
        self._grace = 0.0

    def pinged(self, now: float) -> None:
        """A ping leaves over the path."""
        self.last_ping = now
        self._unanswered = [*self._unanswered[-MAX_UNANSWERED + 1 :], now]

    def answered(self, sent_at: float, now: float) -> None:
        """The ping that left at `sent_at` is answered. Older ones are forgiven, later ones are not."""
        self._measure(now - sent_at)
        self._trusted_until = max(self._trusted_until, now + self._timings.trust)
        self._unanswered = [sent for sent in self._unanswered if sent > sent_at]
        self._grace = 0.0

    def distrust(self, now: float) -> None:
        """Doubt the path until the next pong."""
        self._trusted_until = min(self._trusted_until, now)

    def excuse(self, late: float) -> None:
        """We were busy elsewhere for `late` seconds: answers may have come that nobody has read yet."""
        if self._unanswered:
            self._grace += late

    @property
    def doubted_from(self) -> float:
        """When trust ends, if nothing more comes."""
        if not self._unanswered:
            return self._trusted_until
        return min(self._trusted_until, self._unanswered[0] + self.answer_time + self._grace)

    @property
    def given_up_from(self) -> float:
        """When the path is to be left, if nothing more comes."""
        return self._unanswered[0] + self._timings.give_up + self._grace if self._unanswered else NEVER

    def is_trusted(self, now: float) -> bool:
        return now < self.doubted_from

    @property
    def answer_time(self) -> float:
        """How long an answer may take."""
        if self.round_trip is None:
            return max(self._timings.min_answer_time, 1.0)
        usual = self.round_trip + max(SLACK, 4 * self._variation)
        patience = max(PATIENCE, 1.5 * self.round_trip + SLACK)
        return max(self._timings.min_answer_time, min(usual, patience))

    def ping_due(self, interval: float) -> float:
        """When the next ping should leave: sooner than `interval` after one that got no answer."""
        if self._unanswered:
            interval = min(interval, max(self._timings.retry, 1.25 * (self.round_trip or 0.0)))
            if len(self._unanswered) > 2:
                interval = min(self._timings.busy_heartbeat, 2.5 * interval)
        return self.last_ping + interval

    def _measure(self, round_trip: float) -> None:
        if self.round_trip is None:
            self.round_trip, self._variation = round_trip, round_trip / 2
            return
        self._variation += (abs(round_trip - self.round_trip) - self._variation) / 4
        self.round_trip += (round_trip - self.round_trip) / 8
