"""A token bucket per source, for handshake messages under load (whitepaper 5.3, reference §1.9)."""

from __future__ import annotations

import ipaddress
from typing import Final, TypeAlias

from meshnode.wireguard import constants

Source: TypeAlias = tuple[str, int]
"""Where a datagram came from: the text of an address, and a port. `meshproto.addresses.AddrPort` is one."""

_IDLE: Final = 1.0  # seconds after which a source is forgotten; its bucket is full again by then


def address_bytes(source: Source) -> bytes:
    """4 or 16 bytes of the address. A host that is no address (a relay's name) stands for itself."""
    try:
        return ipaddress.ip_address(source[0]).packed
    except ValueError:
        return source[0].encode()


class RateLimiter:
    """Limits per IPv4 address or IPv6 /64, so that one flooder does not use up the share of others.

    Bounded: when `MAX_LIMITED_SOURCES` are known and none is idle, new ones are refused.
    """

    __slots__ = ("_buckets", "_burst", "_max_sources", "_next_sweep", "_rate")

    def __init__(
        self,
        rate: float = constants.HANDSHAKES_PER_SOURCE,
        burst: float = constants.HANDSHAKE_BURST_PER_SOURCE,
        max_sources: int = constants.MAX_LIMITED_SOURCES,
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._max_sources = max_sources
        self._buckets: dict[bytes, tuple[float, float]] = {}  # source -> (tokens, when counted)
        self._next_sweep = 0.0

    def allow(self, source: Source, now: float) -> bool:
        """Take a token of `source`. False when it has none, or when the table is full."""
        self._forget_idle(now)
        address = address_bytes(source)
        key = address[:8] if len(address) == 16 else address
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._max_sources:
                return False
            bucket = (self._burst, now)
        tokens, counted = bucket
        tokens = min(self._burst, tokens + (now - counted) * self._rate)
        allowed = tokens >= 1.0
        self._buckets[key] = (tokens - 1.0 if allowed else tokens, now)
        return allowed

    def _forget_idle(self, now: float) -> None:
        if now < self._next_sweep or not self._buckets:
            return
        self._next_sweep = now + _IDLE
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if now - bucket[1] < _IDLE}

    def __len__(self) -> int:
        return len(self._buckets)
