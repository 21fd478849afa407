"""Where a peer may be reached directly, from whom we know it, and what pinging it has shown."""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from meshnode.disco.best_addr import PathQuality, address_points
from meshnode.disco.constants import (
    MAX_CALL_ENDPOINTS,
    MAX_LEARNED,
    MAX_NETMAP_ENDPOINTS,
    SAFE_WIRE_MTU,
    Timings,
)
from meshnode.disco.destinations import AuxPath, Path
from meshproto.addresses import AddrPort

__all__ = ["Candidate", "Candidates", "Origin", "is_usable"]

_SMOOTHING: Final = 1 / 8  # of the latency's average (RFC 6298 §2.3)


class Origin(enum.Flag):
    """From whom a candidate is known; nobody: it stays while it is in use."""

    NOBODY = 0
    NETMAP = enum.auto()
    CALL_ME_MAYBE = enum.auto()
    PING = enum.auto()
    """A ping came from there."""
    RELAY = enum.auto()
    """A peer relay has it."""


class Candidate:
    """One path to a peer. Times are monotonic seconds, None for never."""

    __slots__ = (
        "last_answered_ping",
        "last_ping",
        "last_ping_received",
        "last_pong",
        "latency",
        "origin",
        "path",
        "wire_mtu",
    )

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self.origin = Origin.NOBODY
        self.last_ping: float | None = None
        self.last_answered_ping: float | None = None
        """When the ping left that the last pong answered."""
        self.last_pong: float | None = None
        self.last_ping_received: float | None = None
        self.latency: float | None = None
        """Smoothed round trip, in seconds."""
        self.wire_mtu = SAFE_WIRE_MTU

    def answered(self, sent_at: float, now: float) -> None:
        """A pong came back to the ping that left at `sent_at`."""
        latency = now - sent_at
        self.last_answered_ping = sent_at
        self.last_pong = now
        if self.latency is None:
            self.latency = latency
        else:
            self.latency += _SMOOTHING * (latency - self.latency)

    def quality(self) -> PathQuality | None:
        """For comparison with others; None before the first pong."""
        return None if self.latency is None else PathQuality(self.path, self.latency, self.wire_mtu)

    def pinged_since(self, when: float) -> bool:
        return self.last_ping is not None and self.last_ping > when

    def answered_since(self, when: float) -> bool:
        return self.last_pong is not None and self.last_pong >= when

    def forget_measurements(self) -> None:
        """The network is another one; what was measured in the old one says nothing."""
        self.last_ping = self.last_pong = self.last_answered_ping = None
        self.last_ping_received = self.latency = None
        self.wire_mtu = SAFE_WIRE_MTU


def is_usable(address: AddrPort) -> bool:
    """Whether a peer can be meant. Link-local IPv6 needs an interface's name, which is not on the wire."""
    host = address.address
    unusable = host.is_multicast or host.is_unspecified or (host.version == 6 and host.is_link_local)
    return not unusable and address.port > 0 and str(host) != "255.255.255.255"


def _is_public_ipv4(address: AddrPort) -> bool:
    return ":" not in address.host and address_points(address.host) == 0


class Candidates:
    """All candidates of one peer. Bounded per origin; `is_usable` is checked here."""

    __slots__ = ("_all", "_said", "_timings")

    def __init__(self, timings: Timings) -> None:
        self._all: dict[Path, Candidate] = {}
        self._said: dict[Origin, list[AddrPort]] = {Origin.NETMAP: [], Origin.CALL_ME_MAYBE: []}
        self._timings = timings

    def get(self, path: Path) -> Candidate | None:
        return self._all.get(path)

    def __iter__(self) -> Iterator[Candidate]:
        """In the order in which they became known."""
        return iter(tuple(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    def set_netmap(self, endpoints: Sequence[AddrPort], in_use: Path | None) -> bool:
        """What the coordinator says. Returns whether something is new."""
        return self._replace(Origin.NETMAP, endpoints, MAX_NETMAP_ENDPOINTS, in_use)

    def set_call_me_maybe(self, endpoints: Sequence[AddrPort], in_use: Path | None) -> bool:
        """What the peer itself says, instead of what it said before. Returns whether something is new."""
        return self._replace(Origin.CALL_ME_MAYBE, endpoints, MAX_CALL_ENDPOINTS, in_use)

    def heard_ping(self, path: Path, in_use: Path | None, now: float) -> Candidate:
        """A ping of the peer came over `path`. When there are too many such, another is forgotten."""
        candidate = self._all.get(path)
        if candidate is None or not candidate.origin & Origin.PING:
            self._make_room(in_use)
            candidate = self.add(path, Origin.PING)
        candidate.last_ping_received = now
        return candidate

    def add(self, path: Path, origin: Origin) -> Candidate:
        """The candidate for `path`, known from `origin` too. Its owner bounds how many it adds."""
        candidate = self._all.get(path)
        if candidate is None:
            candidate = self._all[path] = Candidate(path)
        candidate.origin |= origin
        return candidate

    def expire(self, in_use: Path | None, now: float) -> None:
        """Forget what is known from pings only, and they have stopped."""
        horizon = now - self._timings.learned_lifetime
        for candidate in self:
            heard = candidate.last_ping_received
            if candidate.origin & Origin.PING and (heard is None or heard < horizon):
                self._discard(candidate, Origin.PING, in_use)

    def drop(self, origin: Origin, in_use: Path | None) -> None:
        """Nobody of `origin` stands for its candidates any more."""
        for candidate in self:
            self._discard(candidate, origin, in_use)

    @property
    def sockets(self) -> frozenset[int]:
        """The auxiliary sockets that these need."""
        return frozenset(path.socket for path in self._all if isinstance(path, AuxPath))

    def drop_sockets(self) -> None:
        """The auxiliary sockets are closed."""
        for path in [path for path in self._all if isinstance(path, AuxPath)]:
            del self._all[path]

    def forget_measurements(self) -> None:
        """See `Candidate.forget_measurements`."""
        for candidate in self._all.values():
            candidate.forget_measurements()

    def public_ipv4(self) -> list[AddrPort]:
        """Where the peer's NAT is, as it says itself, or else the coordinator.

        The public addresses that it names next to each other: what STUN servers saw just now comes in a row,
        and what they saw some time ago comes later.
        """
        said = self._said[Origin.CALL_ME_MAYBE] or self._said[Origin.NETMAP]
        from_first = itertools.dropwhile(lambda one: not _is_public_ipv4(one), said)
        return list(itertools.takewhile(_is_public_ipv4, from_first))

    def release(self, path: Path) -> None:
        """`path` is no longer in use: it goes, unless somebody stands for it."""
        candidate = self._all.get(path)
        if candidate is not None and not candidate.origin:
            del self._all[path]

    def _replace(
        self, origin: Origin, endpoints: Iterable[AddrPort], limit: int, in_use: Path | None
    ) -> bool:
        wanted = list(dict.fromkeys(filter(is_usable, endpoints)))[:limit]
        for candidate in self:
            if candidate.origin & origin and candidate.path not in wanted:
                self._discard(candidate, origin, in_use)
        self._said[origin] = wanted
        before = len(self._all)
        for endpoint in wanted:
            self.add(endpoint, origin)
        return len(self._all) > before

    def _discard(self, candidate: Candidate, origin: Origin, in_use: Path | None) -> None:
        candidate.origin &= ~origin
        if not candidate.origin and candidate.path != in_use:
            self._all.pop(candidate.path, None)

    def _make_room(self, in_use: Path | None) -> None:
        learned = [one for one in self._all.values() if one.origin & Origin.PING and one.path != in_use]
        if len(learned) >= MAX_LEARNED:
            oldest = min(learned, key=lambda one: one.last_ping_received or 0.0)
            self._discard(oldest, Origin.PING, in_use)
