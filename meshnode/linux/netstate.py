"""What the host's own network looks like to a node: a value made from links, addresses and default routes.

Pure. Two states that are equal need no reaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address

from meshnode.linux.router_config import IPInterface
from meshproto.addresses import IPAddress, IPNetwork
from meshproto.routes import is_tailnet_address, sorted_prefixes


@dataclass(frozen=True, slots=True)
class LinkFact:
    """A network interface."""

    name: str
    running: bool
    """Set up by the administrator, and with a carrier."""
    loopback: bool = False


@dataclass(frozen=True, slots=True)
class AddressFact:
    """An address of an interface."""

    link: int
    """Index of the interface."""
    address: IPInterface
    """With the prefix length of the network that it connects to."""
    usable: bool = True
    """Not still being checked for a duplicate, not a duplicate, not about to be given up."""


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """The way to the internet that our own packets take."""

    interface: str
    gateway: IPAddress | None = None
    source: IPAddress | None = None
    """Our address on that way."""


@dataclass(frozen=True, slots=True)
class NetworkState:
    """The host's own network, without our tunnel."""

    endpoints: tuple[IPAddress, ...] = ()
    """Addresses at which another machine may reach our UDP socket, IPv4 first, sorted."""
    lan_prefixes: tuple[IPNetwork, ...] = ()
    """Networks that the host is connected to, sorted."""
    default_routes: Mapping[int, DefaultRoute] = field(default_factory=dict)
    """By IP version; absent where there is none."""

    @property
    def is_online(self) -> bool:
        """Whether there is a way to the internet, by either version."""
        return bool(self.default_routes)

    @property
    def gateway_v4(self) -> tuple[IPv4Address, IPv4Address] | None:
        """The IPv4 default gateway and our address towards it; None without, or if there is no gateway on the
        way, as on a mobile link."""
        way = self.default_routes.get(4)
        if way and isinstance(way.gateway, IPv4Address) and isinstance(way.source, IPv4Address):
            return way.gateway, way.source
        return None


def network_state(
    tunnel: str,
    links: Mapping[int, LinkFact],
    addresses: Iterable[AddressFact],
    default_routes: Mapping[int, DefaultRoute],
) -> NetworkState:
    """The state of a host whose tunnel is the interface of that name; `links` by index."""
    outside = {
        index for index, link in links.items() if link.running and not link.loopback and link.name != tunnel
    }
    reachable = [fact for fact in addresses if fact.link in outside and fact.usable]
    return NetworkState(
        endpoints=_sorted(fact.address.ip for fact in reachable if is_endpoint(fact.address.ip)),
        lan_prefixes=sorted_prefixes(fact.address.network for fact in reachable if _is_lan(fact.address)),
        default_routes=dict(default_routes),
    )


def is_endpoint(address: IPAddress) -> bool:
    """Whether another machine could send to this address of ours.

    A link-local IPv6 address needs a zone, which is different on every machine. An address from the tailnet's
    range belongs to a tunnel, ours or another one's: WireGuard inside WireGuard.
    """
    if address.is_loopback or address.is_multicast or address.is_unspecified or is_tailnet_address(address):
        return False
    return not (isinstance(address, IPv6Address) and address.is_link_local)


def _is_lan(address: IPInterface) -> bool:
    net = address.network
    single = net.prefixlen == net.max_prefixlen
    return not (single or net.prefixlen == 0 or net.is_loopback or (net.version == 6 and net.is_link_local))


def _sorted(addresses: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    return tuple(sorted(set(addresses), key=lambda address: (address.version, int(address))))
