"""What a path carries: pings that make IP packets of one size after the other (reference §3.10).

They are not to be fragmented. The path is up already, so a ping without answer was too large, or lost: each
size gets two chances.
"""

from __future__ import annotations

import math
from typing import Final

from meshnode.disco.constants import SAFE_WIRE_MTU, WIRE_MTUS, Timings
from meshnode.disco.destinations import Path, RelayPath, address_of
from meshnode.disco.geneve import HEADER_SIZE as GENEVE_HEADER_SIZE

__all__ = ["MtuProbe", "ping_size", "wire_mtu_of"]

NEVER: Final = math.inf
TRIES: Final = 2
GAP: Final = 1.0
"""Seconds between the tries."""
_UDP_OVER_IPV4: Final = 28
_UDP_OVER_IPV6: Final = 48


def _overhead(path: Path) -> int:
    ip = _UDP_OVER_IPV6 if ":" in address_of(path).host else _UDP_OVER_IPV4
    return ip + GENEVE_HEADER_SIZE if isinstance(path, RelayPath) else ip


def ping_size(wire_mtu: int, path: Path) -> int:
    """Bytes of the disco datagram that make an IP packet of `wire_mtu` bytes."""
    return wire_mtu - _overhead(path)


def wire_mtu_of(size: int, path: Path) -> int:
    """The inverse of `ping_size`."""
    return size + _overhead(path)


class MtuProbe:
    """Of the path in use. It begins anew for another path, and after a while for the same one."""

    __slots__ = ("_best", "_next", "_timings", "_tries", "path")

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self.path: Path | None = None
        self._best = 0
        self._tries = 0
        self._next = NEVER

    @property
    def next_timeout(self) -> float:
        return self._next

    def start(self, path: Path, now: float) -> None:
        """Measure `path` from now on."""
        self.path = path
        self._best = 0
        self._tries = 0
        self._next = now

    def stop(self) -> None:
        """There is no path."""
        self.path = None
        self._next = NEVER

    def take_due(self, now: float) -> list[int]:
        """The sizes to ping with now, in bytes of the disco datagram."""
        path = self.path
        if path is None or now < self._next:
            return []
        if self._tries >= TRIES:
            self.start(path, now)
        self._tries += 1
        self._next = now + (GAP if self._tries < TRIES else self._timings.mtu_again_after)
        return [ping_size(wire_mtu, path) for wire_mtu in WIRE_MTUS if wire_mtu > self._best]

    def answered(self, path: Path, size: int) -> int | None:
        """A ping of `size` came through. Returns the path's wire MTU when that is news."""
        wire_mtu = wire_mtu_of(size, path)
        if path != self.path or wire_mtu <= self._best:
            return None
        self._best = wire_mtu
        return wire_mtu if wire_mtu > SAFE_WIRE_MTU else None
