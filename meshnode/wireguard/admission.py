"""Which handshake messages get worked on, and when (whitepaper 5.3, reference §1.9).

The gate (`meshnode.dataplane.gate`) decides who may wait. Every X25519 happens later, a few messages per
turn, and fewer while data moves: a flood delays handshakes, but not data.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from meshnode.dataplane import REFUSALS, DropReason, Verdict
from meshnode.wireguard import constants
from meshnode.wireguard.cookie import CookieChecker
from meshnode.wireguard.source import Source


class Waiting(NamedTuple):
    """An initiation or a response that the gate admitted."""

    message: bytes
    source: Source
    arrived: float


class Admission:
    """The bounded queue of handshake messages behind the gate."""

    __slots__ = ("_next_at", "_queue", "checker")

    def __init__(self, checker: CookieChecker) -> None:
        self.checker = checker
        self._queue: deque[Waiting] = deque()
        self._next_at = float("-inf")

    def prepare(self, now: float) -> None:
        """Should be called before the gate judges: tells it how much room there is."""
        self.checker.refresh(now)
        self.checker.gate.set_room(constants.UNDER_LOAD_DEPTH - len(self._queue))

    def offer(self, message: bytes, source: Source, now: float) -> DropReason | Verdict | None:
        """Judge an initiation or a response, and queue it. REPLY asks the caller for a cookie reply."""
        self.prepare(now)
        verdict = self.checker.judge(message, source, now)
        if verdict is Verdict.ADMIT:
            return self.admit(message, source, now)
        return verdict if verdict is Verdict.REPLY else REFUSALS[verdict]

    def admit(self, message: bytes, source: Source, now: float) -> DropReason | None:
        """Queue what the gate admitted."""
        if len(self._queue) >= constants.HANDSHAKE_QUEUE_SIZE:
            return DropReason.HANDSHAKE_QUEUE_FULL
        self._queue.append(Waiting(message, source, now))
        return None

    def take_turn(self, now: float, *, is_busy: bool) -> list[Waiting]:
        """The messages to work on now. `is_busy`: data is moving, which they must not hold up."""
        if not is_busy:
            count = min(len(self._queue), constants.HANDSHAKES_PER_TURN)
        elif self._queue and now >= self._next_at:
            count = 1
            self._next_at = now + constants.BUSY_HANDSHAKE_INTERVAL
        else:
            count = 0
        return [self._queue.popleft() for _ in range(count)]

    def next_timeout(self) -> float | None:
        """When to take a turn, in the past if at once; None while nothing waits."""
        return max(self._queue[0].arrived, self._next_at) if self._queue else None

    def clear(self) -> None:
        """Drop those waiting: they were made for another key of ours."""
        self._queue.clear()

    def __len__(self) -> int:
        return len(self._queue)
