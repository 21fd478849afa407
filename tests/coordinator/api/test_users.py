"""`/api/v1/user`: shapes, statuses and refusals (coordinator-behaviour §3)."""

from __future__ import annotations

import re
from typing import Any

import pytest

RFC3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


async def test_a_created_user_has_headscales_shape(api: Any) -> None:
    wish = {
        "name": "ana",
        "displayName": "Ana B.",
        "email": "ana@example.org",
        "pictureUrl": "https://example.org/a.png",
    }
    user = (await api.post("/user", wish))["user"]
    assert RFC3339_UTC.fullmatch(user.pop("createdAt"))
    assert user == {
        "id": "1",
        "name": "ana",
        "displayName": "Ana B.",
        "email": "ana@example.org",
        "providerId": "",
        "provider": "",
        "profilePicUrl": "https://example.org/a.png",
    }


async def test_lists_are_sorted_and_filtered_by_name_before_email_before_id(api: Any) -> None:
    for name, email in (("ana", "a@example.org"), ("ben", "b@example.org"), ("cleo", "c@example.org")):
        await api.post("/user", {"name": name, "email": email})

    async def names(query: str) -> list[str]:
        return [user["name"] for user in (await api.get(f"/user{query}"))["users"]]

    assert await names("") == ["ana", "ben", "cleo"]
    assert await names("?id=2") == ["ben"]
    assert await names("?email=c@example.org") == ["cleo"]
    assert await names("?name=ana&email=b@example.org&id=3") == ["ana"]
    assert await names("?email=b@example.org&id=3") == ["ben"]
    assert await names("?name=nobody") == []
    assert await names("?id=99") == []


async def test_rename_keeps_the_id(api: Any) -> None:
    await api.post("/user", {"name": "ana"})
    user = (await api.post("/user/1/rename/ana-b"))["user"]
    assert (user["id"], user["name"]) == ("1", "ana-b")


async def test_delete_takes_the_users_keys_along(api: Any) -> None:
    await api.post("/user", {"name": "ana"})
    await api.post("/preauthkey", {"user": "1"})
    assert await api.delete("/user/1") == {}
    assert await api.get("/user") == {"users": []}
    assert await api.get("/preauthkey") == {"preAuthKeys": []}


async def test_a_user_with_nodes_is_not_deleted(api: Any) -> None:
    await api.node("laptop")
    reply = await api.call("DELETE", "/api/v1/user/1")
    assert reply.status == 400
    assert "still has nodes" in reply.message
    assert len((await api.get("/user"))["users"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("POST", "/user", {"name": "ana"}, 409, "already exists"),
        ("POST", "/user", {"name": "a"}, 400, "at least 2 characters"),
        ("POST", "/user", {"name": "9lives"}, 400, "start with a letter"),
        ("POST", "/user", {}, 400, "name: object missing required field"),
        ("POST", "/user", {"name": 5}, 400, "name: expected `str`, got `int`"),
        ("POST", "/user", {"name": "ben", "nmae": ""}, 400, "nmae: object contains unknown field"),
        ("POST", "/user", ["ben"], 400, "body: expected `object`, got `array`"),
        ("POST", "/user/99/rename/ben", None, 404, "99"),
        ("POST", "/user/x/rename/ben", None, 400, "type mismatch, parameter: oldId"),
        ("POST", "/user/1/rename/b%2Fen", None, 400, "invalid character"),
        ("DELETE", "/user/99", None, 404, "99"),
        ("GET", "/user?id=x", None, 400, '"x" is not an ID'),
        ("GET", f"/user?id={1 << 63}", None, 400, "is not an ID"),
    ],
)
async def test_refusals(api: Any, method: str, path: str, body: Any, status: int, message: str) -> None:
    await api.post("/user", {"name": "ana"})
    reply = await api.call(method, f"/api/v1{path}", body)
    assert reply.status == status
    assert message in reply.message
    assert [user["name"] for user in (await api.get("/user"))["users"]] == ["ana"]
