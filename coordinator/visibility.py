"""Why two nodes do, or do not, see each other: everything that a map depends on, in sentences."""

from __future__ import annotations

from coordinator import names
from coordinator.model import NodeRecord
from coordinator.store import Snapshot


def explain(snapshot: Snapshot, one: NodeRecord, other: NodeRecord) -> list[str]:
    """What stands between the two, a sentence each; empty when nothing does."""
    if one.id == other.id:
        return ["they are the same node"]
    reasons = [reason for node in (one, other) for reason in _about(snapshot, node)]
    for viewer, peer in ((one, other), (other, one)):
        if not snapshot.policy.sees(viewer, peer):
            reasons.append(
                f"the policy has no rule between {viewer.given_name} and {peer.given_name}, "
                f"so {peer.given_name} is not in the map of {viewer.given_name}"
            )
    return reasons


def _about(snapshot: Snapshot, node: NodeRecord) -> list[str]:
    reasons = []
    if node.id in snapshot.expired:
        reasons.append(f"the key of {node.given_name} is over; its user has to sign in again")
    if node.id not in snapshot.online:
        reasons.append(f"{node.given_name} is not connected to the coordinator; it is shown as offline")
    if names.fqdn(node.given_name, snapshot.settings.base_domain) is None:
        reasons.append(
            f"the name of {node.given_name} is too long with the base domain, so it is in no map; "
            f"rename it: coordinator nodes rename --identifier {node.id} NAME"
        )
    return reasons
