"""Which handshake messages are worked on, and when (whitepaper 5.3, reference §1.9 and §3.10).

Cheapest check first: length, then mac1, before a message may wait. While too many wait, strangers are asked
to prove their address with a cookie before they may, and those who did are limited per source. Every X25519
happens later, a few messages per turn, so a flood delays handshakes but not data.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from meshnode.dataplane import DropReason
from meshnode.wireguard import constants, messages
from meshnode.wireguard.cookie import CookieChecker
from meshnode.wireguard.ratelimit import RateLimiter, Source


class Waiting(NamedTuple):
    """An initiation or a response with a valid mac1."""

    message: bytes
    source: Source
    arrived: float


class Admission:
    """The bounded queue of handshake messages, and the judgement of being under load."""

    __slots__ = ("_limiter", "_loaded_until", "_queue", "checker")

    def __init__(self, checker: CookieChecker) -> None:
        self.checker = checker
        self._limiter = RateLimiter()
        self._queue: deque[Waiting] = deque()
        self._loaded_until = float("-inf")

    def offer(self, message: bytes, source: Source, now: float) -> DropReason | None:
        """Queue an initiation or a response. UNDER_LOAD asks the caller to answer with a cookie reply."""
        if len(message) != messages.SIZE_OF_TYPE[messages.message_type(message)]:
            return DropReason.INVALID_LENGTH
        if not self.checker.check_mac1(message):
            return DropReason.INVALID_MAC1
        if self.is_under_load(now):
            if not self.checker.check_mac2(message, source, now):
                return DropReason.UNDER_LOAD
            if not self._limiter.allow(source, now):
                return DropReason.RATE_LIMITED
        if len(self._queue) >= constants.HANDSHAKE_QUEUE_SIZE:
            return DropReason.HANDSHAKE_QUEUE_FULL
        self._queue.append(Waiting(message, source, now))
        return None

    def is_under_load(self, now: float) -> bool:
        """Whether more wait than can be served soon, or did within the last second."""
        if len(self._queue) >= constants.UNDER_LOAD_DEPTH:
            self._loaded_until = now + constants.UNDER_LOAD_LINGER
        return now < self._loaded_until

    def take_turn(self) -> list[Waiting]:
        """The messages to work on now."""
        return [self._queue.popleft() for _ in range(min(len(self._queue), constants.HANDSHAKES_PER_TURN))]

    def oldest_arrival(self) -> float | None:
        """When the first of those waiting arrived."""
        return self._queue[0].arrived if self._queue else None

    def clear(self) -> None:
        """Drop those waiting: they were made for another key of ours."""
        self._queue.clear()

    def __len__(self) -> int:
        return len(self._queue)
