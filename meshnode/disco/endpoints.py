"""Where peers may reach us: gathered from port mappers, STUN, interfaces and the owner (reference §3.2).

Best first, each with the number by which the coordinator is told where it comes from. What STUN servers and
port mappers said some time ago is still offered for a while, at the end: a NAT may keep it.
"""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from meshnode.disco.candidates import is_usable
from meshnode.netcheck.report import Report
from meshproto.addresses import AddrPort
from meshproto.routes import is_tailnet_address

__all__ = ["Endpoint", "EndpointBook", "EndpointType"]

REMEMBERED_FOR: Final = 310.0
"""Seconds for which an endpoint that nobody confirms any more is offered still."""
REMEMBERED_PER_HOST: Final = 6
"""Ports of one host that are, the latest ones."""
MAX_OBSERVED: Final = 4
"""Addresses of a mapping that varies; more would not tell a peer more about how it does."""
MAX_IPV6_PER_SUBNET: Final = 2


class EndpointType(enum.IntEnum):
    """As in `MapRequest.EndpointTypes`."""

    LOCAL = 1
    STUN = 2
    PORT_MAPPED = 3
    STUN4_LOCAL_PORT = 4
    """STUN's address with our own port: the owner may have forwarded it by hand."""
    EXPLICIT = 5
    """The owner says so."""


class Endpoint(NamedTuple):
    """One of our own."""

    address: AddrPort
    type: EndpointType


class EndpointBook:
    """Remembers what was true lately. `now` is monotonic seconds."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[AddrPort, tuple[float, EndpointType]] = {}  # in the order of the last sight

    def gather(
        self,
        report: Report | None,
        *,
        port_mapped: AddrPort | None,
        local: Sequence[AddrPort],
        static: Sequence[AddrPort] = (),
        is_port_fixed: bool,
        now: float,
    ) -> tuple[Endpoint, ...]:
        """All endpoints, best first, each once.

        `local` are the interfaces' addresses with our port; `is_port_fixed` says that the owner chose it.
        """
        outside = []
        if port_mapped is not None:
            outside.append(Endpoint(port_mapped, EndpointType.PORT_MAPPED))
        if report is not None:
            outside += [Endpoint(one, EndpointType.STUN) for one in _observed(report)]
        self._remember(outside, now)
        found = list(outside)
        if report is not None and local:
            found += _forwarded_by_hand(report, local[0].port, is_port_fixed)
        found += [Endpoint(one, EndpointType.EXPLICIT) for one in static]
        found += [Endpoint(one, EndpointType.LOCAL) for one in local_endpoints(local)]
        found += self._remembered()
        by_address: dict[AddrPort, Endpoint] = {}
        for endpoint in found:
            if is_usable(endpoint.address):
                by_address.setdefault(endpoint.address, endpoint)
        return tuple(by_address.values())

    def forget(self) -> None:
        """We are in another network."""
        self._seen.clear()

    def _remember(self, endpoints: Iterable[Endpoint], now: float) -> None:
        for address, kind in endpoints:
            self._seen.pop(address, None)
            self._seen[address] = (now, kind)
        self._seen = {one: seen for one, seen in self._seen.items() if now - seen[0] < REMEMBERED_FOR}

    def _remembered(self) -> list[Endpoint]:
        """The latest first, some of each host."""
        per_host: dict[str, int] = {}
        kept = []
        for address, (_, kind) in reversed(self._seen.items()):
            per_host[address.host] = per_host.get(address.host, 0) + 1
            if per_host[address.host] <= REMEMBERED_PER_HOST:
                kept.append(Endpoint(address, kind))
        return kept


def _observed(report: Report) -> list[AddrPort]:
    """IPv4 before IPv6: where we were seen first, and others that more than one server saw.

    Of a mapping that varies, a few that were seen only once too: a peer tells by them that it does, and how.
    """
    found = []
    for best, counters in (
        (report.global_v4, report.global_v4_counters),
        (report.global_v6, report.global_v6_counters),
    ):
        if best is None:
            continue
        is_varying = counters is report.global_v4_counters and bool(report.mapping_varies_by_dest_ip)
        others = [one for one, count in counters.items() if one != best and (count > 1 or is_varying)]
        found += [best, *others[: MAX_OBSERVED - 1]]
    return found


def _forwarded_by_hand(report: Report, port: int, is_port_fixed: bool) -> list[Endpoint]:
    if report.global_v4 is None or not report.mapping_varies_by_dest_ip or not is_port_fixed:
        return []
    return [Endpoint(AddrPort(report.global_v4.host, port), EndpointType.STUN4_LOCAL_PORT)]


def local_endpoints(addresses: Iterable[AddrPort]) -> list[AddrPort]:
    """The interfaces' addresses that a peer may reach.

    Not the tunnel's own range. IPv4 link-local and IPv6 unique-local ones only where there is nothing else,
    loopback where there is nothing at all; two of each IPv6 subnet, which has temporary ones by the dozen.
    """
    ordinary, fallback, loopback = [], [], []
    per_subnet: dict[ipaddress.IPv6Network, int] = {}
    for one in addresses:
        address = one.address
        if is_tailnet_address(address) or not is_usable(one):
            continue
        if isinstance(address, ipaddress.IPv6Address):
            subnet = ipaddress.IPv6Network((address, 64), strict=False)
            per_subnet[subnet] = per_subnet.get(subnet, 0) + 1
            if per_subnet[subnet] > MAX_IPV6_PER_SUBNET:
                continue
        is_unique_local = isinstance(address, ipaddress.IPv6Address) and address in _UNIQUE_LOCAL
        if address.is_loopback:
            loopback.append(one)
        elif address.is_link_local or is_unique_local:
            fallback.append(one)
        else:
            ordinary.append(one)
    return ordinary or fallback or loopback


_UNIQUE_LOCAL: Final = ipaddress.IPv6Network("fc00::/7")
