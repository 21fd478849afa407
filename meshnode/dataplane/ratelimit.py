"""A token bucket per source, for handshake messages under load (whitepaper 5.3, reference §1.9)."""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_SOURCES", "RateLimiter"]

MAX_SOURCES: Final = 8192
"""Sources that are remembered: when so many are known and none is idle, new ones are refused."""

MAX_NAME: Final = 32
"""Bytes by which sources are told apart that have no IP address: a public key fills them."""


class RateLimiter:
    """Limits per IPv4 address or IPv6 /64, so that one flooder does not use up the share of others."""

    __slots__ = ("_buckets", "_burst", "_idle", "_max_sources", "_next_sweep", "_rate")

    def __init__(self, rate: float, burst: float, idle: float, max_sources: int = MAX_SOURCES) -> None:
        """`rate` tokens a second up to `burst`; a source is forgotten after `idle` seconds of silence.

        `idle` should be long enough for an empty bucket to be full again.
        """
        self._rate = rate
        self._burst = burst
        self._idle = idle
        self._max_sources = max_sources
        self._buckets: dict[bytes, tuple[float, float]] = {}  # source -> (tokens, when counted)
        self._next_sweep = 0.0

    def allow(self, address: bytes, now: float) -> bool:
        """Take a token of `address`, 4 or 16 bytes. False when it has none, or when the table is full."""
        self._forget_idle(now)
        key = address[:8] if len(address) == 16 else address[:MAX_NAME]
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
        self._next_sweep = now + self._idle
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if now - bucket[1] < self._idle}

    def __len__(self) -> int:
        return len(self._buckets)
