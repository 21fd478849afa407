"""`/api/v1/node` and `/api/v1/auth`: shapes, statuses and refusals (coordinator-behaviour §3)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest


async def test_a_nodes_shape(api: Any) -> None:
    node = await api.node("Ana's Laptop", routes=["10.1.0.0/16", "0.0.0.0/0", "::/0"])
    assert node["machineKey"].startswith("mkey:")
    assert node["nodeKey"].startswith("nodekey:")
    assert node["user"]["name"] == "ana"
    assert node["preAuthKey"]["key"].endswith("-***")
    assert node["preAuthKey"]["used"] is True
    expected = {
        "id": "1",
        "ipAddresses": ["100.64.0.1", "fd7a:115c:a1e0::1"],
        "name": "Ana's Laptop",
        "givenName": "anas-laptop",
        "expiry": None,
        "registerMethod": "REGISTER_METHOD_AUTH_KEY",
        "online": False,
        "approvedRoutes": [],
        "subnetRoutes": [],
        "tags": [],
        "forcedTags": [],
        "validTags": [],
        "invalidTags": [],
        "ephemeral": False,
    }
    assert {name: node[name] for name in expected} == expected
    assert set(node["availableRoutes"]) == {"10.1.0.0/16", "0.0.0.0/0", "::/0"}
    others = {"machineKey", "nodeKey", "discoKey", "user", "preAuthKey", "lastSeen", "createdAt"}
    assert set(node) == {*expected, *others, "availableRoutes"}
    assert (await api.get("/node/1"))["node"] == node


async def test_lists_are_sorted_and_filtered_by_user(api: Any) -> None:
    for hostname, user in (("a", "ana"), ("b", "ben"), ("c", "ana")):
        await api.node(hostname, user=user)
    assert [node["id"] for node in (await api.get("/node"))["nodes"]] == ["1", "2", "3"]
    assert [node["name"] for node in (await api.get("/node?user=ana"))["nodes"]] == ["a", "c"]
    reply = await api.call("GET", "/api/v1/node?user=cleo")
    assert (reply.status, reply.message) == (404, 'no user named "cleo"')


@pytest.mark.parametrize("form", ["auth", "query"])
async def test_a_waiting_machine_is_let_in(api: Any, form: str) -> None:
    await api.post("/user", {"name": "ana"})
    url = (await api.join("laptop")).auth_url
    auth_id = url.rpartition("/")[2]
    if form == "auth":
        node = (await api.post("/auth/register", {"user": "ana", "authId": auth_id}))["node"]
    else:
        node = (await api.post(f"/node/register?user=ana&key={auth_id}"))["node"]
    assert node["registerMethod"] == "REGISTER_METHOD_CLI"
    assert node["preAuthKey"] is None
    assert node["user"]["name"] == "ana"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/node/1/expire", {"expiry": "2099-01-01T00:00:00Z"}),
        ("/node/1/expire?expiry=2099-01-01T00:00:00Z", None),
        ("/node/1/expire?expiry=2099-01-01T01:00:00+01:00", None),
    ],
)
async def test_expiry_is_taken_from_the_body_or_the_query(api: Any, path: str, body: Any) -> None:
    await api.node("laptop")
    assert (await api.post(path, body))["node"]["expiry"] == "2099-01-01T00:00:00Z"
    query = "?disableExpiry=true" if body is None else ""
    node = await api.post(f"/node/1/expire{query}", None if query else {"disableExpiry": True})
    assert node["node"]["expiry"] is None


async def test_expire_without_a_time_means_now(api: Any) -> None:
    await api.node("laptop")
    expiry = (await api.post("/node/1/expire"))["node"]["expiry"]
    assert datetime.fromisoformat(expiry) <= datetime.now(UTC)


async def test_rename_delete_and_move(api: Any) -> None:
    await api.node("laptop")
    assert (await api.post("/node/1/rename/ana-pc"))["node"]["givenName"] == "ana-pc"
    await api.post("/user", {"name": "ben"})
    assert (await api.post("/node/1/user", {"user": "2"}))["node"]["user"]["name"] == "ben"
    assert (await api.post("/node/1/user", {"user": 1}))["node"]["user"]["name"] == "ana"
    assert await api.delete("/node/1") == {}
    assert await api.get("/node") == {"nodes": []}


async def test_a_tagged_node_is_owned_by_its_tags(api: Any) -> None:
    await api.node("server")
    node = (await api.post("/node/1/tags", {"tags": ["tag:web", "tag:db"]}))["node"]
    assert node["tags"] == node["forcedTags"] == ["tag:db", "tag:web"]
    assert node["user"] is None
    (listed,) = (await api.get("/node"))["nodes"]
    assert (listed["user"]["id"], listed["user"]["name"]) == ("2147455555", "tagged-devices")


async def test_approved_routes_replace_those_before_and_exit_routes_come_as_a_pair(api: Any) -> None:
    await api.node("router", routes=["10.1.0.0/16", "0.0.0.0/0", "::/0"])

    async def approve(*routes: str) -> list[str]:
        reply = await api.post("/node/1/approve_routes", {"routes": list(routes)})
        return list(reply["node"]["approvedRoutes"])

    assert await approve("10.1.0.0/16") == ["10.1.0.0/16"]
    assert set(await approve("::/0")) == {"0.0.0.0/0", "::/0"}
    assert await approve() == []


async def test_routes_are_served_while_the_node_is_connected(api: Any) -> None:
    await api.node("router", routes=["10.1.0.0/16", "0.0.0.0/0", "::/0"])
    await api.post("/node/1/approve_routes", {"routes": ["10.1.0.0/16", "0.0.0.0/0"]})
    await api.state.connect(1)
    (node,) = (await api.get("/node"))["nodes"]
    assert node["online"] is True
    assert set(node["subnetRoutes"]) == {"10.1.0.0/16", "0.0.0.0/0", "::/0"}
    assert (await api.get("/node/1"))["node"]["subnetRoutes"] == node["subnetRoutes"]
    api.state.disconnect(1)


async def test_a_route_that_is_not_advertised_is_stored_unless_asked_otherwise(api: Any) -> None:
    await api.node("router", routes=["10.1.0.0/16"])
    strict = "/api/v1/node/1/approve_routes?advertisedOnly=true"
    reply = await api.call("POST", strict, {"routes": ["10.2.0.0/16"]})
    assert reply.status == 400
    assert "does not advertise 10.2.0.0/16; it advertises 10.1.0.0/16" in reply.message
    assert (await api.get("/node/1"))["node"]["approvedRoutes"] == []
    stored = await api.post("/node/1/approve_routes", {"routes": ["10.2.0.0/16"]})
    assert stored["node"]["approvedRoutes"] == ["10.2.0.0/16"]
    kept = await api.call("POST", strict, {"routes": ["10.1.0.0/16", "10.2.0.0/16"]})
    assert kept.status == 200, "what is approved already may stay"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("GET", "/node/9", None, 404, "9"),
        ("GET", "/node/x", None, 400, 'type mismatch, parameter: nodeId, "x" is not a number'),
        ("DELETE", "/node/9", None, 404, "9"),
        ("POST", "/node/9/expire", None, 404, "9"),
        ("POST", "/node/1/expire", {"expiry": "soon"}, 400, "expiry: invalid RFC3339"),
        ("POST", "/node/1/expire", {"expiry": "2099-01-01T00:00:00"}, 400, "needs its zone"),
        ("POST", "/node/1/expire?expiry=soon", None, 400, '"soon" is not an RFC 3339 instant'),
        ("POST", "/node/1/expire?disableExpiry=perhaps", None, 400, "neither true nor false"),
        (
            "POST",
            "/node/1/expire",
            {"expiry": "2099-01-01T00:00:00Z", "disableExpiry": True},
            400,
            "cannot set both disable_expiry and expiry",
        ),
        ("POST", "/node/9/rename/pc", None, 404, "9"),
        ("POST", "/node/1/rename/Ana%20PC", None, 400, "lower-case letters"),
        ("POST", "/node/1/rename/taken", None, 400, "not unique"),
        ("POST", "/node/9/tags", {"tags": ["tag:a"]}, 404, "9"),
        ("POST", "/node/1/tags", {"tags": []}, 400, "cannot remove all tags"),
        ("POST", "/node/1/tags", {"tags": ["web"]}, 400, "invalid tag"),
        ("POST", "/node/1/tags", {"tags": "tag:a"}, 400, "tags: expected `array`, got `str`"),
        ("POST", "/node/1/tags", {}, 400, "tags: object missing required field"),
        ("POST", "/node/9/approve_routes", {"routes": []}, 404, "9"),
        ("POST", "/node/1/approve_routes", {"routes": ["10.0.0.0/8", "lan"]}, 400, 'parsing route: "lan"'),
        ("POST", "/node/1/approve_routes", {"routes": ["10.0.0.9/8"]}, 400, "did you mean 10.0.0.0/8?"),
        ("POST", "/node/1/approve_routes", {"routes": ["10.0.0.9"]}, 400, "one address is 10.0.0.9/32"),
        ("POST", "/node/9/user", {"user": "1"}, 404, "9"),
        ("POST", "/node/1/user", {"user": "9"}, 404, "9"),
        ("POST", "/node/1/user", {"user": ""}, 400, "user: an ID is required"),
        ("POST", "/node/register?user=ana", None, 400, "key: missing from the query"),
        ("POST", "/auth/register", {"user": "ana", "authId": "nodekey:12"}, 400, "hskey-authreq-"),
        ("POST", "/auth/register", {"user": "ana", "authId": "hskey-authreq-" + 24 * "0"}, 404, "no pending"),
        ("POST", "/auth/register", {"user": "eve", "authId": "hskey-authreq-" + 24 * "0"}, 404, '"eve"'),
    ],
)
async def test_refusals(api: Any, method: str, path: str, body: Any, status: int, message: str) -> None:
    await api.node("laptop")
    await api.node("taken")
    before = await api.get("/node")
    reply = await api.call(method, f"/api/v1{path}", body)
    assert reply.status == status
    assert message in reply.message
    assert await api.get("/node") == before
