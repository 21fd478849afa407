"""What is around a relay: admission by URL, the key file, figures."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from derp import metrics
from derp.admission import UrlVerifier
from derp.drops import DropReason, Kind
from derp.keyfile import BadKeyFile, load_or_create
from derp.relay_node import RelayNode
from derp.session import Admission
from tests.derp.keys import ALICE, BOB, RELAY
from tests.derp.relay_sim import RelaySim

ADMISSION = Admission(ALICE.public, "192.0.2.7")


@asynccontextmanager
async def coordinator(answer: web.Response | None) -> AsyncIterator[tuple[str, list[object]]]:
    """Something that answers like a coordinator's `/verify`, or never."""
    asked: list[object] = []

    async def verify(request: web.Request) -> web.Response:
        asked.append(await request.json())
        if answer is None:
            await asyncio.sleep(60)
        assert answer is not None
        return answer

    app = web.Application()
    app.router.add_post("/verify", verify)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/verify", asked
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("body", "status", "is_welcome"),
    [
        (b'{"Allow":true}', 200, True),
        (b'{"Allow":false}', 200, False),
        (b'{"Allow":"true"}', 200, False),
        (b"{}", 200, False),
        (b"[true]", 200, False),
        (b"nonsense", 200, False),
        (b'{"Allow":true}', 500, False),
    ],
)
async def test_answers_of_a_coordinator(body: bytes, status: int, is_welcome: bool) -> None:
    async with (
        coordinator(web.Response(body=body, status=status)) as (url, asked),
        UrlVerifier.open(url) as verify,
    ):
        assert await verify(ADMISSION) is is_welcome
        assert asked == [{"NodePublic": str(ALICE.public), "Source": "192.0.2.7"}]


@pytest.mark.parametrize("fail_open", [True, False])
async def test_coordinator_that_is_down(fail_open: bool) -> None:
    async with UrlVerifier.open("http://127.0.0.1:1/verify", fail_open=fail_open) as verify:
        assert await verify(ADMISSION) is fail_open


async def test_coordinator_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("derp.admission.TIMEOUT_S", 0.1)
    async with coordinator(None) as (url, _), UrlVerifier.open(url) as verify:
        assert await verify(ADMISSION)


def test_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "new" / "derper.key"
    key = load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"PrivateKey": key.to_text()}
    assert load_or_create(path) == key


def test_key_file_of_tailscales_relay(tmp_path: Path) -> None:
    path = tmp_path / "derper.key"
    path.write_text('{\n\t"PrivateKey": "' + RELAY.to_text() + '"\n}\n')
    assert load_or_create(path) == RELAY


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"PrivateKey": 1}', '{"PrivateKey": "privkey:00"}'])
def test_file_that_is_no_key_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "derper.key"
    path.write_text(text)
    with pytest.raises(BadKeyFile, match="move it away"):
        load_or_create(path)
    assert path.read_text() == text


def test_key_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadKeyFile, match="cannot"):
        load_or_create(tmp_path / "file" / "derper.key")


def test_figures() -> None:
    sim = RelaySim()
    alice = sim.log_in(ALICE)
    alice.core.note_preferred(True)
    sim.send(alice, BOB, b"packet")
    text = metrics.render(sim.core)
    assert "# TYPE derp_accepts_total counter\nderp_accepts_total 1\n" in text
    assert 'derp_packets_received_total{kind="other"} 1\n' in text
    assert 'derp_packets_dropped_total{reason="unknown_dest",kind="other"} 1\n' in text
    assert "derp_current_home_connections 1\n" in text
    assert text.count("# HELP derp_packets_received_total") == 1


def test_every_counter_is_shown() -> None:
    sim = RelaySim()
    for name in sim.core.counters.__slots__:
        if not name.endswith("_dropped"):
            setattr(sim.core.counters, name, 77_000)
    for reason in DropReason:
        sim.core.counters.drop(reason, Kind.DISCO, 10)
    text = metrics.render(sim.core)
    assert text.count(" 77000\n") == len(sim.core.counters.__slots__) - 2
    assert all(f'reason="{reason.value}"' in text for reason in DropReason)


def test_numbers_are_not_rounded() -> None:
    sim = RelaySim()
    sim.core.counters.bytes_sent = 123_456_789_012
    assert "derp_bytes_sent_total 123456789012\n" in metrics.render(sim.core)


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("relay.example.org", RelayNode("relay.example.org", 443)),
        ("relay.example.org:8443", RelayNode("relay.example.org", 8443)),
        ("https://relay.example.org/derp", RelayNode("relay.example.org", 443)),
        ("http://192.0.2.1:3340", RelayNode("192.0.2.1", 3340, uses_tls=False)),
        ("http://[::1]", RelayNode("::1", 80, uses_tls=False)),
    ],
)
def test_relays_as_people_write_them(text: str, node: RelayNode) -> None:
    assert RelayNode.parse(text) == node


@pytest.mark.parametrize("text", ["", "ftp://x", "relay:port", "http://"])
def test_not_a_relay(text: str) -> None:
    with pytest.raises(ValueError, match="is not a relay"):
        RelayNode.parse(text)


def test_host_header() -> None:
    assert RelayNode("r").host_header == "r"
    assert RelayNode("r", 80, uses_tls=False).host_header == "r"
    assert RelayNode("r", 8443).host_header == "r:8443"
    assert RelayNode("::1", 3340, uses_tls=False).host_header == "[::1]:3340"
