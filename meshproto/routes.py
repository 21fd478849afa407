"""Prefix algebra that both ends need: exit routes, effective routes, and the tailnet's address ranges.

Address ranges: reference §8.3; clients hard-code them. Terms: advertised is what a node offers, approved what
an admin or policy allows, effective is both.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from meshproto.addresses import IPAddress, IPNetwork

CGNAT_RANGE = IPv4Network("100.64.0.0/10")
"""IPv4 addresses of nodes come from here."""
ULA_RANGE = IPv6Network("fd7a:115c:a1e0::/48")
"""IPv6 addresses of nodes come from here."""
CHROMEOS_RANGE = IPv4Network("100.115.92.0/23")
"""Inside the CGNAT range, but ChromeOS uses it for its own virtual machines."""
VIA_RANGE = IPv6Network("fd7a:115c:a1e0:b1a::/64")
"""IPv6 stand-ins for IPv4 sites (4via6)."""
MAGIC_DNS_IPV4 = IPv4Address("100.100.100.100")
MAGIC_DNS_IPV6 = IPv6Address("fd7a:115c:a1e0::53")

EXIT_ROUTE_IPV4 = IPv4Network("0.0.0.0/0")
EXIT_ROUTE_IPV6 = IPv6Network("::/0")
EXIT_ROUTES: frozenset[IPNetwork] = frozenset({EXIT_ROUTE_IPV4, EXIT_ROUTE_IPV6})


def is_exit_route(prefix: IPNetwork) -> bool:
    """Whether `prefix` is 0.0.0.0/0 or ::/0."""
    return prefix.prefixlen == 0


def with_exit_pair(prefixes: Iterable[IPNetwork]) -> frozenset[IPNetwork]:
    """`prefixes`, with both exit routes if one is there: a node is approved as an exit for both families."""
    chosen = frozenset(prefixes)
    return chosen | EXIT_ROUTES if chosen & EXIT_ROUTES else chosen


def without_exit_routes(prefixes: Iterable[IPNetwork]) -> frozenset[IPNetwork]:
    """The subnet routes among `prefixes`."""
    return frozenset(prefixes) - EXIT_ROUTES


def effective_routes(advertised: Iterable[IPNetwork], approved: Iterable[IPNetwork]) -> frozenset[IPNetwork]:
    """advertised ∩ approved, exactly: approving 10.0.0.0/8 does not approve an advertised 10.1.0.0/16."""
    return frozenset(advertised) & frozenset(approved)


def offers_exit(allowed_ips: Iterable[IPNetwork]) -> bool:
    """Whether a peer can be chosen as exit node: it must have both exit routes."""
    return frozenset(allowed_ips) >= EXIT_ROUTES


def prefix_sort_key(prefix: IPNetwork) -> tuple[int, int, int]:
    """IPv4 first, then by address, then the wider prefix first."""
    return prefix.version, int(prefix.network_address), prefix.prefixlen


def sorted_prefixes(prefixes: Iterable[IPNetwork]) -> tuple[IPNetwork, ...]:
    """Without duplicates, in the order of `prefix_sort_key`."""
    return tuple(sorted(set(prefixes), key=prefix_sort_key))


def host_prefix(address: IPAddress) -> IPNetwork:
    """`address` as /32 or /128."""
    return IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)


def is_tailnet_address(address: IPAddress) -> bool:
    """Whether `address` belongs to the tailnet: the two ranges, without what ChromeOS uses itself."""
    if isinstance(address, IPv4Address):
        return address in CGNAT_RANGE and address not in CHROMEOS_RANGE
    return address in ULA_RANGE


def is_assignable(address: IPAddress) -> bool:
    """Whether a node may be given `address`: a tailnet address that nothing else has a claim to."""
    if not is_tailnet_address(address) or address in (MAGIC_DNS_IPV4, MAGIC_DNS_IPV6):
        return False
    return isinstance(address, IPv4Address) or address not in VIA_RANGE
