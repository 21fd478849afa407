"""From the network map, the preferences and the local network to what WireGuard and the router must be.

A pure projection: the same inputs give the same configuration, and the shells make the world match it.

Routing rules (node behaviour §7):

- A peer's own addresses are always routed to it; its subnet routes only where we accept routes; its /0 routes
  only where it is our exit node.
- An exit node that is chosen but gone, offline or not approved keeps both /0 routes in the tunnel, where they
  lead to nobody: traffic is blocked rather than sent in the clear. That holds for each address family.
- Connected networks come before accepted subnet routes, which is the router's own rule. With an exit node
  they bypass the tunnel only where LAN access was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import IPv4Interface, IPv6Interface

from meshnode.disco.events import PeerInfo
from meshnode.linux.router_config import RouterConfig
from meshnode.netmap.session import NetworkMap
from meshnode.prefs import Prefs
from meshnode.wireguard import PeerConfig
from meshproto.addresses import AddrPort, IPNetwork
from meshproto.keys import NodePublic
from meshproto.messages import DERPMap, Node
from meshproto.routes import (
    CGNAT_RANGE,
    EXIT_ROUTES,
    ULA_RANGE,
    is_tailnet_address,
    offers_exit,
    sorted_prefixes,
    without_exit_routes,
)

MAX_PEER_ROUTES = 10_000
"""With more peers than this, one route for the whole IPv4 range replaces one per peer."""
ROUTES_NOT_ACCEPTED = "Some peers are advertising routes but --accept-routes is false"


@dataclass(frozen=True, slots=True)
class LocalFacts:
    """What the host is like at this moment."""

    lan_prefixes: tuple[IPNetwork, ...] = ()
    """Networks that the host's other interfaces are connected to."""
    mtu: int = 1280
    listen_port: int = 0


@dataclass(frozen=True, slots=True)
class Configuration:
    """What must be in force. The default is nothing at all: the state of a node that is not running."""

    peers: tuple[PeerConfig, ...] = ()
    paths: tuple[PeerInfo, ...] = ()
    """What is known of the ways to each peer."""
    derp_map: DERPMap | None = None
    """The relays that may be used."""
    router: RouterConfig = field(default_factory=RouterConfig)
    exit_node: Node | None = None
    """The exit node in use, where it is in the map and offers itself."""
    advice: tuple[str, ...] = ()
    """Lines for the health list."""


def derive(network_map: NetworkMap, prefs: Prefs, facts: LocalFacts, wall: float) -> Configuration:
    """The configuration that this map calls for at Unix time `wall` (by the coordinator's clock)."""
    if is_expired(network_map.self_node, wall) or not network_map.self_node.machine_authorized:
        return Configuration()
    usable = list(_usable_peers(network_map, wall))
    chosen = find_exit_node(usable, prefs)
    exit_node = chosen if chosen is not None and offers_exit(chosen.effective_allowed_ips) else None
    return Configuration(
        peers=tuple(PeerConfig(peer.key, allowed_ips(peer, prefs, exit_node)) for peer in usable),
        paths=tuple(_path_info(peer) for peer in usable),
        derp_map=network_map.derp_map,
        router=_router(network_map, prefs, facts, usable),
        exit_node=exit_node,
        advice=tuple(_advice(usable, prefs, chosen, exit_node)),
    )


def _usable_peers(network_map: NetworkMap, wall: float) -> Iterable[Node]:
    """Peers that can be configured. One that makes no sense costs only itself: no key, ours, or another's."""
    taken = {NodePublic.zero(), network_map.self_node.key}
    for peer in network_map.peers.values():
        if not is_expired(peer, wall) and peer.key not in taken:
            taken.add(peer.key)
            yield peer


def own_addresses(node: Node) -> frozenset[IPNetwork]:
    """The node's single addresses in the tunnel. A longer network under that name would be a route."""
    return frozenset(own for own in node.addresses if own.prefixlen == own.max_prefixlen)


def is_expired(node: Node, wall: float) -> bool:
    """Whether the node's key is no longer valid, as the server says or by its expiry."""
    return node.expired or (
        node.key_expiry is not None and node.key_expiry <= datetime.fromtimestamp(wall, UTC)
    )


def find_exit_node(peers: Iterable[Node], prefs: Prefs) -> Node | None:
    """The peer that the preferences name as exit node, whether or not it offers itself."""
    for peer in peers:
        if prefs.exit_node_id and peer.stable_id == prefs.exit_node_id:
            return peer
        if prefs.exit_node_ip and any(
            str(own.network_address) == prefs.exit_node_ip for own in peer.addresses
        ):
            return peer
    return None


def subnet_routes(peer: Node) -> frozenset[IPNetwork]:
    """The networks behind a peer that it may serve: neither its own addresses nor /0."""
    return without_exit_routes(peer.effective_allowed_ips) - own_addresses(peer)


def allowed_ips(peer: Node, prefs: Prefs, exit_node: Node | None) -> frozenset[IPNetwork]:
    """What the peer may send from and is sent to (cryptokey routing)."""
    granted = frozenset(peer.effective_allowed_ips)
    allowed = granted & own_addresses(peer)
    if prefs.route_all:
        allowed |= subnet_routes(peer)
    if exit_node is not None and peer.id == exit_node.id:
        allowed |= granted & EXIT_ROUTES
    return allowed


def served_routes(self_node: Node, prefs: Prefs) -> frozenset[IPNetwork]:
    """What we forward for others: advertised by us and approved by the coordinator, /0 included."""
    return frozenset(prefs.advertised) & frozenset(self_node.effective_allowed_ips)


def _path_info(peer: Node) -> PeerInfo:
    net_info = peer.hostinfo.net_info if peer.hostinfo is not None else None
    return PeerInfo(
        node_key=peer.key,
        disco_key=peer.disco_key if peer.disco_key else None,
        endpoints=tuple(_candidates(peer)),
        home_region=peer.effective_home_derp,
        mapping_varies=net_info.mapping_varies_by_dest_ip if net_info is not None else None,
    )


def _candidates(peer: Node) -> Iterable[AddrPort]:
    """The peer's endpoints, without those inside the tunnel itself and those that need a zone."""
    for endpoint in peer.endpoints or ():
        address = endpoint.address
        is_outside = not (is_tailnet_address(address) or address.is_link_local or address.is_unspecified)
        if is_outside and endpoint.port:
            yield endpoint


def _router(network_map: NetworkMap, prefs: Prefs, facts: LocalFacts, peers: list[Node]) -> RouterConfig:
    routes = _peer_routes(network_map.self_node, peers)
    if prefs.route_all:
        routes |= frozenset(route for peer in peers for route in subnet_routes(peer))
    if prefs.uses_exit_node:
        routes |= EXIT_ROUTES
    bypasses = prefs.uses_exit_node and prefs.exit_node_allow_lan_access
    served = served_routes(network_map.self_node, prefs)
    return RouterConfig(
        addresses=tuple(_interface(own) for own in sorted_prefixes(own_addresses(network_map.self_node))),
        mtu=facts.mtu,
        routes=routes,
        local_routes=frozenset(facts.lan_prefixes) if bypasses else frozenset(),
        subnet_routes=without_exit_routes(served),
        exit_node_offered=served >= EXIT_ROUTES,
        snat=not prefs.no_snat,
        listen_port=facts.listen_port,
    )


def _peer_routes(self_node: Node, peers: Iterable[Node]) -> frozenset[IPNetwork]:
    """One route per peer address, except that a whole range takes the place of many of its addresses."""
    routes = frozenset(own for peer in peers for own in own_addresses(peer))
    for whole, limit in ((CGNAT_RANGE, MAX_PEER_ROUTES), (ULA_RANGE, 0)):
        inside = frozenset(route for route in routes if _overlap(route, whole))
        if len(inside) > limit:
            routes = (routes - inside) | {whole}
    return routes - own_addresses(self_node)


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _interface(prefix: IPNetwork) -> IPv4Interface | IPv6Interface:
    if prefix.version == 4:
        return IPv4Interface(str(prefix))
    return IPv6Interface(str(prefix))


def _advice(
    peers: Iterable[Node], prefs: Prefs, chosen: Node | None, exit_node: Node | None
) -> Iterable[str]:
    if not prefs.route_all and any(subnet_routes(peer) for peer in peers):
        yield ROUTES_NOT_ACCEPTED
    if not prefs.uses_exit_node:
        return
    name = chosen.name.partition(".")[0] if chosen is not None else prefs.exit_node_id or prefs.exit_node_ip
    blocked = (
        "internet traffic is blocked until it returns, or until you clear it with: meshnode set --exit-node="
    )
    if chosen is None:
        yield f"Exit node {name} is not in the network; {blocked}"
    elif exit_node is None:
        yield f"Exit node {name} does not offer itself, or is not approved; {blocked}"
    elif exit_node.online is False:
        yield f"Exit node {name} is reported offline; while it is away, {blocked}"
