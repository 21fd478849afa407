"""The admin API on a real unix socket, over a real state on a temporary database."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from io import BytesIO
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from coordinator.api import create_app
from coordinator.db import open_sqlite
from coordinator.settings import NetworkSettings
from coordinator.state import State
from meshproto.keys import MachinePrivate, NodePrivate
from meshproto.messages import Hostinfo, RegisterAuth, RegisterRequest, RegisterResponse


@dataclass
class Reply:
    status: int
    content_type: str
    document: Any

    @property
    def message(self) -> str:
        return str(self.document["errors"][0]["message"])


class Api:
    """A caller on the socket, and machines that join the state behind it."""

    def __init__(self, state: State, session: aiohttp.ClientSession) -> None:
        self.state = state
        self._session = session

    async def call(self, method: str, path: str, body: Any = None, raw: bytes | None = None) -> Reply:
        arguments: dict[str, Any] = {"json": body} if body is not None else {"data": raw and BytesIO(raw)}
        async with self._session.request(method, f"http://local{path}", **arguments) as reply:
            return Reply(reply.status, reply.content_type, await reply.json(content_type=None))

    async def get(self, path: str) -> Any:
        return await self._ok("GET", path)

    async def post(self, path: str, body: Any = None) -> Any:
        return await self._ok("POST", path, body)

    async def delete(self, path: str) -> Any:
        return await self._ok("DELETE", path)

    async def _ok(self, method: str, path: str, body: Any = None) -> Any:
        reply = await self.call(method, f"/api/v1{path}", body)
        assert (reply.status, reply.content_type) == (200, "application/json"), reply.document
        return reply.document

    async def join(
        self, hostname: str, *, key: str | None = None, routes: Iterable[str] = ()
    ) -> RegisterResponse:
        """A new machine asks to join, with a pre-auth key or to be approved by a person."""
        request = RegisterRequest(
            version=113,
            node_key=NodePrivate.generate(os.urandom).public,
            auth=RegisterAuth(auth_key=key) if key else None,
            hostinfo=Hostinfo(hostname=hostname, routable_ips=tuple(ip_network(route) for route in routes)),
        )
        return await self.state.register(MachinePrivate.generate(os.urandom).public, request)

    async def node(self, hostname: str, *, user: str = "ana", routes: Iterable[str] = ()) -> dict[str, Any]:
        """A node of `user`, who is created where there is none."""
        found = (await self.get(f"/user?name={user}"))["users"]
        owner = found[0] if found else (await self.post("/user", {"name": user}))["user"]
        key = (await self.post("/preauthkey", {"user": owner["id"]}))["preAuthKey"]
        await self.join(hostname, key=key["key"], routes=routes)
        return dict((await self.get("/node"))["nodes"][-1])


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    database = await open_sqlite(tmp_path / "db.sqlite")
    async with State.open(database, NetworkSettings()) as state:
        runner = web.AppRunner(create_app(state))
        await runner.setup()
        socket = tmp_path / "coordinator.sock"
        await web.UnixSite(runner, socket).start()
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session:
            yield Api(state, session)
        await runner.cleanup()
    await database.close()
