"""Control connections over WebSocket, as browsers make them."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from coordinator.http import UPGRADE
from meshproto.messages import Hostinfo
from meshproto.noise.ik import RESPONSE_SIZE, Initiator
from tests.coordinator.conftest import Server
from tests.coordinator.machine import Connection, Machine


class _Reader:
    """The messages of a WebSocket as one stream of bytes."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._buffer = b""

    async def read(self, _size: int = -1) -> bytes:
        if not self._buffer:
            message = await self._socket.receive()
            self._buffer = message.data if message.type is aiohttp.WSMsgType.BINARY else b""
        data, self._buffer = self._buffer, b""
        return data

    async def readexactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += await self.read()
        data, self._buffer = data[:size], data[size:]
        return data


class _Writer:
    """Writes in pieces, because boundaries mean nothing."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), 1000):
            self._queue.put_nowait(data[start : start + 1000])

    async def run(self) -> None:
        while True:
            await self._socket.send_bytes(await self._queue.get())


def url(server: Server, handshake: str) -> str:
    return (
        f"http://127.0.0.1:{server.coordinator.port}/ts2021?X-Tailscale-Handshake={quote(handshake, safe='')}"
    )


@asynccontextmanager
async def browser(server: Server) -> AsyncIterator[tuple[Machine, Connection]]:
    """A machine with an open connection, which it leaves without a goodbye."""
    machine = server.machine("browser")
    machine.hostinfo = Hostinfo(hostname="browser", os_version="x" * 5000)
    initiator = Initiator(machine.key, await machine.server_key(), 130, os.urandom)
    handshake = base64.b64encode(initiator.initiation()).decode()
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as tasks:
        address = url(server, handshake)
        socket = await session.ws_connect(address, protocols=[UPGRADE], origin="https://elsewhere.test")
        assert socket.protocol == UPGRADE
        reader: Any = _Reader(socket)
        writer: Any = _Writer(socket)
        transport = initiator.consume_response(await reader.readexactly(RESPONSE_SIZE))
        connection = Connection(reader, writer, transport)
        running = [tasks.create_task(writer.run()), tasks.create_task(connection.run())]
        yield machine, connection
        for task in running:
            task.cancel()


async def test_a_browser_joins_and_follows_its_map(server: Server) -> None:
    _, _, watcher = await server.join("watcher")
    async with browser(server) as (machine, connection):
        assert not (await machine.register(connection, await server.auth_key())).error
        poll = await machine.poll(connection)
        assert poll.map.names() == {"watcher"}
        await watcher.until(lambda map: "browser" in map.names() and map.peer("browser").online)
    await watcher.until(lambda map: not map.peer("browser").online)


async def test_the_coordinator_stops_with_a_browser_connected(server: Server) -> None:
    async with browser(server) as (machine, connection):
        await machine.register(connection, await server.auth_key())
        await machine.poll(connection)
        async with asyncio.timeout(2.5):
            await server.stop()
            await connection.closed.wait()
    await server.start()


@pytest.mark.parametrize(
    ("handshake", "protocols", "status"),
    [("", [UPGRADE], 400), ("AAAA", [UPGRADE], 400), ("???", [UPGRADE], 400), ("AAAA", [], 400)],
)
async def test_what_is_refused(server: Server, handshake: str, protocols: list[str], status: int) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(url(server, handshake), protocols=protocols)
    assert refused.value.status == status
