"""What a cable does to what passes: delay, jitter and loss. The core of `wire`: no clock, no sockets."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

# What a cable holds at most; as in a router with a full queue, the newest is lost.
QUEUE_LIMIT = 10_000


@dataclass(frozen=True)
class Weather:
    """The properties of one direction of a cable; both are alike.

    `delay` and `jitter` in seconds: each frame takes `delay` and up to `jitter` more, evenly spread, so that
    frames overtake each other. `loss` is the share of frames that are lost, each by its own chance.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        if self.delay < 0 or self.jitter < 0 or not 0 <= self.loss <= 1:
            raise ValueError(f"no such weather: {self}")


CLEAR = Weather()


class Direction:
    """The frames on their way through one direction of a cable. Times are seconds of any steady clock."""

    def __init__(self, weather: Weather, rng: random.Random) -> None:
        self._weather = weather
        self._rng = rng
        self._waiting: list[tuple[float, int, bytes]] = []
        self._accepted = 0

    def accept(self, frame: bytes, now: float) -> None:
        """A frame enters."""
        weather = self._weather
        if len(self._waiting) >= QUEUE_LIMIT or (weather.loss and self._rng.random() < weather.loss):
            return
        due = now + weather.delay + (self._rng.random() * weather.jitter if weather.jitter else 0.0)
        # The number keeps frames that are due at the same time in their order.
        heapq.heappush(self._waiting, (due, self._accepted, frame))
        self._accepted += 1

    def take_due(self, now: float) -> list[bytes]:
        """The frames that leave by now, in the order in which they do."""
        due = []
        while self._waiting and self._waiting[0][0] <= now:
            due.append(heapq.heappop(self._waiting)[2])
        return due

    def next_timeout(self) -> float | None:
        """When the next frame leaves."""
        return self._waiting[0][0] if self._waiting else None
