"""A token bucket: so much per second, and a burst at once."""

from __future__ import annotations


class TokenBucket:
    """Holds at most `burst` tokens and begins full. `now` is monotonic seconds."""

    __slots__ = ("_burst", "_per_second", "_since", "_tokens")

    def __init__(self, per_second: float, burst: float, now: float) -> None:
        self._per_second = per_second
        self._burst = burst
        self._tokens = burst
        self._since = now

    def take(self, amount: float, now: float) -> bool:
        """Take `amount`, or nothing if there is not as much."""
        self._refill(now)
        if self._tokens < amount:
            return False
        self._tokens -= amount
        return True

    def spend(self, amount: float, now: float) -> float:
        """Take `amount` in any case. Returns the seconds until the debt is paid, 0 when there is none."""
        self._refill(now)
        self._tokens -= amount
        return max(0.0, -self._tokens / self._per_second)

    def _refill(self, now: float) -> None:
        if now > self._since:
            self._tokens = min(self._burst, self._tokens + (now - self._since) * self._per_second)
            self._since = now
