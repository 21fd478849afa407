"""Address translators and firewalls as values, after the reference's §7 and §8.

A box stands between an inner and an outer side. `outbound` translates the source of what leaves and remembers
it; `inbound` says to which inner address what arrives goes, or None when it is dropped.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass, field
from typing import Protocol

from meshproto.addresses import AddrPort

UNREPLIED = 30.0
"""Seconds that a mapping lives after a packet, until an answer came back (Linux)."""
REPLIED = 120.0


class Box(Protocol):
    """Something on the way between a node and the Internet."""

    address: str | None
    """Its own address on the outer side; None when it does not translate."""

    def outbound(self, inner: AddrPort, to: AddrPort, now: float) -> AddrPort | None: ...

    def inbound(self, outer: AddrPort, source: AddrPort, now: float) -> AddrPort | None: ...


class Mapping(enum.Enum):
    """On what the outer port depends, besides the inner address."""

    ENDPOINT_INDEPENDENT = "EIM"
    ADDRESS_DEPENDENT = "ADM"
    ADDRESS_AND_PORT_DEPENDENT = "APDM"


class Filtering(enum.Enum):
    """Who may send to a mapped port."""

    ENDPOINT_INDEPENDENT = "EIF"
    ADDRESS_DEPENDENT = "ADF"
    ADDRESS_AND_PORT_DEPENDENT = "APDF"


class Ports(enum.Enum):
    """How outer ports are chosen."""

    PRESERVED = "preserved"
    SEQUENTIAL = "sequential"
    RANDOM = "random"


@dataclass
class _Mapped:
    port: int
    inner: AddrPort
    flows: dict[AddrPort, tuple[float, bool]] = field(
        default_factory=dict
    )  # remote -> (last packet, replied)

    def is_alive(self, now: float) -> bool:
        return any(now - last < (REPLIED if replied else UNREPLIED) for last, replied in self.flows.values())


class Nat:
    """A translator with one outer address."""

    def __init__(
        self,
        address: str,
        mapping: Mapping,
        filtering: Filtering,
        ports: Ports,
        rng: random.Random,
    ) -> None:
        self.address: str | None = address
        self._host = address
        self._mapping = mapping
        self._filtering = filtering
        self._ports = ports
        self._rng = rng
        self._by_key: dict[tuple[object, ...], _Mapped] = {}
        self._by_port: dict[int, _Mapped] = {}
        self._last_port = 20_000 + rng.randrange(20_000)

    def outbound(self, inner: AddrPort, to: AddrPort, now: float) -> AddrPort | None:
        key = self._key(inner, to)
        mapped = self._by_key.get(key)
        if mapped is None or not mapped.is_alive(now):
            self.forget(key)
            port = self._choose_port(inner)
            mapped = self._by_key[key] = self._by_port[port] = _Mapped(port, inner)
        replied = mapped.flows.get(to, (now, False))[1]
        mapped.flows[to] = (now, replied)
        return AddrPort(self._host, mapped.port)

    def inbound(self, outer: AddrPort, source: AddrPort, now: float) -> AddrPort | None:
        mapped = self._by_port.get(outer.port)
        if mapped is None or not mapped.is_alive(now):
            return None
        if not self._lets_in(mapped, source, now):
            return None
        mapped.flows[source] = (now, True)
        return mapped.inner

    def forget(self, key: tuple[object, ...]) -> None:
        mapped = self._by_key.pop(key, None)
        if mapped is not None:
            self._by_port.pop(mapped.port, None)

    def restart(self) -> None:
        """All mappings are gone; new ones get new ports."""
        self._by_key.clear()
        self._by_port.clear()

    def _lets_in(self, mapped: _Mapped, source: AddrPort, now: float) -> bool:
        if self._filtering is Filtering.ENDPOINT_INDEPENDENT:
            return True
        for remote, (last, replied) in mapped.flows.items():
            if now - last >= (REPLIED if replied else UNREPLIED):
                continue
            if remote == source:
                return True
            if self._filtering is Filtering.ADDRESS_DEPENDENT and remote.host == source.host:
                return True
        return False

    def _key(self, inner: AddrPort, to: AddrPort) -> tuple[object, ...]:
        if self._mapping is Mapping.ENDPOINT_INDEPENDENT:
            return (inner,)
        if self._mapping is Mapping.ADDRESS_DEPENDENT:
            return (inner, to.host)
        return (inner, to)

    def _choose_port(self, inner: AddrPort) -> int:
        port = inner.port
        if self._ports is Ports.RANDOM:
            port = self._rng.randrange(1024, 65536)
        elif self._ports is Ports.SEQUENTIAL:
            self._last_port += 1
            port = self._last_port
        while port in self._by_port:
            port = port + 1 if self._ports is Ports.SEQUENTIAL else self._rng.randrange(1024, 65536)
            self._last_port = port
        return port


class Firewall:
    """Translates nothing and lets in what answers."""

    address: str | None = None

    def __init__(self) -> None:
        self._flows: dict[tuple[AddrPort, AddrPort], float] = {}

    def outbound(self, inner: AddrPort, to: AddrPort, now: float) -> AddrPort | None:
        self._flows[inner, to] = now
        return inner

    def inbound(self, outer: AddrPort, source: AddrPort, now: float) -> AddrPort | None:
        return outer if now - self._flows.get((outer, source), -REPLIED) < REPLIED else None


class NoUdp:
    """Drops every datagram."""

    address: str | None = None

    def outbound(self, inner: AddrPort, to: AddrPort, now: float) -> AddrPort | None:
        return None

    def inbound(self, outer: AddrPort, source: AddrPort, now: float) -> AddrPort | None:
        return None


class Kind(enum.Enum):
    """The networks of the matrix. The value is what tables print."""

    OPEN = "open"
    FULL_CONE = "full cone"
    ADDRESS = "address-restricted"
    PORT = "port-restricted"
    SEQUENTIAL = "symmetric, sequential"
    RANDOM = "symmetric, random"
    CGN_FULL_CONE = "CGNAT, full cone"
    CGN_ADDRESS = "CGNAT, address"
    CGN_PORT = "CGNAT, port"
    CGN_SEQUENTIAL = "CGNAT, sequential"
    CGN_RANDOM = "CGNAT, random"
    NO_UDP = "UDP blocked"


_HOME = {
    Kind.FULL_CONE: (Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT, Ports.PRESERVED),
    Kind.ADDRESS: (Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT, Ports.PRESERVED),
    Kind.PORT: (Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, Ports.PRESERVED),
    Kind.SEQUENTIAL: (
        Mapping.ADDRESS_AND_PORT_DEPENDENT,
        Filtering.ADDRESS_AND_PORT_DEPENDENT,
        Ports.SEQUENTIAL,
    ),
    Kind.RANDOM: (Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, Ports.RANDOM),
}
_BEHIND_CARRIER = {
    Kind.CGN_FULL_CONE: Kind.FULL_CONE,
    Kind.CGN_ADDRESS: Kind.ADDRESS,
    Kind.CGN_PORT: Kind.PORT,
    Kind.CGN_SEQUENTIAL: Kind.SEQUENTIAL,
    Kind.CGN_RANDOM: Kind.RANDOM,
}
# A carrier that keeps to RFC 6888: one port per inner one, answers only.
_CARRIER = (Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, Ports.RANDOM)

EASY = frozenset(
    {
        Kind.OPEN,
        Kind.FULL_CONE,
        Kind.ADDRESS,
        Kind.PORT,
        Kind.CGN_FULL_CONE,
        Kind.CGN_ADDRESS,
        Kind.CGN_PORT,
    }
)
"""The same outer port for every destination."""
HARD = frozenset({Kind.SEQUENTIAL, Kind.RANDOM, Kind.CGN_SEQUENTIAL, Kind.CGN_RANDOM})
ANSWERS_ANY_PORT = frozenset({Kind.OPEN, Kind.FULL_CONE, Kind.ADDRESS})
"""Whose filter lets a port in that was not expected; all carriers here look at the port."""


def boxes(kind: Kind, number: int, rng: random.Random) -> list[Box]:
    """What stands between node `number` and the Internet, the innermost first."""
    wan = f"203.0.113.{10 + number}"
    if kind is Kind.OPEN:
        return []
    if kind is Kind.NO_UDP:
        return [NoUdp()]
    if kind in _BEHIND_CARRIER:
        home = Nat(f"100.64.0.{10 + number}", *_HOME[_BEHIND_CARRIER[kind]], rng)
        return [home, Nat(wan, *_CARRIER, rng)]
    return [Nat(wan, *_HOME[kind], rng)]
