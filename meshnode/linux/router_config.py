"""What the host's network must be like for the tunnel: the value that LinuxRouter makes true.

Pure, so that the projection from the network map can build it.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from meshproto.addresses import IPNetwork
from meshproto.routes import (
    CGNAT_RANGE,
    EXIT_ROUTE_IPV4,
    EXIT_ROUTE_IPV6,
    ULA_RANGE,
    sorted_prefixes,
    without_exit_routes,
)

IPInterface = IPv4Interface | IPv6Interface

FAMILIES = (4, 6)
"""IP versions, in the order in which everything is listed."""

MIN_MTU = 576
MAX_MTU = 65535
IPV6_MIN_MTU = 1280
"""Below this the kernel turns IPv6 off on an interface (RFC 8200 §5)."""


def exit_route(version: int) -> IPNetwork:
    """0.0.0.0/0 or ::/0."""
    return EXIT_ROUTE_IPV4 if version == 4 else EXIT_ROUTE_IPV6


def tailnet_range(version: int) -> IPNetwork:
    """The range from which nodes have their addresses."""
    return CGNAT_RANGE if version == 4 else ULA_RANGE


def is_within(inner: IPNetwork, outer: IPNetwork) -> bool:
    """Whether `outer` holds all of `inner`; false between IP versions."""
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def is_node_address(net: IPNetwork) -> bool:
    """Whether `net` is one address of the tailnet's ranges, and so a node rather than a subnet behind one."""
    return net.prefixlen == net.max_prefixlen and is_within(net, tailnet_range(net.version))


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """The wanted state. `RouterConfig()` is the state without anything of ours."""

    addresses: tuple[IPInterface, ...] = ()
    """Of the tunnel: /32 and /128."""
    mtu: int = 1280
    """Of the tunnel, bytes of IP packet."""
    routes: frozenset[IPNetwork] = frozenset()
    """Into the tunnel: peers' addresses, accepted subnets, and /0 where an exit node is used."""
    local_routes: frozenset[IPNetwork] = frozenset()
    """Networks that bypass the tunnel, whatever `routes` says; peers' own addresses still do not."""
    subnet_routes: frozenset[IPNetwork] = frozenset()
    """Networks behind this host that peers may reach through it."""
    snat: bool = True
    """What is forwarded from the tunnel leaves under this host's address, so that answers find back."""
    exit_node_offered: bool = False
    """Peers may reach the internet through this host. `/0` in `subnet_routes` says the same of one family."""
    listen_port: int | None = None
    """WireGuard's UDP port; None or 0 where it is not known yet."""

    def __post_init__(self) -> None:
        if not MIN_MTU <= self.mtu <= MAX_MTU:
            raise ValueError(f"MTU {self.mtu} is not between {MIN_MTU} and {MAX_MTU}")

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be there."""
        return not (self.addresses or self.routes)

    def uses_exit(self, version: int) -> bool:
        """Whether traffic of this IP version goes to an exit node."""
        return exit_route(version) in self.routes

    def offers_exit(self, version: int) -> bool:
        """Whether this host is an exit node for this IP version."""
        return self.exit_node_offered or exit_route(version) in self.subnet_routes

    def served(self, version: int) -> tuple[IPNetwork, ...]:
        """The networks of one IP version that this host forwards into, without /0, sorted."""
        subnets = without_exit_routes(self.subnet_routes)
        return sorted_prefixes(net for net in subnets if net.version == version)

    def forwards(self, version: int) -> bool:
        """Whether this host forwards packets of this IP version from the tunnel."""
        return self.offers_exit(version) or bool(self.served(version))

    def peer_routes(self, version: int) -> tuple[IPNetwork, ...]:
        """Those routes that are addresses of nodes, or their whole range; sorted."""
        whole = tailnet_range(version)
        return sorted_prefixes(
            net for net in self.routes if net == whole or (net.version == version and is_node_address(net))
        )
