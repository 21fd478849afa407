"""Nodes as maps describe them: to themselves and to a peer (control-protocol §8.3)."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from coordinator import names
from coordinator.model import (
    TAGGED_DEVICES_DISPLAY_NAME,
    TAGGED_DEVICES_ID,
    TAGGED_DEVICES_NAME,
    IPNetwork,
    NodeID,
    NodeRecord,
    UserID,
)
from coordinator.store import Snapshot
from meshproto import codec
from meshproto.messages import CapMap, Hostinfo, NetInfo, Node, UserProfile
from meshproto.routes import host_prefix, sorted_prefixes

KEPT_SNAPSHOTS = 8  # viewers are told at about the same time; a few lag behind

SELF_CAPABILITIES: Final[CapMap] = {
    "https://tailscale.com/cap/is-admin": None,
    "https://tailscale.com/cap/ssh": None,
    "https://tailscale.com/cap/file-sharing": None,
    "default-auto-update": (False,),
}
"""What every node may do with its own client (§8.9), as Headscale grants it."""


class NodeView:
    """A node as its peers see it. Compared by identity: the same view is the same description.

    `routes` are those that it serves: primary subnet routes and exit routes.
    """

    __slots__ = ("_encoded", "_limited", "node", "routes")

    def __init__(self, node: Node, routes: tuple[IPNetwork, ...]) -> None:
        self.node = node
        self.routes = routes
        self._encoded: Node | None = None
        self._limited: dict[tuple[IPNetwork, ...], NodeView] = {}

    @property
    def encoded(self) -> Node:
        """A stand-in for `node` that carries its JSON, made once."""
        if self._encoded is None:
            self._encoded = codec.pre_encoded(self.node)
        return self._encoded

    def limited_to(self, routes: tuple[IPNetwork, ...]) -> NodeView:
        """The view of somebody who may use only `routes`."""
        if routes == self.routes:
            return self
        if routes not in self._limited:
            primary = tuple(route for route in self.node.primary_routes if route in routes)
            limited = msgspec.structs.replace(
                self.node, allowed_ips=self.node.addresses + routes, primary_routes=primary
            )
            self._limited[routes] = NodeView(limited, routes)
        return self._limited[routes]


class SnapshotViews:
    """The views of all nodes of one snapshot, by id; without those that have none (`_peer_view`)."""

    __slots__ = ("by_id", "snapshot")

    def __init__(self, snapshot: Snapshot, by_id: dict[NodeID, NodeView]) -> None:
        self.snapshot = snapshot
        self.by_id = by_id

    def all_seen(self, viewer: NodeRecord) -> list[NodeView]:
        """All peers as `viewer` sees them, by id."""
        if self.snapshot.policy.is_uniform:
            return [view for peer_id, view in sorted(self.by_id.items()) if peer_id != viewer.id]
        seen = (self.seen(viewer, peer_id) for peer_id in sorted(self.by_id))
        return [view for view in seen if view is not None]

    def seen(self, viewer: NodeRecord, peer_id: NodeID) -> NodeView | None:
        """The node as `viewer` sees it; None when it is not in the viewer's map."""
        view = self.by_id.get(peer_id)
        policy = self.snapshot.policy
        if view is None or peer_id == viewer.id:
            return None
        if policy.is_uniform:
            return view
        peer = self.snapshot.nodes[peer_id]
        if not policy.sees(viewer, peer):
            return None
        return view.limited_to(policy.visible_routes(viewer, peer, view.routes)) if view.routes else view


class NodeViews:
    """Makes the views of snapshots: of the nodes that differ from the last one, and keeps the others."""

    def __init__(self) -> None:
        self._recent: list[SnapshotViews] = []
        self._kept: dict[NodeID, tuple[_Kept, ...]] = {}

    def of(self, snapshot: Snapshot) -> SnapshotViews:
        """The views of `snapshot`, made once for each of the last few snapshots."""
        for views in self._recent:
            if views.snapshot is snapshot:
                return views
        if self._recent and _domain(self._recent[0].snapshot) == _domain(snapshot):
            base = self._recent[0]
        else:
            self._kept.clear()
            base = SnapshotViews(Snapshot(), {})
        by_id = dict(base.by_id)
        for node_id in _differing(base.snapshot, snapshot):
            view = self._view(snapshot, node_id)
            if view is not None:
                by_id[node_id] = view
            else:
                by_id.pop(node_id, None)
        views = SnapshotViews(snapshot, by_id)
        self._recent = [views, *self._recent[: KEPT_SNAPSHOTS - 1]]
        return views

    def _view(self, snapshot: Snapshot, node_id: NodeID) -> NodeView | None:
        """The node's view, if it has one. The one before it is kept too, for a node that goes back to it."""
        record = snapshot.nodes.get(node_id)
        if record is None:
            self._kept.pop(node_id, None)
            return None
        is_online = node_id in snapshot.online
        primary = snapshot.primaries.of(node_id)
        entries = self._kept.get(node_id, ())
        for entry in entries:
            if entry.record is record and entry.is_online == is_online and entry.primary == primary:
                self._kept[node_id] = entries if entry is entries[0] else entries[::-1]
                return entry.view
        entry = _Kept(record, is_online, primary, _peer_view(snapshot, record))
        self._kept[node_id] = (entry, *entries[:1])
        return entry.view


def _differing(old: Snapshot, new: Snapshot) -> set[NodeID]:
    """The nodes whose views may differ between two snapshots."""
    differing = set(old.online ^ new.online)
    if old.nodes is not new.nodes:
        differing.update(
            node_id for node_id, record in new.nodes.items() if old.nodes.get(node_id) is not record
        )
        differing.update(old.nodes.keys() - new.nodes.keys())
    if old.primaries is not new.primaries:
        differing.update(old.primaries.standing, new.primaries.standing)
    return differing


def _domain(snapshot: Snapshot) -> str:
    """All that views show of the settings."""
    return snapshot.settings.base_domain


class _Kept(NamedTuple):
    """A view, and all that it was made from besides the settings."""

    record: NodeRecord
    is_online: bool
    primary: tuple[IPNetwork, ...]
    view: NodeView | None


def self_node(snapshot: Snapshot, node: NodeRecord) -> Node:
    """The node as its own map describes it."""
    name = names.fqdn(node.given_name, snapshot.settings.base_domain) or node.given_name
    return msgspec.structs.replace(
        _node(snapshot, node, name),
        hostinfo=node.hostinfo,
        cap_map=SELF_CAPABILITIES,
        expired=node.id in snapshot.expired,
        online=True,
        last_seen=None,
    )


def user_profile(snapshot: Snapshot, user_id: UserID) -> UserProfile | None:
    """What maps say of a node's owner; None for a user that is gone."""
    if user_id == TAGGED_DEVICES_ID:
        return UserProfile(
            id=user_id, login_name=TAGGED_DEVICES_NAME, display_name=TAGGED_DEVICES_DISPLAY_NAME
        )
    user = snapshot.users.get(user_id)
    if user is None:
        return None
    return UserProfile(
        id=user.id,
        login_name=user.username,
        display_name=user.display_name or user.username,
        profile_pic_url=user.profile_pic_url,
    )


def _peer_view(snapshot: Snapshot, node: NodeRecord) -> NodeView | None:
    """None when the node's name is too long: one such name would make clients drop the whole map."""
    name = names.fqdn(node.given_name, snapshot.settings.base_domain)
    if name is None:
        return None
    described = _node(snapshot, node, name)
    return NodeView(described, _served_routes(snapshot, node))


def _node(snapshot: Snapshot, node: NodeRecord, name: str) -> Node:
    is_online = node.id in snapshot.online
    net_info = node.hostinfo.net_info
    addresses = tuple(host_prefix(address) for address in node.addresses)
    return Node(
        id=node.id,
        stable_id=str(node.id),
        name=name,
        user=node.user_id if node.user_id is not None else TAGGED_DEVICES_ID,
        key=node.node_key,
        key_expiry=node.expiry,
        machine=node.machine_key,
        disco_key=node.disco_key,
        addresses=addresses,
        allowed_ips=addresses + _served_routes(snapshot, node),
        endpoints=node.endpoints,
        home_derp=net_info.preferred_derp if net_info is not None else 0,
        hostinfo=_shown_hostinfo(node.hostinfo),
        created=node.created_at,
        cap=node.capability_version,
        tags=node.tags,
        primary_routes=snapshot.primaries.of(node.id),
        last_seen=None if is_online else node.last_seen,
        online=is_online,
        machine_authorized=True,
    )


def _served_routes(snapshot: Snapshot, node: NodeRecord) -> tuple[IPNetwork, ...]:
    """Subnet routes that it was elected for, and its exit routes: those are every exit node's to offer."""
    return sorted_prefixes((*snapshot.primaries.of(node.id), *node.exit_routes))


def _shown_hostinfo(hostinfo: Hostinfo) -> Hostinfo:
    """What peers need of it. The rest is between the node and its coordinator, and changes more often."""
    return msgspec.structs.replace(
        hostinfo,
        frontend_log_id="",
        backend_log_id="",
        push_device_token="",
        routable_ips=(),
        request_tags=(),
        net_info=_shown_net_info(hostinfo.net_info),
        services_hash="",
        exit_node_id="",
    )


def _shown_net_info(net_info: NetInfo | None) -> NetInfo | None:
    """Only what decides how peers open a path to it. Its home has a place of its own; latencies only vary."""
    if net_info is None or net_info.mapping_varies_by_dest_ip is None:
        return None
    return NetInfo(mapping_varies_by_dest_ip=net_info.mapping_varies_by_dest_ip)
