"""Nodes as maps describe them: to themselves and to a peer (control-protocol §8.3)."""

from __future__ import annotations

from typing import Final

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
from meshproto.messages import CapMap, Hostinfo, Node, UserProfile
from meshproto.routes import host_prefix, sorted_prefixes

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


class NodeViews:
    """Makes views and keeps the last two of each node: what viewers were told about it, and what is new."""

    def __init__(self) -> None:
        self._kept: dict[NodeID, list[tuple[_Ingredients, NodeView]]] = {}

    def seen(self, snapshot: Snapshot, viewer: NodeRecord, peer: NodeRecord) -> NodeView | None:
        """`peer` as `viewer` sees it; None when it is not in the viewer's map."""
        if peer.id == viewer.id or not snapshot.policy.sees(viewer, peer):
            return None
        view = self._view(snapshot, peer)
        if view is None or not view.routes:
            return view
        return view.limited_to(snapshot.policy.visible_routes(viewer, peer, view.routes))

    def forget_missing(self, snapshot: Snapshot) -> None:
        """Drop the views of nodes that no longer exist."""
        for node_id in [node_id for node_id in self._kept if node_id not in snapshot.nodes]:
            del self._kept[node_id]

    def _view(self, snapshot: Snapshot, peer: NodeRecord) -> NodeView | None:
        ingredients = _Ingredients(snapshot, peer)
        kept = self._kept.setdefault(peer.id, [])
        for known, view in kept:
            if known.same(ingredients):
                return view
        view_or_none = _peer_view(snapshot, peer)
        if view_or_none is not None:
            self._kept[peer.id] = [(ingredients, view_or_none), *kept[:1]]
        return view_or_none


class _Ingredients:
    """All that a view is made from, to tell whether a kept one still holds."""

    __slots__ = ("base_domain", "is_online", "primary", "record")

    def __init__(self, snapshot: Snapshot, node: NodeRecord) -> None:
        self.record = node
        self.is_online = node.id in snapshot.online
        self.primary = snapshot.primaries.of(node.id)
        self.base_domain = snapshot.settings.base_domain

    def same(self, other: _Ingredients) -> bool:
        return (
            self.record is other.record
            and self.is_online == other.is_online
            and self.primary == other.primary
            and self.base_domain == other.base_domain
        )


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
        net_info=None,
        services_hash="",
        exit_node_id="",
    )
