"""Finding things in a network map for people: the peer behind an address, a relay region's short name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from meshnode.netmap.session import NetworkMap
from meshnode.wireguard import PeerConfig
from meshproto.messages import DERPMap, Node

_JUST_AFTER = 0.1  # s


def peer_for(
    address: IPv4Address | IPv6Address, network_map: NetworkMap, peers: Iterable[PeerConfig]
) -> Node | None:
    """The peer that packets for `address` are sent to, as the data plane decides it: the longest prefix."""
    found = [
        (prefix.prefixlen, peer.public_key)
        for peer in peers
        for prefix in peer.allowed_ips
        if address in prefix
    ]
    if not found:
        return None
    return network_map.peer_by_key(max(found, key=lambda one: one[0])[1])


def owner_of(address: IPv4Address | IPv6Address, network_map: NetworkMap) -> Node | None:
    """The peer whose own address this is, or behind which it is, whether or not we use it."""
    granted = [
        (prefix.prefixlen, peer)
        for peer in network_map.peers.values()
        for prefix in peer.effective_allowed_ips
        if address in prefix
    ]
    return max(granted, key=lambda one: one[0])[1] if granted else None


def seconds_to_next_expiry(network_map: NetworkMap, wall: float) -> float:
    """Until just after the next key expires, ours or a peer's; infinite where none will."""
    nodes = [network_map.self_node, *network_map.peers.values()]
    ends = [node.key_expiry.timestamp() for node in nodes if node.key_expiry is not None]
    return min((end - wall + _JUST_AFTER for end in ends if end > wall), default=math.inf)


def node_name(node: Node) -> str:
    """The first DNS label, or the host name where there is none."""
    hostname = node.hostinfo.hostname if node.hostinfo is not None else ""
    return node.name.partition(".")[0] or hostname


def region_code(derp_map: DERPMap | None, region_id: int) -> str:
    """The short name of a DERP region, as `fra`; its number where the map has none; empty for region 0."""
    if not region_id:
        return ""
    regions = derp_map.regions if derp_map is not None else None
    region = regions.get(region_id) if regions else None
    return region.region_code if region is not None and region.region_code else str(region_id)
