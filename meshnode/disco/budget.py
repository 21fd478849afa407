"""A token bucket: so much at once, and so much per second in the long run."""

from __future__ import annotations


class Budget:
    """Starts full. `now` may stand still, and must not go back."""

    __slots__ = ("_burst", "_counted_at", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._counted_at: float | None = None

    def spend(self, now: float) -> bool:
        """Take one token. False when there is none, and nothing is taken."""
        if self._counted_at is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._counted_at) * self._rate)
        self._counted_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
