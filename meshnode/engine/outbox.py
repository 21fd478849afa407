"""Sealed units on their way to the sockets.

Units are sealed one after another into one buffer, so small packets of one burst lie side by side: those
for the same place and of the same size leave in one send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshnode.dataplane import MAX_UNIT_IPV6, MAX_UNIT_SEGMENTS, SEAL_BUFFER_SIZE, DropReason, Unit
from meshnode.disco.destinations import Destination
from meshnode.engine.wire import Wire

__all__ = ["Outbox"]

FLUSH_AT: Final = 32 * 1024
"""Bytes from which on waiting for more is not worth it."""

BUFFER_SIZE: Final = SEAL_BUFFER_SIZE + 2 * FLUSH_AT


class Outbox:
    """Call `room`, seal into it, `add` the units, `flush` at the end: not while a socket is blocked."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._buffer = memoryview(bytearray(BUFFER_SIZE))
        self._used = 0
        # The run: adjacent units that wait for one send.
        self._start = 0
        self._stride = 0
        self._destinations: Sequence[Destination] = ()

    def room(self) -> memoryview:
        """Where the next read is to be sealed: SEAL_BUFFER_SIZE bytes or more."""
        if self._used > BUFFER_SIZE - SEAL_BUFFER_SIZE:
            self.flush()
        return self._buffer[self._used :]

    def add(self, units: Sequence[Unit], destinations: Sequence[Destination]) -> None:
        """Take what was sealed into `room()`, for every one of `destinations`."""
        base = self._used
        for unit in units:
            if not self._joins(unit, destinations):
                self._send_run()
                self._start = self._used
                self._stride = unit.stride
                self._destinations = destinations
            self._used = base + unit.offset + unit.length
        if self._used - self._start >= FLUSH_AT:
            self.flush()

    def send_alone(self, units: Sequence[Unit], destinations: Sequence[Destination]) -> None:
        """The same for what waits for nothing: should be called while the outbox is empty."""
        if len(destinations) != 1 or len(units) != 1 or self._used:
            self.add(units, destinations)
            self.flush()
            return
        length = units[0].length
        self._wire.send(self._buffer[:length], units[0].stride, destinations[0])
        if self._wire.blocked:
            self._start = self._used = length

    def flush(self) -> None:
        """Send everything."""
        if not self._used:
            return
        self._send_run()
        self._start = self._used
        if not self._wire.blocked:
            self._start = self._used = 0

    def _joins(self, unit: Unit, destinations: Sequence[Destination]) -> bool:
        size = self._used - self._start
        return (
            size > 0
            and (unit.stride == self._stride or (unit.length == unit.stride < self._stride))
            and not size % self._stride
            and size + unit.length <= min(MAX_UNIT_IPV6, MAX_UNIT_SEGMENTS * self._stride)
            and destinations == self._destinations
        )

    def _send_run(self) -> None:
        if self._start == self._used:
            return
        data = self._buffer[self._start : self._used]
        if not self._destinations:
            self._wire.drops[DropReason.NO_DESTINATION] += -(-len(data) // self._stride)
        for destination in self._destinations:
            self._wire.send(data, self._stride, destination)
