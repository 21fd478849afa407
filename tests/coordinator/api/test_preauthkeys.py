"""`/api/v1/preauthkey`: shapes, statuses and refusals (coordinator-behaviour §3)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

WHOLE_KEY = re.compile(r"hskey-auth-[0-9a-f]{12}-[0-9a-f]{64}")


@pytest.fixture(autouse=True)
async def ana(api: Any) -> None:
    await api.post("/user", {"name": "ana"})


async def test_the_key_is_told_once_and_masked_afterwards(api: Any) -> None:
    wish = {"user": "1", "reusable": True, "expiration": "2099-01-01T01:00:00+01:00", "aclTags": []}
    key = (await api.post("/preauthkey", wish))["preAuthKey"]
    assert WHOLE_KEY.fullmatch(key["key"])
    assert key["user"]["name"] == "ana"
    expected = {
        "id": "1",
        "reusable": True,
        "ephemeral": False,
        "used": False,
        "expiration": "2099-01-01T00:00:00Z",
        "aclTags": [],
    }
    assert {name: key[name] for name in expected} == expected
    assert set(key) == {*expected, "user", "key", "createdAt"}
    (listed,) = (await api.get("/preauthkey"))["preAuthKeys"]
    assert listed == {**key, "key": key["key"][:23] + "-***"}


async def test_a_tagged_key_has_no_user(api: Any) -> None:
    key = (await api.post("/preauthkey", {"aclTags": ["tag:web", "tag:db"]}))["preAuthKey"]
    assert key["user"] is None
    assert key["aclTags"] == ["tag:db", "tag:web"]


@pytest.mark.parametrize("absent", [{}, {"expiration": None}, {"expiration": "0001-01-01T00:00:00Z"}])
async def test_without_expiration_the_key_is_good_for_an_hour(api: Any, absent: dict[str, Any]) -> None:
    key = (await api.post("/preauthkey", {"user": 1, **absent}))["preAuthKey"]
    left = datetime.fromisoformat(key["expiration"]) - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)


async def test_list_of_one_user(api: Any) -> None:
    await api.post("/user", {"name": "ben"})
    for user in ("1", "2", "1"):
        await api.post("/preauthkey", {"user": user})
    assert [key["id"] for key in (await api.get("/preauthkey?user=1"))["preAuthKeys"]] == ["1", "3"]


async def test_an_expired_key_lets_nobody_in(api: Any) -> None:
    key = (await api.post("/preauthkey", {"user": "1", "reusable": True}))["preAuthKey"]
    assert await api.post("/preauthkey/expire", {"id": "1"}) == {}
    (listed,) = (await api.get("/preauthkey"))["preAuthKeys"]
    assert datetime.fromisoformat(listed["expiration"]) <= datetime.now(UTC)
    with pytest.raises(Exception, match="expired"):
        await api.join("laptop", key=key["key"])


@pytest.mark.parametrize("end", [None, 27])
async def test_expire_by_the_key_itself_as_headscale_0_27(api: Any, end: int | None) -> None:
    key = (await api.post("/preauthkey", {"user": "1"}))["preAuthKey"]
    assert await api.post("/preauthkey/expire", {"user": "1", "key": key["key"][:end]}) == {}
    (listed,) = (await api.get("/preauthkey"))["preAuthKeys"]
    assert datetime.fromisoformat(listed["expiration"]) <= datetime.now(UTC)


async def test_delete(api: Any) -> None:
    await api.post("/preauthkey", {"user": "1"})
    assert await api.delete("/preauthkey?id=1") == {}
    assert await api.get("/preauthkey") == {"preAuthKeys": []}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/preauthkey", {}, 400, "needs a user or at least one tag"),
        ("POST", "/preauthkey", {"user": "0"}, 400, "needs a user or at least one tag"),
        ("POST", "/preauthkey", {"user": "9"}, 404, "9"),
        ("POST", "/preauthkey", {"user": "ana"}, 400, 'user: "ana" is not an ID'),
        ("POST", "/preauthkey", {"aclTags": ["web"]}, 400, "invalid tag"),
        ("POST", "/preauthkey", {"aclTags": [1]}, 400, "aclTags[0]: expected `str`"),
        ("POST", "/preauthkey", {"user": "1", "expiration": "soon"}, 400, "expiration: invalid RFC3339"),
        ("POST", "/preauthkey", {"user": "1", "expiration": "2099-01-01T00:00:00"}, 400, "needs its zone"),
        ("POST", "/preauthkey", {"user": "1", "reusable": "yes"}, 400, "reusable: expected `bool`"),
        ("POST", "/preauthkey/expire", {"id": "9"}, 404, "9"),
        ("POST", "/preauthkey/expire", {}, 400, "id: an ID is required"),
        ("POST", "/preauthkey/expire", {"key": "hskey-auth-0"}, 404, "no pre-auth key"),
        ("DELETE", "/preauthkey?id=9", None, 404, "9"),
        ("DELETE", "/preauthkey", None, 400, "id: the ID of the key is required"),
    ],
)
async def test_refusals(api: Any, method: str, path: str, body: Any, status: int, message: str) -> None:
    reply = await api.call(method, f"/api/v1{path}", body)
    assert reply.status == status
    assert message in reply.message
    assert await api.get("/preauthkey") == {"preAuthKeys": []}
