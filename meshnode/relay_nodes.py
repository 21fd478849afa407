"""How to dial the relays that a DERP map names (nat-traversal reference §1.9, §1.10)."""

from __future__ import annotations

from derp.relay_node import DEFAULT_PORT, RelayNode
from meshproto.addresses import MAX_PORT
from meshproto.messages import DERPNode, DERPRegion

__all__ = ["is_relay", "relay_node", "relay_nodes"]


def relay_node(node: DERPNode) -> RelayNode:
    """Where the relay is, and whether it speaks TLS."""
    return RelayNode(
        node.host_name,
        node.derp_port or DEFAULT_PORT,
        name=node.name,
        ipv4=node.ipv4,
        ipv6=node.ipv6,
        cert_name=node.cert_name,
        is_insecure=node.insecure_for_tests,
    )


def is_relay(node: DERPNode) -> bool:
    """Whether a node of the map relays. Some only answer STUN; a port may be none that exists."""
    return not node.stun_only and 0 <= node.derp_port <= MAX_PORT


def relay_nodes(region: DERPRegion) -> tuple[RelayNode, ...]:
    """The relays of a region in the order in which to try them."""
    return tuple(relay_node(node) for node in region.nodes if is_relay(node))
