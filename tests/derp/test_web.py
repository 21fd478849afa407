"""The HTTP side of a relay: what probes, browsers and proxies see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import WSMsgType

from derp import frames
from derp.client_core import ClientCore, Connected, Event, PacketsReceived
from derp.upgrade import encode_request, encode_response
from tests.derp.keys import ALICE, BOB, CAROL, zeros
from tests.derp.loops import on_both_loops
from tests.derp.relays import (
    PATIENCE_S,
    Certificate,
    RawClient,
    RunningRelay,
    connected_client,
    running_relay,
)


@asynccontextmanager
async def http(relay: RunningRelay, tls: Certificate | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    base = f"{'https' if tls else 'http'}://localhost:{relay.node.port}"
    connector = aiohttp.TCPConnector(ssl=tls.client_context() if tls else True)
    async with aiohttp.ClientSession(base, connector=connector) as session:
        yield session


@pytest.mark.parametrize("path", ["/derp/probe", "/derp/latency-check"])
async def test_probes(path: str, tls: Certificate | None) -> None:
    async with running_relay(tls=tls) as relay, http(relay, tls) as session:
        for method in ("GET", "HEAD"):
            async with session.request(method, path) as response:
                assert response.status == 200
                assert response.headers["Access-Control-Allow-Origin"] == "*"
                assert await response.read() == b""
        async with session.post(path) as response:
            assert response.status == 405
            assert await response.text() == "bogus probe method\n"


@pytest.mark.parametrize(
    ("challenge", "answer"),
    [
        ("ts_1.2:3-4", "response ts_1.2:3-4"),
        ("x" * 64, "response " + "x" * 64),
        ("x" * 65, None),
        ("a b", None),
        ("", None),
    ],
)
async def test_captive_portal_check(challenge: str, answer: str | None) -> None:
    async with running_relay() as relay, http(relay) as session:
        headers = {"X-Tailscale-Challenge": challenge} if challenge else {}
        async with session.get("/generate_204", headers=headers) as response:
            assert response.status == 204
            assert "no-store" in response.headers["Cache-Control"]
            assert response.headers.get("X-Tailscale-Response") == answer


@pytest.mark.parametrize("headers", [{}, {"Upgrade": "h2c", "Connection": "Upgrade"}])
async def test_derp_without_upgrade(headers: dict[str, str]) -> None:
    async with running_relay() as relay, http(relay) as session:
        async with session.get("/derp", headers=headers) as response:
            assert response.status == 426
            assert "DERP requires connection upgrade" in await response.text()
        async with session.get("/nothing") as response:
            assert response.status == 404


async def test_upgrade_on_the_wire() -> None:
    async with running_relay() as relay, RawClient(relay) as client:
        await client.send(encode_request("r", fast_start=False))
        expected = encode_response(relay.core.public_key) + frames.server_key(relay.core.public_key)
        assert await client.receive(len(expected)) == expected


async def test_upgrade_on_a_connection_that_was_used_before() -> None:
    """As a proxy does that keeps its connections."""
    async with running_relay() as relay, RawClient(relay) as client:
        await client.send(b"GET /derp/probe HTTP/1.1\r\nHost: r\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await client.receive(1)
        assert head.startswith(b"HTTP/1.1 200")
        await client.send(encode_request("r", fast_start=False))
        expected = encode_response(relay.core.public_key) + frames.server_key(relay.core.public_key)
        assert await client.receive(len(expected)) == expected
        assert len(relay.core.sessions) == 1


async def test_head_in_pieces_and_a_login_right_behind_it() -> None:
    async with running_relay() as relay, RawClient(relay) as client:
        core = ClientCore(ALICE, 0.0, entropy=zeros, server=relay.core.public_key)
        stream = encode_request("r", fast_start=True) + core.data_to_send()
        for start in range(0, len(stream), 10):
            await client.send(stream[start : start + 10])
            await asyncio.sleep(0)
        assert await client.receive(45) == frames.server_key(relay.core.public_key)
        assert (await client.receive(5))[0] == frames.FrameType.SERVER_INFO


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("", "127.0.0.1"),
        ("X-Forwarded-For: 203.0.113.9\r\n", "203.0.113.9"),
        ("X-Forwarded-For: 6.6.6.6, 2001:db8::1\r\n", "2001:db8::1"),
        ("X-Forwarded-For: nonsense\r\n", "127.0.0.1"),
    ],
)
async def test_proxy_on_this_machine_is_believed(header: str, host: str) -> None:
    async with running_relay() as relay, RawClient(relay) as client:
        core = ClientCore(ALICE, 0.0, entropy=zeros, server=relay.core.public_key)
        request = encode_request("r", fast_start=True).replace(
            b"Host: r\r\n", b"Host: r\r\n" + header.encode()
        )
        await client.send(request + core.data_to_send())
        await client.receive(60)
        (session,) = relay.core.sessions
        assert session.member is not None
        assert session.member.host == host


class BrowserClient:
    """DERP in the messages of a WebSocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.core = ClientCore(ALICE, 0.0, entropy=zeros)
        self.events: list[Event] = []

    async def until(self, condition: Callable[[Event], bool]) -> Event:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if data := self.core.data_to_send():
                    await self._socket.send_bytes(data)
                for event in self.events:
                    if condition(event):
                        return event
                message = await self._socket.receive()
                assert message.type is WSMsgType.BINARY
                self.events += self.core.receive_data(message.data, 0.0)


@on_both_loops
async def test_websocket(tls: Certificate | None) -> None:
    async with (
        running_relay(tls=tls) as relay,
        connected_client(relay.node, BOB, tls=tls) as bob,
        http(relay, tls) as session,
        session.ws_connect("/derp", protocols=["derp"]) as socket,
    ):
        assert socket.protocol == "derp"
        browser = BrowserClient(socket)
        await browser.until(lambda event: isinstance(event, Connected))
        browser.core.send_packets(BOB.public, (b"from a browser",), 0.0)
        bob.client.send_packet(ALICE.public, bytes(65536))
        event = await browser.until(lambda event: isinstance(event, PacketsReceived))
        assert event == PacketsReceived(BOB.public, [bytes(65536)])
        assert await bob.wait_for_packets(1) == [b"from a browser"]


async def test_websocket_of_a_client_that_leaves() -> None:
    async with running_relay() as relay, http(relay) as session:
        async with session.ws_connect("/derp", protocols=["derp"]) as socket:
            await BrowserClient(socket).until(lambda event: isinstance(event, Connected))
            assert relay.core.registry.local_keys == 1
        async with asyncio.timeout(PATIENCE_S):
            while relay.core.sessions:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_websocket_is_closed_by_the_relay() -> None:
    async with running_relay() as relay, http(relay) as session:
        async with session.ws_connect("/derp", protocols=["derp"]) as socket:
            await socket.send_bytes(frames.ping(bytes(8)))
            while (await socket.receive()).type is WSMsgType.BINARY:
                pass
        assert not relay.core.sessions


async def test_websocket_that_does_not_read_is_bounded() -> None:
    async with (
        running_relay() as relay,
        connected_client(relay.node, CAROL) as carol,
        http(relay) as session,
        session.ws_connect("/derp", protocols=["derp"]) as socket,
    ):
        browser = BrowserClient(socket)
        await browser.until(lambda event: isinstance(event, Connected))
        for _ in range(200):
            for _ in range(30):
                carol.client.send_packet(ALICE.public, bytes(10_000))
            await carol.client.ping()
        assert relay.core.counters.packets_dropped.total() > 1000
        (slow,) = [s for s in relay.core.sessions if s.member and s.member.key == ALICE.public.raw]
        assert relay.server._connections[slow]._transport.get_write_buffer_size() < 1024 * 1024


async def test_websocket_without_the_sub_protocol_is_refused() -> None:
    async with running_relay() as relay, http(relay) as session:
        async with session.ws_connect("/derp", protocols=["other"]) as socket:
            message = await socket.receive()
            assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
            assert socket.close_code == 1008
        assert not relay.core.sessions
