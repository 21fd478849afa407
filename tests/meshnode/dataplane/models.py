"""The slow twins: obviously right, and what the fast structures are compared with."""

from __future__ import annotations

import ipaddress

from meshnode.dataplane import NO_PEER
from meshnode.dataplane.replay import COUNTER_LIMIT
from meshnode.dataplane.types import IPNetwork


class SlowAllowedIPs:
    """Every prefix is tried."""

    def __init__(self) -> None:
        self.owners: dict[IPNetwork, int] = {}

    def insert(self, prefix: IPNetwork, peer: int) -> None:
        self.owners[prefix] = peer

    def remove(self, prefix: IPNetwork, peer: int) -> None:
        if self.owners.get(prefix) == peer:
            del self.owners[prefix]

    def remove_peer(self, peer: int) -> None:
        self.owners = {prefix: owner for prefix, owner in self.owners.items() if owner != peer}

    def prefixes_of(self, peer: int) -> frozenset[IPNetwork]:
        return frozenset(prefix for prefix, owner in self.owners.items() if owner == peer)

    def lookup(self, address: bytes) -> int:
        ip = ipaddress.ip_address(address)
        around = [prefix for prefix in self.owners if ip in prefix]
        return self.owners[max(around, key=lambda prefix: prefix.prefixlen)] if around else NO_PEER


class SlowReplayWindow:
    """Every counter is remembered."""

    def __init__(self, window: int = 8128) -> None:
        self.window = window
        self.seen: set[int] = set()
        self.greatest = 0

    def accept(self, counter: int) -> bool:
        if counter >= COUNTER_LIMIT or counter in self.seen or self.greatest - counter > self.window:
            return False
        self.seen.add(counter)
        self.greatest = max(self.greatest, counter)
        return True


class RingReplayWindow:
    """RFC 6479 as the reference writes it down: 128 words of 64 bits, one of them always being recycled."""

    def __init__(self) -> None:
        self.last = 0
        self.ring = [0] * 128

    def accept(self, counter: int) -> bool:
        if counter >= COUNTER_LIMIT:
            return False
        word = counter >> 6
        if counter > self.last:
            current = self.last >> 6
            for index in range(min(word - current, 128)):
                self.ring[(current + 1 + index) & 127] = 0
            self.last = counter
        elif self.last - counter > 8128:
            return False
        if self.ring[word & 127] >> (counter & 63) & 1:
            return False
        self.ring[word & 127] |= 1 << (counter & 63)
        return True


class SlowRateLimiter:
    """Every allowed message, for ever; a bucket is worked out from the times of its source."""

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self.times: dict[bytes, list[float]] = {}

    def allow(self, address: bytes, now: float) -> bool:
        times = self.times.setdefault(address[:8] if len(address) == 16 else address, [])
        tokens, counted = self.burst, float("-inf")
        for when in times:
            tokens, counted = min(self.burst, tokens + (when - counted) * self.rate) - 1.0, when
        allowed = min(self.burst, tokens + (now - counted) * self.rate) >= 1.0
        if allowed:
            times.append(now)
        return allowed
