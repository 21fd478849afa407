"""Who is to be called next, among many who mostly are not: a heap with outdated entries."""

from __future__ import annotations

import heapq
import math
from typing import Final, Generic, Protocol, TypeVar

NEVER: Final = math.inf
SLACK: Final = 64
"""Outdated entries, besides one per live one, before the heap is tidied."""


class Schedulable(Protocol):
    """Something that wants to be called at `wake_at`. `scheduled_at` is the schedule's own."""

    wake_at: float
    scheduled_at: float


Thing = TypeVar("Thing", bound=Schedulable)


class Schedule(Generic[Thing]):
    """`update` after whatever may have moved a `wake_at`; a later one costs a look in vain and no more."""

    __slots__ = ("_heap", "_number", "_size")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Thing]] = []
        self._number = 0
        self._size = 0

    def update(self, thing: Thing) -> None:
        """Call `thing` earlier than planned, if it wants to be."""
        if thing.wake_at < thing.scheduled_at:
            self._size += thing.scheduled_at == NEVER
            thing.scheduled_at = thing.wake_at
            self._number += 1
            heapq.heappush(self._heap, (thing.wake_at, self._number, thing))
            if len(self._heap) > SLACK + 2 * self._size:
                self._heap = [entry for entry in self._heap if self._is_live(entry)]
                heapq.heapify(self._heap)

    def remove(self, thing: Thing) -> None:
        """Do not call `thing` any more."""
        self._unplan(thing)
        thing.wake_at = NEVER

    @property
    def next_timeout(self) -> float | None:
        """When somebody may have to be called; None for never."""
        while self._heap and not self._is_live(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> Thing | None:
        """Somebody whose planned time has come. To be called, then given to `update` again."""
        while self._heap and self._heap[0][0] <= now:
            entry = heapq.heappop(self._heap)
            if self._is_live(entry):
                thing = entry[2]
                self._unplan(thing)
                return thing
        return None

    def _unplan(self, thing: Thing) -> None:
        self._size -= thing.scheduled_at != NEVER
        thing.scheduled_at = NEVER

    @staticmethod
    def _is_live(entry: tuple[float, int, Thing]) -> bool:
        return entry[2].scheduled_at == entry[0]
