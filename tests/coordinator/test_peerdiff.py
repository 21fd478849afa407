"""The smallest way to tell what became of a peer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest

from coordinator.nodeviews import NodeView
from coordinator.peerdiff import diff_peer
from meshproto.addresses import AddrPort
from meshproto.gotime import ZERO_TIME
from meshproto.keys import DiscoPublic
from meshproto.messages import Hostinfo, Node, PeerChange
from tests.coordinator.records import WALL, node_key

PEER = Node(
    id=7,
    name="peer.mesh.test.",
    key=node_key(7),
    key_expiry=WALL,
    disco_key=DiscoPublic(b"d" * 32),
    endpoints=(AddrPort("192.0.2.1", 1),),
    home_derp=3,
    cap=130,
    online=False,
    last_seen=WALL,
    hostinfo=Hostinfo(hostname="peer"),
)
LATER = WALL + timedelta(hours=1)


def view(**changes: Any) -> NodeView:
    return NodeView(msgspec.structs.replace(PEER, **changes), ())


def patch(**fields: Any) -> PeerChange:
    return PeerChange(node_id=7, **fields)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"endpoints": ()}, patch(endpoints=())),
        ({"home_derp": 4}, patch(derp_region=4)),
        ({"disco_key": DiscoPublic(b"e" * 32)}, patch(disco_key=DiscoPublic(b"e" * 32))),
        ({"key": node_key(8)}, patch(key=node_key(8))),
        ({"key_expiry": LATER}, patch(key_expiry=LATER)),
        ({"key_expiry": None}, patch(key_expiry=ZERO_TIME)),
        ({"last_seen": LATER}, patch(last_seen=LATER)),
        ({"online": True, "last_seen": None}, patch(online=True)),
        ({"cap": 131}, patch(cap=131)),
    ],
)
def test_details_are_patched(change: dict[str, Any], expected: PeerChange) -> None:
    diff = diff_peer(7, view(), view(**change), False)
    assert diff is not None
    assert (diff.patch, diff.node) == (expected, None)


def test_going_offline_is_patched_with_the_time() -> None:
    diff = diff_peer(7, view(online=True, last_seen=None), view(online=False, last_seen=LATER), False)
    assert diff is not None
    assert diff.patch == patch(online=False, last_seen=LATER)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other.mesh.test."},
        {"tags": ("tag:x",)},
        {"hostinfo": Hostinfo(hostname="other")},
        {"home_derp": 0},
        {"disco_key": None},
        {"cap": 0},
        {"name": "other.mesh.test.", "home_derp": 4},
    ],
    ids=str,
)
def test_the_rest_needs_the_whole_node(change: dict[str, Any]) -> None:
    new = view(**change)
    diff = diff_peer(7, view(), new, False)
    assert diff is not None
    assert (diff.node, diff.patch) == (new, None)


def test_coming_going_and_staying() -> None:
    new = view()
    added, removed = diff_peer(7, None, new, False), diff_peer(7, new, None, False)
    assert added is not None
    assert removed is not None
    assert (added.node, added.patch) == (new, None)
    assert (removed.node, removed.patch) == (None, None)
    assert diff_peer(7, None, None, False) is None
    assert diff_peer(7, new, view(), False) is None


def test_a_key_that_ran_out_is_told_although_its_expiry_was_known() -> None:
    diff = diff_peer(7, view(), view(), True)
    assert diff is not None
    assert diff.patch == patch(key_expiry=WALL)
