"""The smallest way to tell a viewer what became of one peer (control-protocol §8.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coordinator.model import NodeID
from coordinator.nodeviews import NodeView
from meshproto.gotime import ZERO_TIME
from meshproto.messages import Node, PeerChange

# Attribute of Node -> attribute of PeerChange. Any other difference needs the whole node.
_PATCHED_AS = {
    "home_derp": "derp_region",
    "cap": "cap",
    "endpoints": "endpoints",
    "key": "key",
    "disco_key": "disco_key",
    "online": "online",
    "last_seen": "last_seen",
    "key_expiry": "key_expiry",
}
# A patch cannot say that these are gone: there, absent means unchanged.
_NOT_CLEARED_BY_PATCH = ("home_derp", "cap", "disco_key")


@dataclass(frozen=True, slots=True, eq=False)
class PeerDiff:
    """One peer is new or different as a whole (`node`), different in details (`patch`), or gone (neither)."""

    peer_id: NodeID
    node: NodeView | None = None
    patch: PeerChange | None = None


def diff_peer(
    peer_id: NodeID, old: NodeView | None, new: NodeView | None, expired_meanwhile: bool
) -> PeerDiff | None:
    """How to get from `old` to `new`; None for either is "not in the map". None when there is nothing to say.

    `expired_meanwhile`: the peer's key ran out. Viewers know its expiry but may have a wrong clock.
    """
    if new is None:
        return None if old is None else PeerDiff(peer_id)
    if old is None:
        return PeerDiff(peer_id, node=new)
    changed = {
        name: value
        for name in Node.__struct_fields__
        if (value := getattr(new.node, name)) != getattr(old.node, name)
    }
    if expired_meanwhile:
        changed["key_expiry"] = new.node.key_expiry
    if new.node.online and not changed.get("last_seen", True):
        del changed["last_seen"]  # being online says it
    if not changed:
        return None
    if not changed.keys() <= _PATCHED_AS.keys() or any(
        name in changed and not changed[name] for name in _NOT_CLEARED_BY_PATCH
    ):
        return PeerDiff(peer_id, node=new)
    return PeerDiff(peer_id, patch=_patch(peer_id, changed))


def _patch(peer_id: NodeID, changed: dict[str, Any]) -> PeerChange:
    fields = {_PATCHED_AS[name]: value for name, value in changed.items()}
    if "key_expiry" in fields and fields["key_expiry"] is None:
        fields["key_expiry"] = ZERO_TIME
    return PeerChange(node_id=peer_id, **fields)
