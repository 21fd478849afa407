"""What an administrator may do, and what is refused with which line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from coordinator import administration as admin
from coordinator.authkeys import Secret, parse
from coordinator.errors import Conflict, CoordinatorError, Invalid, NotFound
from coordinator.model import PreAuthKey
from coordinator.settings import NetworkSettings
from coordinator.store import PutNode, PutPreAuthKey, PutUser, Snapshot, apply
from tests.coordinator.records import WALL, machine_key, node, user

SUBNET, OTHER = ip_network("192.168.0.0/24"), ip_network("10.0.0.0/8")
EXIT = (ip_network("0.0.0.0/0"), ip_network("::/0"))
SECRET = Secret("0" * 12, "1" * 64)
KEY = PreAuthKey(1, SECRET.prefix, SECRET.hash, 1, WALL)
ROUTER = node(1, routes=(SUBNET, *EXIT))

STATE = apply(
    Snapshot(settings=NetworkSettings(base_domain="mesh.test")),
    [
        PutUser(user(1, "ana")),
        PutUser(user(2, "ben")),
        PutUser(replace(user(3, "carl"), provider="oidc")),
        PutPreAuthKey(KEY),
        PutNode(ROUTER),
        PutNode(node(2, tags=("tag:x",), auth_key_id=1)),
        PutNode(node(3, machine_key=machine_key(1), user_id=2)),
    ],
    WALL,
)[0]


def after(decision: admin.Decision[Any]) -> Snapshot:
    return apply(STATE, decision[0], WALL)[0]


@pytest.mark.parametrize(
    ("decide", "kind", "text"),
    [
        (lambda: admin.create_user(STATE, "ana", "", "", "", WALL), Conflict, "user 'ana' already exists"),
        (lambda: admin.create_user(STATE, "x", "", "", "", WALL), Invalid, "at least 2"),
        (lambda: admin.rename_user(STATE, 9, "new"), NotFound, "user not found: 9"),
        (lambda: admin.rename_user(STATE, 1, "ben"), Conflict, "already exists"),
        (lambda: admin.rename_user(STATE, 3, "new"), Invalid, "comes from oidc"),
        (lambda: admin.delete_user(STATE, 1), Conflict, r"still has nodes \(1\)"),
        (lambda: admin.delete_user(STATE, 9), NotFound, "user not found"),
        (lambda: admin.expire_pre_auth_key(STATE, 9, WALL), NotFound, "pre-auth key not found: 9"),
        (lambda: admin.delete_pre_auth_key(STATE, 9), NotFound, "pre-auth key not found: 9"),
        (lambda: admin.expire_node(STATE, 9, None), NotFound, "node not found: 9"),
        (lambda: admin.rename_node(STATE, 1, "node2"), Conflict, "not unique"),
        (lambda: admin.rename_node(STATE, 1, "Bad Name"), Invalid, "invalid name 'Bad Name'"),
        (lambda: admin.move_node(STATE, 1, 9), NotFound, "user not found"),
        (lambda: admin.move_node(STATE, 1, 2), Conflict, "already has a node on the same machine"),
        (lambda: admin.move_node(STATE, 2, 1), Invalid, "tagged"),
        (lambda: admin.set_tags(STATE, 1, []), Invalid, "cannot remove all tags"),
        (lambda: admin.set_tags(STATE, 1, ["x"]), Invalid, "invalid tag 'x'"),
        (
            lambda: admin.set_approved_routes(STATE, 1, [OTHER]),
            Invalid,
            "does not advertise 10.0.0.0/8; it advertises",
        ),
        (lambda: admin.set_approved_routes(STATE, 2, EXIT), Invalid, "it advertises nothing"),
    ],
)
def test_refusals(decide: Callable[[], object], kind: type[CoordinatorError], text: str) -> None:
    with pytest.raises(kind, match=text) as refused:
        decide()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("user_id", "tags", "kind"), [(None, (), Invalid), (9, (), NotFound), (1, ("x",), Invalid)]
)
def test_keys_that_nobody_may_have(
    user_id: int | None, tags: tuple[str, ...], kind: type[CoordinatorError]
) -> None:
    with pytest.raises(kind):
        admin.create_pre_auth_key(STATE, user_id, False, False, None, tags, Secret("f" * 12, "1" * 64), WALL)


def test_a_key_keeps_only_the_hash_of_its_secret() -> None:
    secret = Secret("f" * 12, "1" * 64)
    _, key = admin.create_pre_auth_key(
        STATE, None, True, True, WALL, ("tag:b", "tag:a", "tag:b"), secret, WALL
    )
    assert key.tags == ("tag:a", "tag:b")
    assert secret.secret not in repr(key)
    assert "1" not in repr(secret)
    parsed = parse(str(secret))
    assert parsed is not None
    assert parsed.opens(key)
    assert not Secret(secret.prefix, "2" * 64).opens(key)


def test_deleting_a_key_leaves_its_nodes() -> None:
    snapshot = after(admin.delete_pre_auth_key(STATE, 1))
    assert not snapshot.pre_auth_keys
    assert snapshot.nodes[2].auth_key_id is None


def test_expiring_a_key_again_keeps_the_first_time() -> None:
    expired = after(admin.expire_pre_auth_key(STATE, 1, WALL))
    _, again = admin.expire_pre_auth_key(expired, 1, WALL + timedelta(hours=1))
    assert again.expiration == WALL


def test_tags_end_ownership_and_expiry() -> None:
    expiring = after(admin.expire_node(STATE, 1, WALL + timedelta(hours=1)))
    _, tagged = admin.set_tags(expiring, 1, ["tag:b", "tag:a"])
    assert (tagged.tags, tagged.user_id, tagged.expiry) == (("tag:a", "tag:b"), None, None)


def test_one_exit_route_means_both_and_approvals_may_outlive_the_offer() -> None:
    approved = after(admin.set_approved_routes(STATE, 1, [EXIT[0], SUBNET]))
    assert approved.nodes[1].approved_routes == (EXIT[0], SUBNET, EXIT[1])
    withdrawn = apply(approved, [PutNode(replace(approved.nodes[1], hostinfo=node(1).hostinfo))], WALL)[0]
    _, kept = admin.set_approved_routes(withdrawn, 1, [SUBNET])
    assert kept.approved_routes == (SUBNET,)


def test_expiry_in_the_past_is_expiry_now() -> None:
    assert 1 in after(admin.expire_node(STATE, 1, WALL - timedelta(days=1))).expired
    assert 1 not in after(admin.expire_node(STATE, 1, None)).expired
