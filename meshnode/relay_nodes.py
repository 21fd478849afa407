"""How to dial the relays that a DERP map names (nat-traversal reference §1.9, §1.10)."""

from __future__ import annotations

from derp.relay_node import DEFAULT_PORT, RelayNode
from meshproto.messages import DERPNode, DERPRegion

__all__ = ["relay_node", "relay_nodes"]


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


def relay_nodes(region: DERPRegion) -> tuple[RelayNode, ...]:
    """The relays of a region in the order in which to try them; those that only answer STUN are none."""
    return tuple(relay_node(node) for node in region.nodes if not node.stun_only)
