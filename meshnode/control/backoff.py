"""Waiting between attempts: n² × 10 ms, spread by ±50 %, at most 30 s (control protocol §7.2, §8.1)."""

from __future__ import annotations

from collections.abc import Callable

STEP_S = 0.010
MAX_DELAY_S = 30.0


class Backoff:
    """Counts failures. `entropy` spreads the delays, so that nodes that lost a coordinator together return
    apart.
    """

    def __init__(self, entropy: Callable[[int], bytes], max_delay_s: float = MAX_DELAY_S) -> None:
        self._entropy = entropy
        self._max_delay_s = max_delay_s
        self.failures = 0

    def reset(self) -> None:
        """The last attempt succeeded."""
        self.failures = 0

    def next_delay(self) -> float:
        """Count one more failure and return how many seconds to wait before the next attempt."""
        self.failures += 1
        fraction = int.from_bytes(self._entropy(4), "big") / 2**32
        return min(self.failures**2 * STEP_S * (0.5 + fraction), self._max_delay_s)
