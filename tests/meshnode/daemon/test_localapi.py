"""The LocalAPI over its socket: who may do what, and the shapes of answers and errors."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from coordinator.app import Coordinator
from meshnode import __version__, localapi
from meshnode.diagnostics import Diagnostics
from meshnode.localapi import BASE, LocalAPI, SocketTaken, bind_socket
from meshnode.tsmp import Tsmp
from tests.meshnode.daemon.conftest import NodeMaker, TestNode, create_key, url_of

HOST = "local-tailscaled.sock"
NOBODY = pwd.getpwnam("nobody").pw_uid


@dataclass
class Served:
    """A node behind its socket."""

    node: TestNode
    path: Path
    session: aiohttp.ClientSession
    shut_down: list[bool]

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and text of the answer."""
        async with self.session.request(
            method, f"http://{HOST}{BASE}{path}", json=body, headers=headers
        ) as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def served(start_node: NodeMaker, tmp_path: Path) -> AsyncIterator[Served]:
    node = await start_node("one")
    path = tmp_path / "run" / "meshnode.sock"
    shut_down: list[bool] = []
    diagnostics = Diagnostics(node.backend, node.tunnel, Tsmp("lo", os.urandom), "lo")
    api = LocalAPI(node.backend, diagnostics, lambda: shut_down.append(True))
    await api.serve(bind_socket(path), path)
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session:
        yield Served(node, path, session, shut_down)
    node.backend.bus.close()
    await api.close()
    assert not path.exists()


def as_user(monkeypatch: pytest.MonkeyPatch, uid: int | None) -> None:
    monkeypatch.setattr(localapi, "_peer_uid", lambda request: uid)


READS = [
    ("GET", "status"),
    ("GET", "status?peers=false"),
    ("GET", "prefs"),
    ("POST", "ping?ip=100.64.0.9"),
]
WRITES = [
    ("PATCH", "prefs", {"Hostname": "x", "HostnameSet": True}),
    ("POST", "start", {}),
    ("POST", "login-interactive", {}),
    ("POST", "logout", {}),
    ("POST", "shutdown", {}),
    ("POST", "check-prefs", {}),
]


@pytest.mark.parametrize(("method", "path"), READS)
async def test_anybody_may_read(
    served: Served, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    as_user(monkeypatch, NOBODY)
    status, text = await served.ask(method, path)
    assert status == 200
    assert isinstance(json.loads(text), dict)


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
async def test_only_root_and_the_operator_may_write(
    served: Served, monkeypatch: pytest.MonkeyPatch, method: str, path: str, body: dict[str, Any]
) -> None:
    before = served.node.store.load()
    for uid in (NOBODY, None):
        as_user(monkeypatch, uid)
        status, text = await served.ask(method, path, body)
        assert status == 403
        assert "access denied" in text
    assert served.node.store.load() == before
    assert served.shut_down == []


async def test_the_operator_may_write(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _ = await served.ask("PATCH", "prefs", {"OperatorUser": "nobody", "OperatorUserSet": True})
    assert status == 200
    as_user(monkeypatch, NOBODY)
    status, text = await served.ask("PATCH", "prefs", {"Hostname": "x", "HostnameSet": True})
    assert status == 200
    assert json.loads(text)["Hostname"] == "x"


async def test_the_kernel_says_who_asks(served: Served) -> None:
    status, _ = await served.ask("PATCH", "prefs", {"RouteAll": True, "RouteAllSet": True})
    assert status == 200
    assert served.path.stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Referer": "https://evil.example"}],
)
async def test_what_a_browser_was_talked_into_is_refused(served: Served, headers: dict[str, str]) -> None:
    assert (await served.ask("GET", "status", headers=headers))[0] == 403


async def test_every_answer_names_the_version(served: Served) -> None:
    for path in ("status", "nothing"):
        async with served.session.get(f"http://{HOST}{BASE}{path}") as answer:
            assert answer.headers["Tailscale-Version"] == __version__


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "says"),
    [
        ("GET", "nothing", None, 404, ""),
        ("POST", "status", None, 405, ""),
        ("PATCH", "prefs", [], 400, "JSON object"),
        ("PATCH", "prefs", {"Colour": "red", "ColourSet": True}, 400, "Colour"),
        ("POST", "start", {"UpdatePrefs": {"Hostname": "my host"}}, 400, "my host"),
        ("POST", "start", {}, 400, "--login-server"),
        ("POST", "check-prefs", {"AdvertiseRoutes": ["10.0.0.1/8"]}, 400, "10.0.0.0/8"),
        ("GET", "watch-ipn-bus?mask=x", None, 400, "mask"),
        ("GET", "ping?ip=100.64.0.9", None, 405, ""),
        ("POST", "ping", None, 400, "ip"),
        ("POST", "ping?ip=nas", None, 400, "nas"),
        ("POST", "ping?ip=100.64.0.9&type=smoke", None, 400, "type"),
        ("POST", "ping?ip=100.64.0.9&size=big", None, 400, "size"),
        ("POST", "ping?ip=100.64.0.9&size=-1", None, 400, "size"),
        ("POST", "ping?ip=100.64.0.9&size=65508", None, 400, "65507"),
        ("POST", "ping?ip=100.64.0.9&type=ICMP&size=100", None, 400, "disco"),
        ("GET", "derpmap", None, 404, "not connected"),
        ("GET", "debug-paths", None, 400, "peer"),
        ("GET", f"debug-paths?peer=nodekey:{'07' * 32}", None, 404, "no peer"),
    ],
)
async def test_a_wrong_request(
    served: Served, method: str, path: str, body: Any, status: int, says: str
) -> None:
    seen, text = await served.ask(method, path, body)
    assert seen == status
    assert says in text


@pytest.mark.parametrize("path", ["metrics", "usermetrics"])
async def test_metrics_for_prometheus(served: Served, path: str) -> None:
    async with served.session.get(f"http://{HOST}{BASE}{path}") as answer:
        assert answer.content_type == "text/plain"
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert "tailscaled_home_derp_region_id 0\n" in await answer.text()


async def test_a_body_that_is_no_json(served: Served) -> None:
    async with served.session.patch(f"http://{HOST}{BASE}prefs", data=b"{") as answer:
        assert answer.status == 400


async def test_a_watcher_sees_a_login_from_beginning_to_end(served: Served, coordinator: Coordinator) -> None:
    options = {
        "UpdatePrefs": {"ControlURL": url_of(coordinator), "Hostname": "one"},
        "AuthKey": await create_key(coordinator),
    }
    seen: list[dict[str, Any]] = []
    async with served.session.get(f"http://{HOST}{BASE}watch-ipn-bus?mask=134") as stream:
        seen.append(json.loads(await stream.content.readline()))
        assert seen[0]["State"] == 2
        assert seen[0]["Prefs"]["WantRunning"] is False
        assert seen[0]["Health"] == []
        assert (await served.ask("POST", "start", options))[0] == 204
        async with asyncio.timeout(20):
            while seen[-1].get("State") != 6:
                seen.append(json.loads(await stream.content.readline()))
    assert {"Prefs", "LoginFinished", "State"} <= {name for notification in seen for name in notification}


async def test_a_late_watcher_learns_that_the_login_failed(served: Served, coordinator: Coordinator) -> None:
    options = {"UpdatePrefs": {"ControlURL": url_of(coordinator)}, "AuthKey": "nonsense"}
    assert (await served.ask("POST", "start", options))[0] == 204
    await served.node.reaches("NeedsLogin")
    async with served.session.get(f"http://{HOST}{BASE}watch-ipn-bus?mask=2") as stream:
        notification = json.loads(await stream.content.readline())
    assert "key" in notification["ErrMessage"]


async def test_shutdown_is_passed_on(served: Served) -> None:
    assert (await served.ask("POST", "shutdown"))[0] == 204
    assert served.shut_down == [True]


def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "meshnode.sock"
    with bind_socket(path), pytest.raises(SocketTaken, match=str(path)):
        bind_socket(path)
    assert path.exists()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "meshnode.sock"
    bind_socket(path).close()
    assert path.exists()
    bind_socket(path).close()


def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SocketTaken, match="--socket"):
        bind_socket(tmp_path / "file" / "meshnode.sock")
    with pytest.raises(SocketTaken, match="--socket"):
        bind_socket(tmp_path / ("x" * 120))
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
