"""The public listener: what strangers, proxies and browsers get."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from datetime import UTC, datetime

import aiohttp
import pytest

from coordinator import http
from coordinator.relay_config import RelayConfig
from derp.admission import UrlVerifier
from derp.session import Admission
from meshproto.keys import MachinePrivate, NodePrivate, NodePublic
from meshproto.noise.ik import Initiator
from tests.coordinator.conftest import Server
from tests.lacking import lacking

REGISTRATION = f"hskey-authreq-{24 * 'a'}"
UPGRADE = {"Connection": "upgrade", "Upgrade": "tailscale-control-protocol"}


async def get(
    server: Server, path: str, method: str = "GET", **headers: str
) -> tuple[int, str, dict[str, str]]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(
            method, f"http://127.0.0.1:{server.coordinator.port}{path}", headers=headers
        ) as reply,
    ):
        return reply.status, await reply.text(), dict(reply.headers)


async def raw(server: Server, request: bytes) -> bytes:
    """Everything that comes back until the other end closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.coordinator.port)
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def upgrade_request(initiation: bytes) -> bytes:
    return (
        b"POST /ts2021 HTTP/1.1\r\nHost: vpn\r\nContent-Length: 0\r\nConnection: keep-alive\r\n"
        b"Upgrade: tailscale-control-protocol\r\nX-Tailscale-Handshake: "
        + base64.b64encode(initiation)
        + b"\r\n\r\n"
    )


async def test_key(server: Server) -> None:
    status, body, headers = await get(server, "/key?v=130")
    assert (status, headers["Content-Type"]) == (200, "application/json")
    document = json.loads(body)
    assert document["legacyPublicKey"] == "mkey:" + 64 * "0"
    assert document["publicKey"].startswith("mkey:")
    assert document["publicKey"] != document["legacyPublicKey"]
    assert await server.machine("x").server_key() == await server.machine("y").server_key()


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("?v=", 400), ("?v=x", 400), ("?v=-1", 400), ("?v=38", 200), (f"?v={'9' * 5000}", 400)],
)
async def test_key_for_odd_versions(server: Server, query: str, status: int) -> None:
    got, body, _ = await get(server, f"/key{query}")
    assert got == status
    assert "publicKey" not in body


async def test_the_key_stays_the_same_after_a_restart(server: Server) -> None:
    before = await get(server, "/key?v=130")
    await server.stop()
    assert server.config.private_key_file.stat().st_mode & 0o777 == 0o600
    await server.start()
    assert (await get(server, "/key?v=130"))[1] == before[1]


async def test_health_and_version(server: Server) -> None:
    status, body, headers = await get(server, "/health")
    assert (status, body) == (200, '{"status":"pass"}')
    assert headers["Content-Type"].startswith("application/health+json")
    status, body, _ = await get(server, "/version")
    assert (status, set(json.loads(body))) == (200, {"version", "python"})


async def test_small_pages(server: Server) -> None:
    assert (await get(server, "/robots.txt"))[1] == "User-agent: *\nDisallow: /\n"
    assert (await get(server, "/"))[:2] == (200, "")
    assert (await get(server, "/nonsense"))[0] == 404
    assert (await get(server, "/api/v1/user"))[0] == 404


async def test_the_registration_page_shows_the_command(server: Server) -> None:
    status, body, headers = await get(server, f"/register/{REGISTRATION}")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "<h1>Node registration</h1>" in body
    assert f"coordinator nodes register --key {REGISTRATION} --user USERNAME" in body
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "Server" not in headers


@pytest.mark.parametrize("bad", ["x", "<script>", f"{REGISTRATION}0"])
async def test_a_malformed_registration_is_not_shown(server: Server, bad: str) -> None:
    status, body, _ = await get(server, f"/register/{bad}")
    assert status == 400
    assert bad not in body


@pytest.mark.parametrize(
    ("headers", "status", "text"),
    [
        ({}, 500, "no Upgrade header"),
        ({"Connection": "upgrade", "Upgrade": "websocket"}, 400, "unknown Upgrade"),
        (UPGRADE, 400, "no X-Tailscale-Handshake"),
        (UPGRADE | {"X-Tailscale-Handshake": "???"}, 400, "not base64"),
    ],
)
async def test_upgrades_that_are_none(
    server: Server, headers: dict[str, str], status: int, text: str
) -> None:
    got, body, _ = await get(server, "/ts2021", "POST", **headers)
    assert got == status
    assert text in body


async def test_a_bad_handshake_is_answered_after_the_101(server: Server) -> None:
    stale_key = MachinePrivate.generate(os.urandom).public
    initiation = Initiator(MachinePrivate.generate(os.urandom), stale_key, 130, os.urandom).initiation()
    for handshake in (initiation, initiation[:-1]):
        head, _, rest = (await raw(server, upgrade_request(handshake))).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert rest[0] == 3


async def test_a_proxy_that_rewrites_the_connection_header_is_fine(server: Server) -> None:
    machine = server.machine("laptop")
    initiator = Initiator(machine.key, await machine.server_key(), 130, os.urandom)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.coordinator.port)
    writer.write(upgrade_request(initiator.initiation()))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    initiator.consume_response(await reader.readexactly(51))
    writer.close()
    await writer.wait_closed()


async def test_a_connection_that_says_nothing_is_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.channel.PREFACE_TIMEOUT_S", 0.3)
    machine = server.machine("silent")
    initiator = Initiator(machine.key, await machine.server_key(), 130, os.urandom)
    answer = await raw(server, upgrade_request(initiator.initiation()))
    assert answer.startswith(b"HTTP/1.1 101 ")


async def test_unknown_machine_paths_are_refused_quickly(server: Server) -> None:
    machine = server.machine("laptop")
    connection = await server.connect(machine)
    for path, method, status in [
        ("/machine/whoami", "GET", 501),
        ("/machine/set-dns", "POST", 501),
        ("/machine/update-health", "POST", 501),
        ("/machine/tka/bootstrap", "GET", 404),
        ("/machine/register", "GET", 404),
        ("/nonsense", "POST", 404),
    ]:
        reply = await connection.request(method, path)
        assert reply.status == status, path
        assert reply.body


async def test_malformed_and_outdated_requests_get_400(server: Server) -> None:
    machine = server.machine("laptop")
    connection = await server.connect(machine)
    for path in ("/machine/register", "/machine/map"):
        assert (await connection.request("POST", path, b"{")).status == 400
        reply = await connection.request("POST", path, b'{"Version":90}')
        assert reply.status == 400
        assert reply.body.startswith(b"unsupported client version")


async def test_a_failure_inside_is_a_500_and_nothing_more(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(server.state, "register", broken)
    machine = server.machine("laptop")
    connection = await server.connect(machine)
    reply = await connection.request("POST", "/machine/register", machine.register_request())
    assert (reply.status, reply.body) == (500, b"")
    assert (await connection.request("GET", "/machine/whoami")).status == 501


async def test_ipv6_is_served_too(server: Server) -> None:
    if not socket.has_ipv6:
        lacking("no IPv6 here")
    await server.stop()
    server.configure(listen_addr=type(server.config.listen_addr)("0.0.0.0", 0))
    await server.start()
    async with aiohttp.ClientSession() as session:
        for host in ("127.0.0.1", "[::1]"):
            async with session.get(f"http://{host}:{server.coordinator.port}/health") as reply:
                assert reply.status == 200


def test_the_upgrade_is_spelt_as_clients_compare_it() -> None:
    assert b"\r\nUpgrade: tailscale-control-protocol\r\n" in http._SWITCHING


# Relays.


async def post(server: Server, path: str, body: bytes) -> tuple[int, str]:
    url = f"http://127.0.0.1:{server.coordinator.port}{path}"
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as reply:
        return reply.status, await reply.text()


def question(key: NodePublic, source: str = "192.0.2.1") -> bytes:
    return json.dumps({"NodePublic": str(key), "Source": source}).encode()


async def test_relays_elsewhere_ask_whom_to_serve(server: Server) -> None:
    machine, _, _ = await server.join("laptop")
    stranger = NodePrivate.generate(os.urandom).public
    assert await post(server, "/verify", question(stranger)) == (200, '{"Allow":false}')
    assert await post(server, "/verify", question(NodePublic.zero())) == (200, '{"Allow":false}')
    assert await post(server, "/verify", question(machine.node_key)) == (200, '{"Allow":true}')
    assert await post(server, "/verify", question(machine.node_key, "2001:db8::1")) == (200, '{"Allow":true}')
    await server.state.expire_node(server.node(machine).id, datetime.now(UTC))
    assert await post(server, "/verify", question(machine.node_key)) == (200, '{"Allow":true}')
    await server.state.delete_node(server.node(machine).id)
    assert await post(server, "/verify", question(machine.node_key)) == (200, '{"Allow":false}')


async def test_questions_of_relays_that_are_none(server: Server) -> None:
    for body in (b"", b"{", b"[]", b'{"NodePublic":"x"}', b"\xff"):
        assert await post(server, "/verify", body) == (400, "Bad Request: invalid JSON\n")
    assert (await post(server, "/verify", 5000 * b" "))[0] == 413
    assert (await get(server, "/verify"))[0] == 405


async def test_our_relay_asks_a_coordinator(server: Server) -> None:
    machine, _, _ = await server.join("laptop")
    url = f"http://127.0.0.1:{server.coordinator.port}/verify"
    async with UrlVerifier.open(url, fail_open=False) as verify:
        assert await verify(Admission(machine.node_key, "192.0.2.1"))
        assert not await verify(Admission(NodePrivate.generate(os.urandom).public, "192.0.2.1"))


async def test_what_clients_measure_and_probe(server: Server) -> None:
    for path in ("/derp/probe", "/derp/latency-check"):
        for method in ("GET", "HEAD"):
            status, body, headers = await get(server, path, method)
            assert (status, body, headers["Access-Control-Allow-Origin"]) == (200, "", "*")
    status, _, headers = await get(server, "/generate_204", **{"X-Tailscale-Challenge": "ts_vpn"})
    assert (status, headers["X-Tailscale-Response"]) == (204, "response ts_vpn")
    assert (await get(server, "/derp"))[0] == 426


async def test_addresses_of_relays(server: Server) -> None:
    await server.stop()
    server.configure(server_url="http://localhost:8080")
    await server.start()
    status, body, headers = await get(server, "/bootstrap-dns?q=whatever.example")
    assert (status, headers["Content-Type"].partition(";")[0]) == (200, "application/json")
    assert "127.0.0.1" in json.loads(body)["localhost"]


async def test_without_a_relay_there_is_none_of_it(server: Server) -> None:
    await server.stop()
    server.configure(relay=RelayConfig(is_enabled=False))
    await server.start()
    for path in ("/derp", "/derp/probe", "/generate_204", "/bootstrap-dns"):
        assert (await get(server, path))[0] == 404
    machine, _, _ = await server.join("laptop")
    assert await post(server, "/verify", question(machine.node_key)) == (200, '{"Allow":true}')


async def test_figures_for_whoever_may_administer(server: Server) -> None:
    connector = aiohttp.UnixConnector(str(server.config.unix_socket))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://local/metrics") as reply,
    ):
        text = await reply.text()
    assert "derp_current_connections 0" in text
    assert 'stun_answers_total{family="ipv4"} 0' in text
    assert (await get(server, "/metrics"))[0] == 404
