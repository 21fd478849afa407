"""Who may join and as what: every kind of request in every state of the node that sends it."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from coordinator import registration
from coordinator.authkeys import Secret
from coordinator.errors import CoordinatorError, Invalid
from coordinator.model import NodeRecord, PreAuthKey, RegisterMethod
from coordinator.pending import JoinRequest
from coordinator.policy import AllowAll
from coordinator.registration import Ask, Follow, Outcome, Settled, approve, decide
from coordinator.settings import NetworkSettings
from coordinator.store import PutNode, PutPreAuthKey, PutUser, RemoveNode, Snapshot, Update, apply
from meshproto.gotime import ZERO_TIME
from meshproto.messages import Hostinfo, NetInfo, RegisterAuth, RegisterRequest
from tests.coordinator.records import WALL, machine_key, node, node_key, user

PAST, FUTURE = WALL - timedelta(hours=1), WALL + timedelta(hours=1)
LOGOUT = datetime(1970, 1, 1, 0, 2, 3, tzinfo=UTC)
SECRET = Secret("0" * 12, "1" * 64)
FOLLOWUP = f"https://vpn.test/register/hskey-authreq-{24 * 'a'}"


def auth_key(**fields: Any) -> PreAuthKey:
    defaults: dict[str, Any] = {
        "id": 1,
        "prefix": SECRET.prefix,
        "hash": SECRET.hash,
        "user_id": 1,
        "created_at": PAST,
    }
    return PreAuthKey(**defaults | fields)


def state(*updates: Update, **settings: Any) -> Snapshot:
    base = Snapshot(settings=NetworkSettings(**settings))
    return apply(base, [PutUser(user(1)), PutUser(user(2)), *updates], WALL)[0]


def request(key: str = "", number: int = 1, **fields: Any) -> RegisterRequest:
    """A request of machine 1 with node key `number`."""
    defaults: dict[str, Any] = {"hostinfo": Hostinfo(hostname="node1"), "expiry": ZERO_TIME}
    auth = RegisterAuth(auth_key=key) if key else None
    return RegisterRequest(node_key=node_key(number), auth=auth, **defaults | fields)


def outcome(snapshot: Snapshot, asked: RegisterRequest, machine: int = 1) -> Outcome:
    return decide(snapshot, machine_key(machine), asked, WALL, os.urandom)


def settled(snapshot: Snapshot, asked: RegisterRequest, machine: int = 1) -> Settled:
    result = outcome(snapshot, asked, machine)
    assert isinstance(result, Settled)
    return result


def refusal(snapshot: Snapshot, asked: RegisterRequest, machine: int = 1) -> str:
    with pytest.raises(CoordinatorError) as refused:
        outcome(snapshot, asked, machine)
    return str(refused.value)


def admitted(snapshot: Snapshot, asked: RegisterRequest) -> NodeRecord:
    result = settled(snapshot, asked)
    assert result.node is not None
    assert PutNode(result.node) in result.updates
    return result.node


# The decision order, without a key. None: no such node; else what the node is like.
NODES: dict[str, NodeRecord | None] = {
    "unknown": None,
    "good": node(1),
    "expired": node(1, expiry=PAST),
    "tagged": node(1, tags=("tag:x",)),
    "ephemeral": node(1, ephemeral=True),
}
REQUESTS = {
    "plain": request(),
    "empty key": RegisterRequest(node_key=node_key(1), auth=RegisterAuth(), hostinfo=Hostinfo()),
    "logout": request(expiry=LOGOUT),
    "extend": request(expiry=FUTURE),
    "follow-up": request(followup=FOLLOWUP),
}


def summary(result: Outcome | str) -> str:
    match result:
        case str():
            return result
        case Ask():
            return "ask"
        case Follow():
            return "follow"
        case Settled(response, updates, _):
            verb = "expired" if response.node_key_expired else "current"
            return f"{verb} {'+'.join(type(update).__name__ for update in updates)}".strip()


@pytest.mark.parametrize(
    ("node_name", "expected"),
    [
        ("unknown", ["ask", "ask", "expired", "ask", "follow"]),
        ("good", ["current", "current", "expired PutNode", "extending key is not allowed", "current"]),
        ("expired", ["expired", "expired", "expired", "expired", "expired"]),
        ("tagged", ["current", "current", "expired PutNode", "extending key is not allowed", "current"]),
        (
            "ephemeral",
            ["current", "current", "expired RemoveNode", "extending key is not allowed", "current"],
        ),
    ],
)
def test_decisions_without_a_key(node_name: str, expected: list[str]) -> None:
    known = NODES[node_name]
    snapshot = state(*([PutNode(known)] if known else []))
    results = []
    for asked in REQUESTS.values():
        try:
            results.append(summary(outcome(snapshot, asked)))
        except CoordinatorError as refused:
            results.append(str(refused))
    assert results == expected


def test_logout_comes_before_the_key_and_sets_now() -> None:
    snapshot = state(PutNode(node(1)), PutPreAuthKey(auth_key(reusable=True)))
    result = settled(snapshot, request(str(SECRET), expiry=LOGOUT))
    assert result.updates == (PutNode(node(1, expiry=WALL)),)


def test_logout_of_an_ephemeral_node_removes_it() -> None:
    result = settled(state(PutNode(node(1, ephemeral=True))), request(expiry=LOGOUT))
    assert result.updates == (RemoveNode(1),)
    assert not result.response.machine_authorized


@pytest.mark.parametrize("asked", REQUESTS.values(), ids=REQUESTS.keys())
def test_a_node_key_of_another_machine_is_refused(asked: RegisterRequest) -> None:
    assert "different machine key" in refusal(state(PutNode(node(1))), asked, machine=2)


def test_a_request_without_a_node_key_is_refused() -> None:
    assert "no node key" in refusal(state(), RegisterRequest())


def test_a_malformed_follow_up_is_refused() -> None:
    assert refusal(state(), request(followup="https://vpn.test/register/x")) == "invalid registration ID"


# With a key.


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (auth_key(revoked=PAST, expiration=PAST, used=True), "authkey revoked"),
        (auth_key(expiration=PAST, used=True), "authkey expired"),
        (auth_key(used=True), "authkey already used"),
        (auth_key(prefix="f" * 12), "invalid pre auth key"),
        (auth_key(hash="00"), "invalid pre auth key"),
    ],
)
def test_keys_that_are_no_good(key: PreAuthKey, message: str) -> None:
    assert refusal(state(PutPreAuthKey(key)), request(str(SECRET))).startswith(message)


def test_a_one_shot_key_is_marked_with_the_node_that_used_it() -> None:
    result = settled(state(PutPreAuthKey(auth_key())), request(str(SECRET)))
    assert result.updates[1:] == (PutPreAuthKey(auth_key(used=True)),)
    reusable = settled(state(PutPreAuthKey(auth_key(reusable=True, used=True))), request(str(SECRET)))
    assert len(reusable.updates) == 1


def test_a_new_node() -> None:
    joined = admitted(state(PutPreAuthKey(auth_key(ephemeral=True))), request(str(SECRET)))
    assert joined == node(1, register_method=RegisterMethod.AUTH_KEY, auth_key_id=1, ephemeral=True)


@pytest.mark.parametrize(
    "key",
    [auth_key(used=True), auth_key(expiration=PAST), auth_key(revoked=PAST)],
    ids=["used", "expired", "revoked"],
)
def test_a_node_keeps_its_place_with_a_key_that_is_no_good_any_more(key: PreAuthKey) -> None:
    known = node(1, auth_key_id=1)
    snapshot = state(PutPreAuthKey(key), PutNode(known))
    assert summary(outcome(snapshot, request(str(SECRET)))) == "current"
    assert refusal(snapshot, request(str(SECRET), number=2)).startswith("authkey ")
    for other in (replace(known, expiry=PAST), replace(known, tags=("tag:x",), user_id=None)):
        assert refusal(state(PutPreAuthKey(key), PutNode(other)), request(str(SECRET))).startswith("authkey ")


def test_rotation_keeps_id_addresses_name_and_approvals() -> None:
    known = node(1, given_name="chosen", approved_routes=(), expiry=PAST)
    rotated = admitted(state(PutPreAuthKey(auth_key()), PutNode(known)), request(str(SECRET), number=2))
    assert rotated == replace(
        known,
        node_key=node_key(2),
        expiry=None,
        register_method=RegisterMethod.AUTH_KEY,
        auth_key_id=1,
    )


def test_a_key_of_another_user_makes_a_second_node() -> None:
    snapshot = state(PutNode(node(1)), PutPreAuthKey(auth_key(user_id=2)))
    second = admitted(snapshot, request(str(SECRET), number=2))
    assert (second.id, second.user_id, second.given_name) == (2, 2, "node1-1")
    assert "another owner" in refusal(snapshot, request(str(SECRET), number=1))


@pytest.mark.parametrize("user_id", [1, None])
def test_a_tagged_key_turns_the_users_node_into_a_tagged_one(user_id: int | None) -> None:
    key = auth_key(user_id=user_id, tags=("tag:x",))
    known = node(1, expiry=FUTURE)
    tagged = admitted(state(PutNode(known), PutPreAuthKey(key)), request(str(SECRET), number=2))
    assert (tagged.id, tagged.user_id, tagged.tags, tagged.expiry) == (1, None, ("tag:x",), None)


def test_a_users_key_turns_a_tagged_node_into_theirs() -> None:
    snapshot = state(PutNode(node(1, tags=("tag:x",))), PutPreAuthKey(auth_key()))
    owned = admitted(snapshot, request(str(SECRET), number=2))
    assert (owned.id, owned.user_id, owned.tags) == (1, 1, ())


def test_a_tagged_node_that_logged_out_does_not_stay_expired() -> None:
    key = auth_key(user_id=None, tags=("tag:x",))
    known = node(1, tags=("tag:x",), expiry=PAST)
    assert admitted(state(PutNode(known), PutPreAuthKey(key)), request(str(SECRET))).expiry is None


@pytest.mark.parametrize("tags", [("tag:x",), ()])
def test_a_machine_with_a_key_may_not_ask_for_tags(tags: tuple[str, ...]) -> None:
    asked = request(str(SECRET), hostinfo=Hostinfo(hostname="node1", request_tags=("tag:x",)))
    assert "tag:x" in refusal(state(PutPreAuthKey(auth_key(tags=tags))), asked)


def test_expiry_is_what_the_node_asks_else_the_default() -> None:
    key = PutPreAuthKey(auth_key())
    default = timedelta(days=90)
    assert admitted(state(key), request(str(SECRET))).expiry is None
    assert admitted(state(key, node_expiry=default), request(str(SECRET))).expiry == WALL + default
    assert admitted(state(key, node_expiry=default), request(str(SECRET), expiry=FUTURE)).expiry == FUTURE


def test_a_login_without_net_info_keeps_the_home_derp() -> None:
    known = node(1, hostinfo=Hostinfo(hostname="node1", net_info=NetInfo(preferred_derp=9)))
    again = admitted(state(PutNode(known), PutPreAuthKey(auth_key())), request(str(SECRET), number=2))
    assert again.hostinfo.net_info == NetInfo(preferred_derp=9)


# Approved by a person.


def join(**hostinfo: Any) -> JoinRequest:
    return JoinRequest(machine_key(1), node_key(2), Hostinfo(hostname="node1", **hostinfo))


def test_approval_makes_or_renews_the_users_node() -> None:
    made = approve(state(), join(), 2, RegisterMethod.CLI, WALL, os.urandom).node
    assert made is not None
    assert (made.id, made.user_id, made.register_method, made.ephemeral) == (1, 2, "cli", False)
    renewed = approve(
        state(PutNode(node(1, expiry=PAST))), join(), 1, RegisterMethod.CLI, WALL, os.urandom
    ).node
    assert renewed == node(1, node_key=node_key(2))


def test_approval_of_tags_asks_the_policy() -> None:
    class Permissive(AllowAll):
        def permits_tags(self, user: object, tags: object) -> bool:
            return True

    with pytest.raises(Invalid, match="tag:x"):
        approve(state(), join(request_tags=("tag:x",)), 1, RegisterMethod.CLI, WALL, os.urandom)
    allowed = replace(state(), policy=Permissive())
    made = approve(allowed, join(request_tags=("tag:x",)), 1, RegisterMethod.CLI, WALL, os.urandom).node
    assert made is not None
    assert (made.user_id, made.tags) == (None, ("tag:x",))


def test_a_renamed_host_whose_new_name_is_taken() -> None:
    names = {"web": 2, "node1": 1}
    assert registration.renamed_to_host(node(1), "web", names) == "web-1"
    assert registration.renamed_to_host(node(1, given_name="chosen"), "web", names) == "chosen"
