"""From the stream of map responses to the network map in force.

A poll begins with everything and goes on with what changed (control protocol §8.2-8.4). `MapSession` is one
poll: it applies each response to an immutable `NetworkMap`. Absent fields mean unchanged; a non-empty `peers`
is the complete list and hides every other field about peers in the same message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from meshproto.gotime import ZERO_TIME
from meshproto.keys import NodePublic
from meshproto.messages import (
    DERPMap,
    DisplayMessage,
    DNSConfig,
    FilterRule,
    MapResponse,
    Node,
    PeerChange,
    SSHPolicy,
    UserProfile,
)

BASE_FILTER = "base"
"""The name under which the unnamed `packet_filter` is kept."""
EVERYTHING = "*"
"""The key that, with null, clears a whole named collection."""

PATCHABLE_FIELDS = frozenset(
    {
        "cap",
        "cap_map",
        "derp",
        "disco_key",
        "endpoints",
        "home_derp",
        "key",
        "key_expiry",
        "key_signature",
        "last_seen",
        "online",
    }
)
"""What a `PeerChange` can say about a node; a changed node that differs in nothing else is taken as a patch.
"""


class IncompleteMap(ValueError):
    """The first message of a poll did not say who we are; the poll is useless."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkMap:
    """Everything the coordinator has told us, at one moment. Treat its mappings as read-only."""

    self_node: Node
    peers: Mapping[int, Node] = field(default_factory=dict)
    """By node ID, in the order of the IDs."""
    user_profiles: Mapping[int, UserProfile] = field(default_factory=dict)
    derp_map: DERPMap | None = None
    dns_config: DNSConfig | None = None
    domain: str = ""
    packet_filters: Mapping[str, tuple[FilterRule, ...]] = field(default_factory=dict)
    ssh_policy: SSHPolicy | None = None
    health: tuple[str, ...] = ()
    display_messages: Mapping[str, DisplayMessage] = field(default_factory=dict)
    collect_services: bool | None = None
    control_time: datetime | None = None
    """The coordinator's clock when it last told it."""

    def peer_by_key(self, key: NodePublic) -> Node | None:
        """The peer whose WireGuard identity is `key`."""
        return next((peer for peer in self.peers.values() if peer.key == key), None)

    def to_response(self) -> MapResponse:
        """The one response that, applied first in a session, gives this map again."""
        return MapResponse(
            node=self.self_node,
            peers=tuple(self.peers.values()),
            user_profiles=tuple(self.user_profiles.values()),
            derp_map=self.derp_map,
            dns_config=self.dns_config,
            domain=self.domain,
            packet_filters=dict(self.packet_filters),
            ssh_policy=self.ssh_policy,
            health=self.health,
            display_messages=dict(self.display_messages),
            collect_services=self.collect_services,
            control_time=self.control_time,
        )


class MapSession:
    """The state of one map poll."""

    def __init__(self) -> None:
        self.network_map: NetworkMap | None = None
        """None before the first response that is more than a keep-alive."""

    def apply(self, response: MapResponse, wall: float) -> NetworkMap | None:
        """Take in one response and return the map now in force.

        `wall` is Unix time in seconds, for "seen just now". Raises IncompleteMap when the first message has
        no node; the session is unchanged then.
        """
        if response.keep_alive:
            return self._keep_alive(response)
        if self.network_map is None:
            if response.node is None:
                raise IncompleteMap("the coordinator's first map does not describe this node")
            self.network_map = NetworkMap(self_node=response.node)
        self.network_map = _apply(self.network_map, response, datetime.fromtimestamp(wall, UTC))
        return self.network_map

    def _keep_alive(self, response: MapResponse) -> NetworkMap | None:
        """Of a keep-alive only the server's clock concerns the map."""
        if self.network_map is not None and response.control_time is not None:
            self.network_map = replace(self.network_map, control_time=response.control_time)
        return self.network_map


def _apply(before: NetworkMap, response: MapResponse, now: datetime) -> NetworkMap:
    return replace(
        before,
        self_node=response.node or before.self_node,
        peers=_apply_peers(before.peers, response, now),
        user_profiles={**before.user_profiles, **{profile.id: profile for profile in response.user_profiles}},
        derp_map=_merge_derp_map(before.derp_map, response.derp_map),
        dns_config=_newer(response.dns_config, before.dns_config),
        domain=response.domain or before.domain,
        packet_filters=_apply_filters(before.packet_filters, response),
        ssh_policy=_newer(response.ssh_policy, before.ssh_policy),
        health=_newer(response.health, before.health),
        display_messages=_patch_named(before.display_messages, response.display_messages),
        collect_services=_newer(response.collect_services, before.collect_services),
        control_time=_newer(response.control_time, before.control_time),
    )


def _newer(said: Any, known: Any) -> Any:
    return known if said is None else said


def _merge_derp_map(known: DERPMap | None, said: DERPMap | None) -> DERPMap | None:
    if said is None:
        return known
    if known is not None and said.regions is None:
        return msgspec.structs.replace(said, regions=known.regions)
    return said


def _apply_filters(
    known: Mapping[str, tuple[FilterRule, ...]], response: MapResponse
) -> Mapping[str, tuple[FilterRule, ...]]:
    filters = _patch_named(known, response.packet_filters)
    if response.packet_filter is not None:
        filters = {**filters, BASE_FILTER: response.packet_filter}
    return filters


def _patch_named(known: Mapping[str, Any], said: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Named parts: null deletes one, `*` with null deletes all that were known before."""
    if said is None:
        return known
    kept = {} if EVERYTHING in said and said[EVERYTHING] is None else dict(known)
    for name, value in said.items():
        if value is None:
            kept.pop(name, None)
        else:
            kept[name] = value
    return kept


def _apply_peers(known: Mapping[int, Node], response: MapResponse, now: datetime) -> Mapping[int, Node]:
    if response.peers:
        return _sorted({peer.id: peer for peer in response.peers})
    peers = dict(known)
    for node_id in response.peers_removed:
        peers.pop(node_id, None)
    for peer in response.peers_changed:
        peers[peer.id] = _changed(peers.get(peer.id), peer)
    for node_id, seen in response.peer_seen_change.items():
        _patch(peers, node_id, last_seen=now if seen else None)
    for node_id, online in response.online_change.items():
        _patch(peers, node_id, online=online)
    for change in response.peers_changed_patch:
        _patch(peers, change.node_id, **_patch_fields(change))
    return _sorted(peers) if response.peers_changed else peers


def _sorted(peers: Mapping[int, Node]) -> Mapping[int, Node]:
    return dict(sorted(peers.items()))


def _patch(peers: dict[int, Node], node_id: int, **fields: Any) -> None:
    """Peers that we do not know are none of our business."""
    if (peer := peers.get(node_id)) is not None and fields:
        peers[node_id] = msgspec.structs.replace(peer, **fields)


def _patch_fields(change: PeerChange) -> dict[str, Any]:
    """The node fields that a patch names."""
    fields: dict[str, Any] = {
        name: value
        for name in ("cap_map", "endpoints", "key", "key_signature", "disco_key", "online", "last_seen")
        if (value := getattr(change, name)) is not None
    }
    if change.derp_region:
        fields["home_derp"] = change.derp_region
    if change.cap:
        fields["cap"] = change.cap
    if change.key_expiry is not None:
        fields["key_expiry"] = None if change.key_expiry == ZERO_TIME else change.key_expiry
    return fields


def _changed(known: Node | None, said: Node) -> Node:
    """An entry of `peers_changed`: a replacement, or a patch where only patchable fields differ.

    In a patch, absent endpoints, home DERP, capability version, online state and last-seen time leave what is
    known in force (control protocol §11.2). Unlike Go's client we take an online state that was not known
    before: there is nothing that it could overwrite.
    """
    if known is None or not _differs_only_in_patchable_fields(known, said):
        return said
    kept: dict[str, Any] = {
        name: getattr(known, name)
        for name in ("endpoints", "online", "last_seen")
        if getattr(said, name) is None
    }
    if not said.effective_home_derp:
        kept |= {"home_derp": known.home_derp, "derp": known.derp}
    if not said.cap:
        kept["cap"] = known.cap
    return msgspec.structs.replace(said, **kept)


def _differs_only_in_patchable_fields(known: Node, said: Node) -> bool:
    return all(
        getattr(known, name) == getattr(said, name)
        for name in Node.__struct_fields__
        if name not in PATCHABLE_FIELDS
    )
