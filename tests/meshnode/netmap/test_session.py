"""The map session: what each field of a response does, and that deltas lead where a full map leads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.netmap.session import PATCHABLE_FIELDS, IncompleteMap, MapSession, NetworkMap
from meshproto.addresses import AddrPort
from meshproto.codec import decode, encode
from meshproto.gotime import ZERO_TIME
from meshproto.messages import (
    ALLOW_ALL,
    DERPMap,
    DERPRegion,
    DisplayMessage,
    DNSConfig,
    MapResponse,
    Node,
    PeerChange,
    SSHPolicy,
    UserProfile,
)
from tests.meshnode.netmap.nodes import key, node, with_routes

WALL = 1_800_000_000.0
NOW = datetime.fromtimestamp(WALL, UTC)
EARLIER = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
ONE, OTHER = AddrPort("192.0.2.1", 41641), AddrPort("2001:db8::1", 41641)


def session_with(*peers: Node) -> MapSession:
    session = MapSession()
    session.apply(MapResponse(node=node(1), peers=peers), WALL)
    return session


def apply(session: MapSession, **fields: Any) -> NetworkMap:
    network_map = session.apply(MapResponse(**fields), WALL)
    assert network_map is not None
    return network_map


def test_the_first_message_must_say_who_we_are() -> None:
    session = MapSession()
    with pytest.raises(IncompleteMap):
        session.apply(MapResponse(peers=(node(2),)), WALL)
    assert session.network_map is None


def test_keep_alives_change_nothing_even_before_the_first_map() -> None:
    session = MapSession()
    assert session.apply(MapResponse(keep_alive=True), WALL) is None
    before = apply(session, node=node(1), peers=(node(2),))
    assert session.apply(MapResponse(keep_alive=True, peers_removed=(2,)), WALL) is before


def test_a_keep_alive_may_tell_the_time() -> None:
    session = session_with()
    assert apply(session, keep_alive=True, control_time=EARLIER).control_time == EARLIER


def test_an_empty_message_changes_nothing() -> None:
    session = session_with(node(2))
    before = session.network_map
    assert apply(session) == before


def test_a_non_empty_list_of_peers_is_complete_and_hides_other_fields() -> None:
    session = session_with(node(2), node(3))
    after = apply(session, peers=(node(5), node(4)), peers_removed=(4,), peers_changed=(node(6),))
    assert list(after.peers) == [4, 5]


def test_an_empty_list_of_peers_is_no_list() -> None:
    session = session_with(node(2))
    assert set(apply(session, peers=()).peers) == {2}


def test_removal_by_id_can_remove_the_last_peer() -> None:
    session = session_with(node(2))
    assert apply(session, peers_removed=(2, 99)).peers == {}


def test_a_changed_peer_is_added_in_the_order_of_ids() -> None:
    session = session_with(node(2), node(9))
    assert list(apply(session, peers_changed=(node(5),)).peers) == [2, 5, 9]


def test_self_is_replaced_whole() -> None:
    session = session_with()
    assert apply(session, node=node(1, expired=True, endpoints=None)).self_node.endpoints is None


def test_unknown_ids_in_patches_are_ignored() -> None:
    session = session_with(node(2))
    before = session.network_map
    changes = (PeerChange(node_id=7, online=False),)
    assert (
        apply(session, peers_changed_patch=changes, online_change={8: True}, peer_seen_change={9: True})
        == before
    )


def test_seen_and_online_changes() -> None:
    session = session_with(node(2, last_seen=EARLIER), node(3))
    after = apply(session, peer_seen_change={2: False, 3: True}, online_change={2: False})
    assert (after.peers[2].last_seen, after.peers[2].online) == (None, False)
    assert (after.peers[3].last_seen, after.peers[3].online) == (NOW, True)


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ({"derp_region": 9}, "home_derp", 9),
        ({"cap": 131}, "cap", 131),
        ({"cap_map": {"x": None}}, "cap_map", {"x": None}),
        ({"endpoints": (ONE,)}, "endpoints", (ONE,)),
        ({"endpoints": ()}, "endpoints", ()),
        ({"key": key(77)}, "key", key(77)),
        ({"online": False}, "online", False),
        ({"last_seen": EARLIER}, "last_seen", EARLIER),
        ({"key_expiry": EARLIER}, "key_expiry", EARLIER),
        ({"key_expiry": ZERO_TIME}, "key_expiry", None),
    ],
)
def test_each_field_of_a_patch(change: dict[str, Any], field: str, value: object) -> None:
    before = node(2, endpoints=(OTHER,), key_expiry=NOW)
    session = session_with(before)
    after = apply(session, peers_changed_patch=(PeerChange(node_id=2, **change),)).peers[2]
    assert getattr(after, field) == value
    assert after == msgspec.structs.replace(before, **{field: getattr(after, field)})


def test_a_changed_peer_that_differs_in_patchable_fields_only_keeps_what_it_does_not_say() -> None:
    known = node(2, endpoints=(ONE,), home_derp=9, online=True, last_seen=EARLIER)
    session = session_with(known)
    said = node(2, endpoints=None, home_derp=0, cap=0, online=None, last_seen=None, key=key(77))
    after = apply(session, peers_changed=(said,)).peers[2]
    assert after == msgspec.structs.replace(known, key=key(77))


def test_an_explicitly_empty_list_of_endpoints_clears_them() -> None:
    session = session_with(node(2, endpoints=(ONE,)))
    assert apply(session, peers_changed=(node(2, endpoints=()),)).peers[2].endpoints == ()


def test_a_peer_that_changed_otherwise_is_replaced_whole() -> None:
    session = session_with(node(2, endpoints=(ONE,), online=True))
    said = with_routes(2, "10.0.0.0/8", endpoints=None, online=None)
    assert apply(session, peers_changed=(said,)).peers[2] == said


def test_an_online_state_that_was_not_known_is_taken() -> None:
    session = session_with(node(2, online=None))
    assert apply(session, peers_changed=(node(2, online=True),)).peers[2].online is True


def test_profiles_add_up() -> None:
    session = session_with()
    apply(session, user_profiles=(UserProfile(id=1, login_name="ana"),))
    after = apply(
        session, user_profiles=(UserProfile(id=2, login_name="bob"), UserProfile(id=1, login_name="eve"))
    )
    assert {number: profile.login_name for number, profile in after.user_profiles.items()} == {
        1: "eve",
        2: "bob",
    }


def test_sticky_fields_stay_until_they_are_said_again() -> None:
    session = session_with()
    said = {
        "domain": "mesh.example",
        "dns_config": DNSConfig(proxied=True),
        "ssh_policy": SSHPolicy(),
        "health": ("slow",),
        "collect_services": False,
    }
    apply(session, **said)
    after = apply(session, online_change={1: True})
    assert {name: getattr(after, name) for name in said} == said
    assert apply(session, health=()).health == ()


def test_relay_regions_stay_when_only_the_rest_is_said() -> None:
    session = session_with()
    apply(session, derp_map=DERPMap(regions={900: DERPRegion(region_id=900)}))
    after = apply(session, derp_map=DERPMap(omit_default_regions=True))
    assert after.derp_map is not None
    assert after.derp_map.regions == {900: DERPRegion(region_id=900)}
    assert after.derp_map.omit_default_regions


def test_packet_filters_are_named_parts() -> None:
    session = session_with()
    rules = ALLOW_ALL
    assert apply(session, packet_filter=rules).packet_filters == {"base": rules}
    assert apply(session, packet_filters={"more": rules}).packet_filters == {"base": rules, "more": rules}
    assert apply(session, packet_filters={"base": None}).packet_filters == {"more": rules}
    assert apply(session, packet_filters={"*": None, "last": ()}).packet_filters == {"last": ()}


def test_display_messages_are_patched_by_id() -> None:
    session = session_with()
    message = DisplayMessage(title="t")
    assert apply(session, display_messages={"a": message, "b": message}).display_messages.keys() == {"a", "b"}
    assert apply(session, display_messages={"a": None}).display_messages.keys() == {"b"}
    assert apply(session, display_messages={"*": None}).display_messages == {}


# What a coordinator may know of a node, and how it may tell.

times = st.none() | st.sampled_from([EARLIER, NOW])
peers = st.builds(
    node,
    st.just(0),
    endpoints=st.lists(st.sampled_from([ONE, OTHER]), max_size=2, unique=True).map(tuple),
    online=st.booleans(),
    key=st.integers(10, 13).map(key),
    key_expiry=times,
    cap=st.sampled_from([113, 130]),
    name=st.sampled_from(["a.mesh.example.", "b.mesh.example."]),
    expired=st.booleans(),
)
worlds = st.dictionaries(st.integers(2, 6), peers, max_size=4).map(
    lambda world: {number: msgspec.structs.replace(peer, id=number) for number, peer in world.items()}
)


def delta(before: dict[int, Node], after: dict[int, Node], patches: bool) -> MapResponse:
    """What a coordinator sends to a node that knows `before`; with `patches`, as little as it can."""
    changed, changes = [], []
    for number, peer in after.items():
        known = before.get(number)
        if known == peer:
            continue
        differing = {
            name for name in Node.__struct_fields__ if getattr(known, name, None) != getattr(peer, name)
        }
        if known is None or not patches or not differing <= PATCHABLE_FIELDS:
            changed.append(peer)
        else:
            changes.append(patch(peer, differing))
    removed = tuple(number for number in before if number not in after)
    return MapResponse(
        peers_changed=tuple(changed), peers_removed=removed, peers_changed_patch=tuple(changes)
    )


def patch(peer: Node, differing: set[str]) -> PeerChange:
    fields = {name: getattr(peer, name) for name in differing}
    if "key_expiry" in fields:
        fields["key_expiry"] = fields["key_expiry"] or ZERO_TIME
    return PeerChange(node_id=peer.id, **fields)


@given(st.lists(worlds, min_size=1, max_size=6), st.booleans())
def test_deltas_lead_where_full_maps_lead(history: list[dict[int, Node]], patches: bool) -> None:
    first, *later = history
    session = session_with(*first.values())
    known = first
    for world in later:
        message = decode(encode(delta(known, world, patches)), MapResponse)
        network_map = session.apply(message, WALL)
        known = world
        assert network_map is not None
        assert dict(network_map.peers) == world
        assert list(network_map.peers) == sorted(world)


@given(worlds)
def test_a_map_survives_the_cache(world: dict[int, Node]) -> None:
    session = session_with(*world.values())
    before = apply(
        session,
        user_profiles=(UserProfile(id=1, login_name="ana"),),
        packet_filters={"base": ALLOW_ALL},
        dns_config=DNSConfig(proxied=True),
        health=("h",),
        control_time=EARLIER,
        derp_map=DERPMap(regions={}),
    )
    stored = encode(before.to_response())
    assert MapSession().apply(decode(stored, MapResponse), WALL) == before
