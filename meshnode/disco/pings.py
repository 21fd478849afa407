"""Pings that have no answer yet, by the transaction id that the answer will name."""

from __future__ import annotations

import enum
from typing import NamedTuple

from meshnode.disco.constants import MAX_PINGS_IN_FLIGHT
from meshnode.disco.destinations import Destination


class Purpose(enum.Enum):
    """Why we ping."""

    DISCOVERY = "discovery"
    TRIGGERED = "triggered"
    HEARTBEAT = "heartbeat"
    MTU = "mtu"
    ASKED = "asked"
    """A person did."""


class Ping(NamedTuple):
    """One ping on its way."""

    destination: Destination
    sent_at: float
    purpose: Purpose
    size: int
    """Bytes of UDP payload, 0 for the smallest that there is."""


class PingsInFlight:
    """Bounded in number and in time: what is older than `timeout` cannot be answered any more."""

    __slots__ = ("_pings", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._pings: dict[bytes, Ping] = {}
        self._timeout = timeout

    def add(self, tx_id: bytes, ping: Ping) -> None:
        """Remember a ping that leaves now."""
        self.expire(ping.sent_at)
        if len(self._pings) >= MAX_PINGS_IN_FLIGHT:
            del self._pings[next(iter(self._pings))]
        self._pings[tx_id] = ping

    def take(self, tx_id: bytes, now: float) -> Ping | None:
        """The ping that is answered. None for an unknown one, an old one, or a second answer."""
        self.expire(now)
        return self._pings.pop(tx_id, None)

    def expire(self, now: float) -> None:
        """Forget those that nobody answered. They lie in the order in which they left."""
        while self._pings:
            tx_id, oldest = next(iter(self._pings.items()))
            if now - oldest.sent_at < self._timeout:
                return
            del self._pings[tx_id]

    def clear(self) -> None:
        """Forget all: answers to them would say nothing about the network as it is now."""
        self._pings.clear()

    def __len__(self) -> int:
        return len(self._pings)
