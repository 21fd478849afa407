"""Maps: what a full one holds, and that deltas lead to the same map as starting anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from ipaddress import ip_network

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.changes import NOTHING, Change
from coordinator.mapper import Mapper
from coordinator.model import TAGGED_DEVICES_ID, IPNetwork, NodeRecord
from coordinator.policy import AllowAll
from coordinator.settings import NetworkSettings
from coordinator.store import (
    MarkExpired,
    PutNode,
    PutUser,
    RemoveNode,
    SetOnline,
    Snapshot,
    Update,
    apply,
)
from meshproto import codec
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic
from meshproto.messages import ALLOW_ALL, FilterRule, Hostinfo, MapResponse, NetInfo, Node
from tests.coordinator.machine import NetMap
from tests.coordinator.records import WALL, node, node_key, user

ROUTES = tuple(ip_network(text) for text in ("192.168.0.0/24", "10.0.0.0/8", "0.0.0.0/0", "::/0"))
LATER = WALL + timedelta(hours=1)


def snapshot_of(*updates: Update, base: Snapshot | None = None) -> Snapshot:
    base = base or Snapshot(settings=NetworkSettings(base_domain="mesh.test"))
    return apply(base, [PutUser(user(1)), *updates], WALL)[0]


def over_the_wire(response: MapResponse) -> MapResponse:
    return codec.decode(codec.encode(response), MapResponse)


def full(snapshot: Snapshot, viewer: int, mapper: Mapper | None = None) -> MapResponse:
    return over_the_wire((mapper or Mapper()).full(snapshot, viewer, WALL))


def test_a_full_map_holds_what_a_client_needs() -> None:
    response = full(snapshot_of(PutNode(node(2)), PutNode(node(1)), SetOnline(2, True)), 1)
    assert response.node is not None
    assert (response.node.id, response.node.name, response.node.machine_authorized) == (
        1,
        "node1.mesh.test.",
        True,
    )
    assert [peer.id for peer in response.peers] == [2]
    assert response.peers[0].online is True
    assert response.packet_filters == {"base": ALLOW_ALL}
    assert response.derp_map is not None
    assert response.control_time == WALL
    assert [profile.id for profile in response.user_profiles] == [1]
    assert response.debug is not None
    assert response.debug.disable_log_tail


def test_tagged_nodes_belong_to_a_pseudo_user() -> None:
    response = full(snapshot_of(PutNode(node(1)), PutNode(node(2, tags=("tag:x",)))), 1)
    assert response.peers[0].user == TAGGED_DEVICES_ID
    assert TAGGED_DEVICES_ID in {profile.id for profile in response.user_profiles}


def test_a_peer_whose_name_is_too_long_does_not_break_the_map_of_others() -> None:
    settings = NetworkSettings(base_domain=".".join(["d" * 60] * 4))
    base = Snapshot(settings=settings)
    snapshot = snapshot_of(PutNode(node(1, given_name="n" * 60)), PutNode(node(2, given_name="a")), base=base)
    assert [peer.id for peer in full(snapshot, 1).peers] == [2]
    assert full(snapshot, 2).peers == ()


def test_peers_are_not_shown_what_is_between_a_node_and_its_coordinator() -> None:
    private = Hostinfo(hostname="node2", backend_log_id="secret", net_info=NetInfo(preferred_derp=3))
    snapshot = snapshot_of(PutNode(node(1)), PutNode(node(2, hostinfo=private)))
    (peer,) = full(snapshot, 1).peers
    assert peer.hostinfo == Hostinfo(hostname="node2")
    assert peer.home_derp == 3


def test_viewers_who_are_told_the_same_share_one_response() -> None:
    mapper = Mapper()
    told = snapshot_of(*(PutNode(node(number)) for number in range(1, 6)))
    current, change = apply(told, [SetOnline(5, True)], WALL)
    responses = [mapper.delta(told, current, change, viewer, WALL) for viewer in range(1, 5)]
    assert len({id(response) for response in responses}) == 1
    assert mapper.delta(told, current, change, 5, WALL) is None


def test_a_flap_is_not_news() -> None:
    told = snapshot_of(PutNode(node(1)), PutNode(node(2)), SetOnline(2, True))
    between, first = apply(told, [SetOnline(2, False)], WALL)
    current, second = apply(between, [SetOnline(2, True)], WALL)
    assert Mapper().delta(told, current, first.merge(second), 1, WALL) is None


def test_merge_covers_every_field_of_a_change() -> None:
    for item in fields(Change):
        if isinstance(item.default, bool):
            one = both = Change(**{item.name: True})
            two = NOTHING
        else:
            one = Change(**{item.name: frozenset({1})})
            two = Change(**{item.name: frozenset({2})})
            both = Change(**{item.name: frozenset({1, 2})})
        assert one.merge(two) == two.merge(one) == both
        assert one.merge(NOTHING) == one
        assert one


# Deltas lead to the same map as starting anew.


class TagsSeeEachOther(AllowAll):
    """A policy with a bite: tagged and untagged nodes do not see each other."""

    is_uniform = False

    def sees(self, viewer: NodeRecord, peer: NodeRecord) -> bool:
        return viewer.is_tagged == peer.is_tagged

    def visible_routes(
        self, viewer: NodeRecord, peer: NodeRecord, routes: Sequence[IPNetwork]
    ) -> tuple[IPNetwork, ...]:
        return tuple(route for route in routes if route != ROUTES[1] or viewer.ipv4 is not None)

    def distinguishes(self, before: NodeRecord, after: NodeRecord) -> bool:
        return (before.is_tagged, before.ipv4) != (after.is_tagged, after.ipv4)

    def packet_filter(self, node: NodeRecord) -> tuple[FilterRule, ...]:
        return () if node.is_tagged else ALLOW_ALL


@dataclass
class Viewer:
    """A node that polls: the snapshot it was told about and the map it keeps."""

    told: Snapshot
    map: NetMap
    unheard: Change = NOTHING


NUMBERS = st.integers(1, 4)  # nodes 1 to 3 exist at first
CHANGES = st.one_of(
    st.fixed_dictionaries({"endpoints": st.sampled_from([(), (AddrPort("192.0.2.1", 1),)])}),
    st.fixed_dictionaries({"disco_key": st.sampled_from([None, DiscoPublic(b"d" * 32)])}),
    st.fixed_dictionaries({"expiry": st.sampled_from([None, WALL, LATER])}),
    st.fixed_dictionaries({"approved_routes": st.lists(st.sampled_from(ROUTES), unique=True).map(tuple)}),
    st.fixed_dictionaries({"node_key": st.integers(100, 10_000)}),
    st.sampled_from([{"tags": ("tag:x",), "user_id": None}, {"tags": (), "user_id": 1}, {"user_id": 2}]),
    st.fixed_dictionaries({"given_name": st.just("renamed")}),
    st.fixed_dictionaries({"capability_version": st.sampled_from([0, 113, 130])}),
    st.fixed_dictionaries({"routes": st.lists(st.sampled_from(ROUTES), unique=True).map(tuple)}),
    st.fixed_dictionaries({"derp": st.integers(0, 1)}),
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), NUMBERS, CHANGES),
        st.tuples(st.just("remove"), NUMBERS),
        st.tuples(st.just("online"), NUMBERS, st.booleans()),
        st.tuples(st.just("expired"), NUMBERS),
        st.tuples(st.just("user"), st.sampled_from(["ana", "ben"])),
        st.tuples(st.just("tell"), NUMBERS),
    ),
    min_size=8,
    max_size=40,
)


def update_for(operation: tuple[object, ...], snapshot: Snapshot) -> Update | None:
    """The update that an operation means now, or None when it makes no sense."""
    match operation:
        case ("put", int(number), dict(changes)):
            known = snapshot.nodes.get(number) or node(number, routes=ROUTES, approved_routes=ROUTES[:1])
            changes = dict(changes)
            if "routes" in changes:
                changes["hostinfo"] = msgspec.structs.replace(
                    known.hostinfo, routable_ips=changes.pop("routes")
                )
            if "derp" in changes:
                net_info = NetInfo(preferred_derp=changes.pop("derp"))
                changes["hostinfo"] = msgspec.structs.replace(known.hostinfo, net_info=net_info)
            if "node_key" in changes:
                changes["node_key"] = node_key(changes["node_key"] * 10 + number)
            if "given_name" in changes:
                changes["given_name"] += str(number)
            return PutNode(replace(known, **changes))
        case ("remove", int(number)) if number in snapshot.nodes:
            return RemoveNode(number)
        case ("online", int(number), bool(online)) if number in snapshot.nodes:
            return SetOnline(number, online)
        case ("expired", int(number)) if number in snapshot.nodes:
            return MarkExpired(number) if snapshot.nodes[number].expiry is not None else None
        case ("user", str(name)):
            return PutUser(replace(snapshot.users[1], display_name=name))
    return None


def tell(mapper: Mapper, viewers: dict[int, Viewer], number: int, current: Snapshot) -> None:
    """Bring the viewer up to date, as its map session would."""
    if number not in current.nodes:
        viewers.pop(number, None)
    elif number not in viewers:
        viewers[number] = Viewer(current, NetMap())
        viewers[number].map.apply(full(current, number, mapper))
    else:
        viewer = viewers[number]
        response = mapper.delta(viewer.told, current, viewer.unheard, number, WALL)
        if response is not None:
            viewer.map.apply(over_the_wire(response))
        viewer.told, viewer.unheard = current, NOTHING


def decided(own: Node | None) -> Node:
    """What a node has not said of itself."""
    assert own is not None
    return msgspec.structs.replace(own, endpoints=None, disco_key=None, home_derp=0, hostinfo=None, cap=0)


@settings(max_examples=200, deadline=None)
@given(operations=OPERATIONS, with_policy=st.booleans())
def test_deltas_lead_to_the_full_map(operations: list[tuple[object, ...]], with_policy: bool) -> None:
    mapper = Mapper()
    policy = TagsSeeEachOther() if with_policy else AllowAll()
    nodes = [node(number, routes=ROUTES, approved_routes=ROUTES) for number in range(1, 4)]
    current = snapshot_of(
        PutUser(user(2)),
        *(PutNode(one) for one in nodes),
        SetOnline(1, True),
        SetOnline(2, True),
        base=Snapshot(settings=NetworkSettings(base_domain="m"), policy=policy),
    )
    viewers: dict[int, Viewer] = {}
    for number in range(1, 4):
        tell(mapper, viewers, number, current)
    for operation in [*operations, *(("tell", number) for number in range(1, 5))]:
        if operation[0] == "tell":
            assert isinstance(operation[1], int)
            tell(mapper, viewers, operation[1], current)
            continue
        update = update_for(operation, current)
        if update is None:
            continue
        current, change = apply(current, [update], WALL)
        for viewer in viewers.values():
            viewer.unheard = viewer.unheard.merge(change)
        if isinstance(update, RemoveNode):
            viewers.pop(update.node_id, None)
    for number, viewer in viewers.items():
        expected = NetMap()
        expected.apply(full(current, number))
        assert viewer.map.peers == expected.peers
        assert decided(viewer.map.own) == decided(expected.own)
        assert viewer.map.filters == expected.filters
        assert viewer.map.owners.items() >= expected.owners.items()
