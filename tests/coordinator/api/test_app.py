"""What holds for the whole API: the form of refusals, bounded bodies, health."""

from __future__ import annotations

import contextlib
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from coordinator.api.problems import BadRequest
from coordinator.api.requests import MAX_BODY, optional_id, route


async def test_health(api: Any) -> None:
    assert await api.get("/health") == {"databaseConnectivity": True}


async def test_health_of_a_dead_database(api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ping_database() -> None:
        raise OperationalError("SELECT 1", None, Exception("disk I/O error"))

    monkeypatch.setattr(api.state, "ping_database", ping_database)
    reply = await api.call("GET", "/api/v1/health")
    assert (reply.status, reply.content_type) == (500, "application/problem+json")
    assert "the database does not answer" in reply.message


async def test_a_refusal_is_a_problem_document_that_older_clients_read_too(api: Any) -> None:
    reply = await api.call("GET", "/api/v1/node/9")
    assert (reply.status, reply.content_type) == (404, "application/problem+json")
    message = reply.message
    assert reply.document == {
        "title": "Not Found",
        "status": 404,
        "detail": "getting node",
        "errors": [{"message": message}],
        "code": 5,
        "message": message,
    }


async def test_the_field_at_fault_is_located(api: Any) -> None:
    reply = await api.call("POST", "/api/v1/preauthkey", {"user": "1", "aclTags": ["tag:a", 2]})
    assert reply.document["errors"][0]["location"] == "body.aclTags[1]"


async def test_a_defect_is_answered_and_told_to_the_log_only(
    api: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def delete_node(node_id: int) -> None:
        raise RuntimeError("a secret of ours")

    monkeypatch.setattr(api.state, "delete_node", delete_node)
    reply = await api.call("DELETE", "/api/v1/node/1")
    assert reply.status == 500
    assert "secret" not in str(reply.document)
    assert "a secret of ours" in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/api/v1/nodes", 404, "there is no /api/v1/nodes in this API"),
        ("GET", "/", 404, "there is no / in this API"),
        ("PATCH", "/api/v1/user", 405, "/api/v1/user takes GET, POST, not PATCH"),
    ],
)
async def test_paths_and_methods_that_are_not_there(
    api: Any, method: str, path: str, status: int, message: str
) -> None:
    reply = await api.call(method, path)
    assert (reply.status, reply.content_type) == (status, "application/problem+json")
    assert reply.message == message


@pytest.mark.parametrize(
    "raw", [b"{", b"name=ana", b"\xff\xfe", b'{"name":"' + b"\\ud800" + b'"}', b"[" * 5000]
)
async def test_a_body_that_is_not_json(api: Any, raw: bytes) -> None:
    reply = await api.call("POST", "/api/v1/user", raw=raw)
    assert reply.status == 400
    assert await api.get("/user") == {"users": []}


async def test_a_large_body_is_refused(api: Any) -> None:
    reply = await api.call("POST", "/api/v1/user", raw=b'{"name":"' + b"a" * MAX_BODY + b'"}')
    assert (reply.status, reply.message) == (413, "the body is too large")


@given(st.text() | st.integers())
def test_any_id_is_a_number_none_or_refused(value: str | int) -> None:
    with contextlib.suppress(BadRequest):
        number = optional_id(value, "body.id")
        assert number is None or 0 < number < 1 << 63


@given(st.text(max_size=50) | st.ip_addresses().map(lambda address: f"{address}/9"))
def test_any_route_is_a_prefix_or_refused(text: str) -> None:
    with contextlib.suppress(BadRequest):
        assert ip_network(str(route(text, "body.routes[0]")))
