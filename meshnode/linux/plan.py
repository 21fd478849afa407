"""From a RouterConfig to the exact rules, routes and addresses that make it true. Pure.

How a packet finds its way, by rule priority (the phases of marks.py, the same for IPv4 and IPv6):

    own, to main        carries our mark          the main table ...
    own, to default     carries our mark          ... or the default table ...
    own, unreachable    carries our mark          ... or nothing: what we send never enters a tunnel
    peers               to the tailnet's range    our table, addresses of nodes only
    from the tunnel     came in by the tunnel     the main table (only where an exit node is used)
    LAN                 -                         the main table without its default route
    subnets             -                         our table without /0
    exit                -                         our table with /0 (only where an exit node is used)

So a node that sits in a subnet it accepts keeps its direct way there (connected networks first), while peers'
own addresses go into the tunnel whatever the main table says. With an exit node the LAN rule is left out:
everything enters the tunnel except what came out of it, and `local_routes`: `throw` routes in our table, that
fall through to the main table. That this takes connected networks by name, and not whatever the main table
holds, keeps a DHCP server that announces 0.0.0.0/1 from drawing traffic past the exit node (CVE-2024-3661).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from meshnode.linux.marks import (
    FWMARK,
    FWMARK_MASK,
    PHASE_EXIT,
    PHASE_FROM_TUNNEL,
    PHASE_LAN,
    PHASE_OWN_TO_DEFAULT,
    PHASE_OWN_TO_MAIN,
    PHASE_OWN_UNREACHABLE,
    PHASE_PEERS,
    PHASE_SUBNETS,
    Ownership,
)
from meshnode.linux.router_config import (
    FAMILIES,
    IPV6_MIN_MTU,
    IPInterface,
    RouterConfig,
    exit_route,
    is_node_address,
    is_within,
    tailnet_range,
)
from meshproto.addresses import IPNetwork
from meshproto.routes import sorted_prefixes

TABLE_DEFAULT = 253
TABLE_MAIN = 254

# The peers rule takes from our table only what is longer than this: of IPv4, whose range is shared with
# internet providers, single addresses; of IPv6 also the one route for the whole range, which is ours alone.
PEERS_SUPPRESS = {4: 31, 6: 47}


class Ipv6(Enum):
    """What the host lets us do with IPv6."""

    USABLE = "usable"
    OFF_ON_INTERFACE = "off on the tunnel's interface"
    ABSENT = "not in this kernel"


class RouteKind(Enum):
    """The route types we install (ip-route(8))."""

    UNICAST = "unicast"
    THROW = "throw"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy rule of ours. Without a table it answers "unreachable"."""

    version: int
    priority: int
    table: int | None
    own_mark: bool = False
    """Only packets with our mark."""
    to: IPNetwork | None = None
    from_tunnel: bool = False
    """Only packets that came in by the tunnel's interface."""
    suppress: int | None = None
    """A route with this prefix length or a shorter one does not count."""


@dataclass(frozen=True, slots=True)
class Route:
    """One route in our table; unicast is into the tunnel."""

    destination: IPNetwork
    kind: RouteKind = RouteKind.UNICAST


@dataclass(frozen=True, slots=True)
class Plan:
    """What must be there, and nothing else of ours."""

    addresses: tuple[IPInterface, ...] = ()
    mtu: int | None = None
    """None: the link is not ours to set."""
    rules: tuple[Rule, ...] = ()
    routes: tuple[Route, ...] = ()
    notes: tuple[str, ...] = ()
    """What was left out and why, for a person."""


def make_plan(config: RouterConfig, own: Ownership, ipv6: Ipv6) -> Plan:
    """The plan for `config`. Never fails: what the host cannot do is left out and noted."""
    if config.is_empty:
        return Plan()
    tunnel = [version for version in FAMILIES if version == 4 or (ipv6 is Ipv6.USABLE and _fits_ipv6(config))]
    # Without IPv6 in the tunnel, but with an exit node, IPv6 is blocked rather than let past it.
    blocked = [6] if 6 not in tunnel and ipv6 is not Ipv6.ABSENT and config.uses_exit(6) else []
    return Plan(
        addresses=tuple(address for address in config.addresses if address.version in tunnel),
        mtu=config.mtu,
        rules=tuple(rule for version in tunnel + blocked for rule in _rules(config, own, version)),
        routes=tuple(
            [route for version in tunnel for route in _routes(config, version)]
            + [route for version in blocked for route in _blocking_routes(config, version)]
        ),
        notes=tuple(_notes(config, own, ipv6)),
    )


def _fits_ipv6(config: RouterConfig) -> bool:
    return config.mtu >= IPV6_MIN_MTU


def _rules(config: RouterConfig, own: Ownership, version: int) -> Iterator[Rule]:
    slot = own.slot
    yield Rule(version, PHASE_OWN_TO_MAIN + slot, TABLE_MAIN, own_mark=True)
    yield Rule(version, PHASE_OWN_TO_DEFAULT + slot, TABLE_DEFAULT, own_mark=True)
    yield Rule(version, PHASE_OWN_UNREACHABLE + slot, None, own_mark=True)
    yield Rule(
        version,
        PHASE_PEERS + slot,
        own.table,
        to=tailnet_range(version),
        suppress=PEERS_SUPPRESS[version],
    )
    if not config.uses_exit(version):
        yield Rule(version, PHASE_LAN + slot, TABLE_MAIN, suppress=0)
        yield Rule(version, PHASE_SUBNETS + slot, own.table, suppress=0)
        return
    yield Rule(version, PHASE_FROM_TUNNEL + slot, TABLE_MAIN, from_tunnel=True)
    yield Rule(version, PHASE_SUBNETS + slot, own.table, suppress=0)
    yield Rule(version, PHASE_EXIT + slot, own.table)


def _routes(config: RouterConfig, version: int) -> Iterator[Route]:
    peers = {net for net in config.routes if is_node_address(net)}
    local = _of(version, config.local_routes - peers)
    for net in local:
        yield Route(net, RouteKind.THROW)
    for net in _of(version, config.routes):
        if net in peers or not any(is_within(net, bypass) for bypass in local):
            yield Route(net)


def _blocking_routes(config: RouterConfig, version: int) -> Iterator[Route]:
    for net in _of(version, config.local_routes):
        yield Route(net, RouteKind.THROW)
    yield Route(exit_route(version), RouteKind.UNREACHABLE)


def _of(version: int, networks: frozenset[IPNetwork]) -> tuple[IPNetwork, ...]:
    return sorted_prefixes(net for net in networks if net.version == version)


def _notes(config: RouterConfig, own: Ownership, ipv6: Ipv6) -> Iterator[str]:
    wanted = [*config.addresses, *config.routes]
    if not any(item.version == 6 for item in wanted):
        return
    blocked = "; IPv6 to the internet is blocked while an exit node is used" if config.uses_exit(6) else ""
    if ipv6 is Ipv6.ABSENT:
        yield "this kernel has no IPv6: the tunnel carries IPv4 only"
    elif ipv6 is Ipv6.OFF_ON_INTERFACE:
        name = own.interface
        yield (
            f"IPv6 is turned off on {name}: the tunnel carries IPv4 only{blocked}. To change it:"
            f" sysctl -w net.ipv6.conf.all.disable_ipv6=0 net.ipv6.conf.default.disable_ipv6=0, then restart"
        )
    elif not _fits_ipv6(config):
        yield (
            f"an MTU of {config.mtu} is too small for IPv6: the tunnel carries IPv4 only{blocked}."
            f" To change it: an MTU of {IPV6_MIN_MTU} or more"
        )


def describe(plan: Plan, own: Ownership) -> list[str]:
    """The plan in the words of `ip`, a line each: for logs and for people who review a change."""
    lines = [f"link mtu {plan.mtu} up"] if plan.mtu is not None else []
    lines += [f"address {address}" for address in plan.addresses]
    lines += [describe_rule(rule, own) for rule in plan.rules]
    lines += [describe_route(route, own) for route in plan.routes]
    return lines + [f"note: {note}" for note in plan.notes]


def describe_rule(rule: Rule, own: Ownership) -> str:
    """`ip -4 rule 4600: to 100.64.0.0/10 lookup 41641 suppress_prefixlength 31`."""
    words = [f"ip -{rule.version} rule {rule.priority}:"]
    if rule.own_mark:
        words.append(f"fwmark {FWMARK:#x}/{FWMARK_MASK:#x}")
    if rule.to is not None:
        words.append(f"to {rule.to}")
    if rule.from_tunnel:
        words.append(f"iif {own.interface}")
    words.append("unreachable" if rule.table is None else f"lookup {_table_name(rule.table)}")
    if rule.suppress is not None:
        words.append(f"suppress_prefixlength {rule.suppress}")
    return " ".join(words)


def describe_route(route: Route, own: Ownership) -> str:
    """`ip route 100.64.0.2/32 dev mesh0 table 41641`."""
    if route.kind is RouteKind.UNICAST:
        return f"ip route {route.destination} dev {own.interface} table {own.table}"
    return f"ip route {route.kind.value} {route.destination} table {own.table}"


def _table_name(table: int) -> str:
    return {TABLE_MAIN: "main", TABLE_DEFAULT: "default"}.get(table, str(table))
