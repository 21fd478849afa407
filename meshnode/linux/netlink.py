"""Rules, routes, addresses and links of the kernel, as the values of plan.py: a thin layer over pyroute2.

Only what carries our protocol number is ever listed, and so only that can be removed.

Everything that uses pyroute2 runs `beside_the_loop`: its asyncio API needs the standard library's event loop,
as uvloop opens no netlink sockets, and decoding a thousand routes takes longer than packets should wait.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network
from types import TracebackType
from typing import Any, Self, TypeVar

from pyroute2 import AsyncIPRoute, NetlinkError

from meshnode.linux.marks import FWMARK, FWMARK_MASK, PHASE_PEERS, PHASE_SUBNETS, PROTOCOL, Ownership
from meshnode.linux.plan import Route, RouteKind, Rule
from meshnode.linux.router_config import IPInterface, is_node_address
from meshproto.addresses import IPNetwork

T = TypeVar("T")

FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
VERSION = {family: version for version, family in FAMILY.items()}
ANY = {4: "0.0.0.0/0", 6: "::/0"}

# Values of rtnetlink(7), fib_rules.h and if_addr.h that the protocol writes as numbers.
ROUTE_TYPES = {RouteKind.UNICAST: 1, RouteKind.UNREACHABLE: 7, RouteKind.THROW: 9}
ROUTE_KINDS = {number: kind for kind, number in ROUTE_TYPES.items()}
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_ANY = 0, 253, 255
NO_SUPPRESS = 0xFFFF_FFFF
ACTION_TABLE, ACTION_UNREACHABLE = 1, 7
IFF_UP = 1
IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x02, 0x200

# The kernel does not have the family, or not the table that a dump asks for: nothing there is a fine answer.
NOTHING_THERE = frozenset({errno.ENOENT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT})


@dataclass(frozen=True, slots=True)
class Link:
    """The tunnel's interface."""

    index: int
    mtu: int
    up: bool


FoundRoutes = Mapping[IPNetwork, Route | None]
"""Our routes in our table by destination; None where it is none that we would make now."""


@dataclass(frozen=True, slots=True)
class FoundRule:
    """A rule of ours in the kernel. `rule` is None where it is none that we would make now."""

    rule: Rule | None
    table: int | None
    request: Mapping[str, Any]
    """What names exactly this rule to the kernel."""


class SlotTaken(Exception):
    """Rules of another interface's node use the same priorities."""

    def __init__(self, own: Ownership, table: int) -> None:
        self.own = own
        super().__init__(f"another node's rules (table {table}) have the priorities of {own.interface}")


async def beside_the_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on a standard event loop in a thread. A cancelled caller is let go when `work` has ended."""

    def run() -> T:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            return runner.run(work)

    done = asyncio.get_running_loop().run_in_executor(None, run)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise


class Netlink:
    """A netlink socket, for as long as the `async with` block. To be used `beside_the_loop`."""

    async def __aenter__(self) -> Self:
        self._ipr = AsyncIPRoute(strict_check=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ipr.close()

    # Links and addresses

    async def find_link(self, name: str) -> Link | None:
        """The interface of this name, or None."""
        try:
            [message] = await self._ipr.link("get", ifname=name)
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
        return Link(message["index"], message.get_attr("IFLA_MTU"), bool(message["flags"] & IFF_UP))

    async def set_mtu(self, link: Link, mtu: int) -> None:
        """Set the MTU, bytes."""
        await self._ipr.link("set", index=link.index, mtu=mtu)

    async def set_up(self, link: Link, up: bool) -> None:
        """Set the interface up or down."""
        await self._ipr.link("set", index=link.index, state="up" if up else "down")

    async def addresses(self, link: Link) -> set[IPInterface]:
        """Our addresses on the interface.

        Kernels before 5.18 do not keep the protocol number of an address; there, single addresses from the
        tailnet's range are ours.
        """
        found = set()
        async for message in await self._ipr.addr("dump", index=link.index):
            host = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            address = ip_interface(f"{host}/{message['prefixlen']}")
            protocol = message.get_attr("IFA_PROTO")
            if protocol == PROTOCOL or (not protocol and is_node_address(address.network)):
                found.add(address)
        return found

    async def add_address(self, link: Link, address: IPInterface) -> None:
        """Add an address, without a route to its network and without looking for a duplicate."""
        flags = IFA_F_NODAD | IFA_F_NOPREFIXROUTE if address.version == 6 else IFA_F_NOPREFIXROUTE
        await self._ipr.addr("replace", **_address(link, address), flags=flags, proto=PROTOCOL)

    async def remove_address(self, link: Link, address: IPInterface) -> None:
        """Remove an address; one that has gone by itself is fine."""
        await _unless(errno.EADDRNOTAVAIL, self._ipr.addr("del", **_address(link, address)))

    # Rules

    async def rules(self, own: Ownership) -> list[FoundRule]:
        """Every rule of this node. Raises SlotTaken when another node has rules at the same priorities."""
        found = [rule async for rule in self._rules_at(own)]
        for other in found:
            tables = {PHASE_PEERS + own.slot, PHASE_SUBNETS + own.slot}
            if other.request["priority"] in tables and other.table not in (own.table, None):
                raise SlotTaken(own, other.table or 0)
        return found

    async def rules_of_table(self, own: Ownership) -> list[FoundRule]:
        """Those of this node's rules that look up its own table, and are surely its own."""
        return [rule async for rule in self._rules_at(own) if rule.table == own.table]

    async def _rules_at(self, own: Ownership) -> AsyncIterator[FoundRule]:
        for version, family in FAMILY.items():
            async for message in _dump(self._ipr.rule("dump", family=family), family):
                ours = message.get_attr("FRA_PROTOCOL") == PROTOCOL
                if ours and message.get_attr("FRA_PRIORITY") in own.priorities:
                    yield _found_rule(message, version, own)

    async def add_rule(self, rule: Rule, own: Ownership) -> None:
        """Add a rule; one that is there already is fine."""
        await _unless(errno.EEXIST, self._ipr.rule("add", **_rule_request(rule, own)))

    async def remove_rule(self, found: FoundRule) -> None:
        """Remove a rule; one that has gone by itself is fine."""
        await _unless(errno.ENOENT, self._ipr.rule("del", **found.request))

    # Routes

    async def routes(self, own: Ownership, link: Link | None) -> FoundRoutes:
        """Our routes in our table. Without the tunnel's link, no unicast route is one that we would make."""
        found: dict[IPNetwork, Route | None] = {}
        for version, family in FAMILY.items():
            async for message in _dump(self._ipr.route("dump", family=family, table=own.table), family):
                if message["proto"] == PROTOCOL and message.get_attr("RTA_TABLE") == own.table:
                    destination = _destination(message, version)
                    found[destination] = _found_route(message, destination, link)
        return found

    async def set_route(self, route: Route, own: Ownership, link: Link) -> None:
        """Add a route, or put it in the place of another one of ours to the same destination."""
        target = {"oif": link.index} if route.kind is RouteKind.UNICAST else {}
        on_link = route.kind is RouteKind.UNICAST and route.destination.version == 4
        await self._ipr.route(
            "replace",
            **_route(route.destination, own),
            **target,
            type=ROUTE_TYPES[route.kind],
            scope=SCOPE_LINK if on_link else SCOPE_UNIVERSE,
        )

    async def remove_route(self, destination: IPNetwork, own: Ownership) -> None:
        """Remove our route to a destination; one that has gone with its interface is fine."""
        await _unless(errno.ESRCH, self._ipr.route("del", **_route(destination, own), scope=SCOPE_ANY))


async def _dump(request: Any, family: int) -> AsyncIterator[Any]:
    """The messages of one family: a kernel without IPv6 answers for all it has when asked for IPv6."""
    try:
        async for message in await request:
            if message["family"] == family:
                yield message
    except NetlinkError as error:
        if error.code not in NOTHING_THERE:
            raise


async def _unless(code: int, request: Any) -> None:
    try:
        await request
    except NetlinkError as error:
        if error.code != code:
            raise


def _address(link: Link, address: IPInterface) -> dict[str, Any]:
    return {
        "index": link.index,
        "family": FAMILY[address.version],
        "address": str(address.ip),
        "prefixlen": address.network.prefixlen,
    }


def _route(destination: IPNetwork, own: Ownership) -> dict[str, Any]:
    return {
        "family": FAMILY[destination.version],
        "dst": str(destination),
        "table": own.table,
        "proto": PROTOCOL,
    }


def _destination(message: Any, version: int) -> IPNetwork:
    address = message.get_attr("RTA_DST")
    return ip_network(f"{address}/{message['dst_len']}" if address else ANY[version])


def _found_route(message: Any, destination: IPNetwork, link: Link | None) -> Route | None:
    kind = ROUTE_KINDS.get(message["type"])
    into_tunnel = link is not None and message.get_attr("RTA_OIF") == link.index
    if kind is None or (kind is RouteKind.UNICAST and not into_tunnel):
        return None
    return Route(destination, kind)


def _rule_request(rule: Rule, own: Ownership) -> dict[str, Any]:
    request: dict[str, Any] = {
        "family": FAMILY[rule.version],
        "priority": rule.priority,
        "protocol": PROTOCOL,
        "action": ACTION_UNREACHABLE if rule.table is None else ACTION_TABLE,
    }
    if rule.table is not None:
        request["table"] = rule.table
    if rule.own_mark:
        request |= {"fwmark": FWMARK, "fwmask": FWMARK_MASK}
    if rule.to is not None:
        request |= {"dst": str(rule.to.network_address), "dst_len": rule.to.prefixlen}
    if rule.from_tunnel:
        request["iifname"] = own.interface
    if rule.suppress is not None:
        request["suppress_prefixlen"] = rule.suppress
    return request


def _found_rule(message: Any, version: int, own: Ownership) -> FoundRule:
    suppress = message.get_attr("FRA_SUPPRESS_PREFIXLEN")
    present: dict[str, Any] = {
        "family": FAMILY[version],
        "priority": message.get_attr("FRA_PRIORITY"),
        "protocol": PROTOCOL,
        "action": message["action"],
        "table": message.get_attr("FRA_TABLE") or None,
        "fwmark": message.get_attr("FRA_FWMARK"),
        "fwmask": message.get_attr("FRA_FWMASK"),
        "dst": message.get_attr("FRA_DST"),
        "dst_len": message["dst_len"] or None,
        "src": message.get_attr("FRA_SRC"),
        "src_len": message["src_len"] or None,
        "iifname": message.get_attr("FRA_IIFNAME"),
        "oifname": message.get_attr("FRA_OIFNAME"),
        "suppress_prefixlen": None if suppress == NO_SUPPRESS else suppress,
    }
    request = {key: value for key, value in present.items() if value is not None}
    to = ip_network(f"{request['dst']}/{request['dst_len']}") if "dst" in request else None
    rule = Rule(
        version,
        request["priority"],
        request.get("table"),
        own_mark="fwmark" in request,
        to=to,
        from_tunnel="iifname" in request,
        suppress=request.get("suppress_prefixlen"),
    )
    # Field by field what we would ask for, or it is not that rule.
    return FoundRule(rule if _rule_request(rule, own) == request else None, rule.table, request)
