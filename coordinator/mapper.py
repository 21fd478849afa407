"""Makes map responses out of snapshots (control-protocol §8).

A new poll gets the full map. From then on a node is told what differs between the snapshot it was last told
about and the current one, looked for only where a `Change` says that something happened. So flaps in between
vanish, and a response never depends on the order in which changes arrived.

What does not depend on the viewer is made once: a peer's description and its JSON for as long as nothing
about the peer changes, and a delta for all viewers who are told the same. Those get the very same object, so
that whoever sends it can encode it once.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from urllib.parse import urlsplit

import msgspec

from coordinator.changes import Change
from coordinator.model import NodeID, NodeRecord, UserID
from coordinator.nodeviews import NodeView, NodeViews, SnapshotViews, self_node, user_profile
from coordinator.peerdiff import PeerDiff, diff_peer
from coordinator.store import Snapshot
from meshproto.messages import Debug, DERPMap, DNSConfig, FilterRule, MapResponse, Node, UserProfile

# Viewers who are told at the same time come from the same snapshot; a few lag behind.
KEPT_STEPS = 4


class Mapper:
    """Full maps and deltas.

    It keeps caches, so one instance serves all viewers; answers do not depend on them.
    """

    def __init__(self) -> None:
        self._views = NodeViews()
        self._steps: list[_Step] = []

    def full(
        self, snapshot: Snapshot, viewer_id: NodeID, wall: datetime, reached_at: str = ""
    ) -> MapResponse:
        """The first message of a poll: all that the viewer may know. Raises KeyError when it is gone.

        `reached_at` is the URL at which it reached us.
        """
        viewer = snapshot.nodes[viewer_id]
        peers = self._views.of(snapshot).all_seen(viewer)
        own = self_node(snapshot, viewer)
        return MapResponse(
            node=own,
            derp_map=snapshot.settings.relays.map_for(reached_at),
            dns_config=snapshot.settings.dns.config_for(viewer, own.cap_map or ()),
            peers=tuple(view.encoded for view in peers),
            user_profiles=_profiles(snapshot, {own.user, *(view.node.user for view in peers)}),
            packet_filters={"base": snapshot.policy.packet_filter(viewer)},
            domain=urlsplit(snapshot.settings.server_url).hostname or snapshot.settings.base_domain,
            collect_services=False,
            # Without this, Tailscale's clients upload their logs to Tailscale Inc.
            debug=Debug(disable_log_tail=True),
            control_time=wall,
        )

    def delta(
        self,
        told: Snapshot,
        current: Snapshot,
        change: Change,
        viewer_id: NodeID,
        wall: datetime,
        reached_at: str = "",
    ) -> MapResponse | None:
        """What the viewer, told about `told` before, has to hear about `current`; None for nothing.

        `change` covers everything that happened between the two. Both snapshots hold the viewer.
        """
        step = self._step(told, current, change)
        viewer = _Viewer(told.nodes[viewer_id], current.nodes[viewer_id])
        diffs = step.diffs(viewer)
        owners = step.owners_changed(viewer) if change.users else frozenset()
        own = _changed_self(told, current, viewer) if viewer_id in change.nodes else None
        network = _changed_network(told, current, viewer, reached_at)
        if own is None and network is None:
            return step.shared_response(diffs, owners, wall)
        response = step.response(diffs, owners | ({own.user} if own is not None else set()), wall)
        if network is not None:
            response = msgspec.structs.replace(
                response,
                derp_map=network.derp_map,
                packet_filters=network.packet_filters,
                dns_config=network.dns_config,
            )
        return msgspec.structs.replace(response, node=own)

    def farewell(self, told: Snapshot, viewer_id: NodeID, wall: datetime) -> MapResponse:
        """The last message to a node that was removed: an expired key makes its client ask for a login."""
        own = self_node(told, told.nodes[viewer_id])
        return MapResponse(
            node=msgspec.structs.replace(own, key_expiry=wall, expired=True), control_time=wall
        )

    def _step(self, told: Snapshot, current: Snapshot, change: Change) -> _Step:
        for step in self._steps:
            if step.is_between(told, current, change):
                return step
        step = _Step(self._views.of(told), self._views.of(current), change)
        self._steps = [step, *self._steps[: KEPT_STEPS - 1]]
        return step


@dataclass(frozen=True, slots=True)
class _Viewer:
    """The viewer's record in the snapshot that it was told about and in the current one."""

    before: NodeRecord
    after: NodeRecord


@dataclass(frozen=True, slots=True)
class _Network:
    """What a map holds besides nodes, where it changed."""

    derp_map: DERPMap | None
    packet_filters: dict[str, tuple[FilterRule, ...] | None] | None
    dns_config: DNSConfig | None


class _Step:
    """From one snapshot to another, with what is shared by all viewers who make this step."""

    def __init__(self, told: SnapshotViews, current: SnapshotViews, change: Change) -> None:
        self.told = told.snapshot
        self.current = current.snapshot
        self.change = change
        self._told_views = told
        self._current_views = current
        self._touched = sorted(change.nodes)
        self._diffs: dict[tuple[NodeID, NodeView | None, NodeView | None], PeerDiff | None] = {}
        self._responses: dict[tuple[tuple[PeerDiff, ...], frozenset[UserID]], MapResponse] = {}

    def is_between(self, told: Snapshot, current: Snapshot, change: Change) -> bool:
        return self.told is told and self.current is current and self.change == change

    def diffs(self, viewer: _Viewer) -> tuple[PeerDiff, ...]:
        """What became of the viewer's peers, by id."""
        if viewer.after.id not in self.change.nodes and self._is_uniform:
            return self._outsiders_diffs
        found = (self._diff(viewer, peer_id) for peer_id in self._peers_to_check(viewer))
        return tuple(diff for diff in found if diff is not None)

    @cached_property
    def _is_uniform(self) -> bool:
        return self.told.policy is self.current.policy and self.current.policy.is_uniform

    @cached_property
    def _outsiders_diffs(self) -> tuple[PeerDiff, ...]:
        """What everybody is told whose own node was not touched, when all see the same."""
        before, after = self._told_views.by_id, self._current_views.by_id
        found = (
            self._diff_between(node_id, before.get(node_id), after.get(node_id)) for node_id in self._touched
        )
        return tuple(diff for diff in found if diff is not None)

    def owners_changed(self, viewer: _Viewer) -> frozenset[UserID]:
        """The changed users whose profile the viewer needs: its own owner, and those of its peers."""
        owners = (
            peer.user_id
            for peer in self.current.nodes.values()
            if peer.user_id in self.change.users
            and (peer.id == viewer.after.id or self.current.policy.sees(viewer.after, peer))
        )
        return frozenset(owner for owner in owners if owner is not None)

    def shared_response(
        self, diffs: tuple[PeerDiff, ...], owners: frozenset[UserID], wall: datetime
    ) -> MapResponse | None:
        """The response to those whose own node is not concerned: the same object for the same news."""
        if not diffs and not owners:
            return None
        key = (diffs, owners)
        if key not in self._responses:
            self._responses[key] = self.response(diffs, owners, wall)
        return self._responses[key]

    def response(self, diffs: tuple[PeerDiff, ...], owners: Iterable[UserID], wall: datetime) -> MapResponse:
        """The message that tells `diffs` and the profiles of `owners` and of the owners of new peers."""
        changed = [diff.node for diff in diffs if diff.node is not None]
        return MapResponse(
            peers_changed=tuple(view.encoded for view in changed),
            peers_changed_patch=tuple(diff.patch for diff in diffs if diff.patch is not None),
            peers_removed=tuple(diff.peer_id for diff in diffs if diff.node is None and diff.patch is None),
            user_profiles=_profiles(self.current, {*owners, *(view.node.user for view in changed)}),
            control_time=wall,
        )

    def _peers_to_check(self, viewer: _Viewer) -> Iterable[NodeID]:
        """Where the viewer's map may differ: what was touched, or everything once other rules apply to it."""
        policy = self.current.policy
        if self.told.policy is policy and not policy.distinguishes(viewer.before, viewer.after):
            return self._touched
        return sorted(self.told.nodes.keys() | self.current.nodes.keys())

    def _diff(self, viewer: _Viewer, peer_id: NodeID) -> PeerDiff | None:
        old = self._told_views.seen(viewer.before, peer_id)
        return self._diff_between(peer_id, old, self._current_views.seen(viewer.after, peer_id))

    def _diff_between(self, peer_id: NodeID, old: NodeView | None, new: NodeView | None) -> PeerDiff | None:
        key = (peer_id, old, new)
        if key not in self._diffs:
            expired = peer_id in self.current.expired and peer_id not in self.told.expired
            self._diffs[key] = diff_peer(peer_id, old, new, expired)
        return self._diffs[key]


def _changed_self(told: Snapshot, current: Snapshot, viewer: _Viewer) -> Node | None:
    """The viewer's own node, when something differs that it has not reported itself."""
    new = self_node(current, viewer.after)
    return None if _decided(self_node(told, viewer.before)) == _decided(new) else new


def _decided(own: Node) -> Node:
    """What the coordinator decides about a node, without what the node reports."""
    return msgspec.structs.replace(own, endpoints=None, disco_key=None, home_derp=0, hostinfo=None, cap=0)


def _changed_network(told: Snapshot, current: Snapshot, viewer: _Viewer, reached_at: str) -> _Network | None:
    relays = current.settings.relays
    old_rules = told.policy.packet_filter(viewer.before)
    rules = current.policy.packet_filter(viewer.after)
    new_map = None if relays == told.settings.relays else relays.map_for(reached_at)
    dns = _changed_dns(told, current, viewer)
    if new_map is None and rules == old_rules and dns is None:
        return None
    return _Network(new_map, None if rules == old_rules else {"base": rules}, dns)


def _changed_dns(told: Snapshot, current: Snapshot, viewer: _Viewer) -> DNSConfig | None:
    old, new = told.settings.dns, current.settings.dns
    if not (old.is_personal or new.is_personal):
        return None if old is new or old.shared == new.shared else new.shared
    before = old.config_for(viewer.before, self_node(told, viewer.before).cap_map or ())
    after = new.config_for(viewer.after, self_node(current, viewer.after).cap_map or ())
    return None if before == after else after


def _profiles(snapshot: Snapshot, owners: Iterable[UserID]) -> tuple[UserProfile, ...]:
    profiles = (user_profile(snapshot, owner) for owner in sorted(set(owners)))
    return tuple(profile for profile in profiles if profile is not None)
