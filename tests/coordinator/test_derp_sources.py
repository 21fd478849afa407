"""Maps of other relays: files, URLs, and what happens when they cannot be had."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from coordinator import derp_sources
from coordinator.app import check
from coordinator.config import Config
from coordinator.derp_sources import DerpSources
from coordinator.errors import StartupError
from coordinator.relay_config import RelayConfig
from meshproto.messages import DERPMap
from tests.coordinator.conftest import Server


def region(number: int, host: str) -> dict[str, Any]:
    nodes = [{"Name": f"{number}a", "RegionID": number, "HostName": host}]
    return {"RegionID": number, "RegionCode": host, "RegionName": host, "Nodes": nodes}


def document(**hosts: str) -> bytes:
    regions = {name[1:]: region(int(name[1:]), host) for name, host in hosts.items()}
    return json.dumps({"Regions": regions}).encode()


def hosts(derp_map: DERPMap) -> dict[int, str]:
    return {number: one.nodes[0].host_name for number, one in (derp_map.regions or {}).items()}


class Site:
    """A web server with one map, or trouble instead."""

    def __init__(self) -> None:
        self.body = document(r1="one.example")
        self.status = 200
        self.url = ""

    async def handle(self, _request: web.Request) -> web.Response:
        return web.Response(body=self.body, status=self.status)


@asynccontextmanager
async def serving(site: Site) -> AsyncIterator[Site]:
    app = web.Application()
    app.router.add_get("/map.json", site.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        site.url = f"http://{host}:{port}/map.json"
        yield site
    finally:
        await runner.cleanup()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving(Site()) as running:
        yield running


@pytest.fixture(autouse=True)
def in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derp_sources, "FIRST_RETRY_S", 0.02)
    monkeypatch.setattr(derp_sources, "LAST_RETRY_S", 0.05)


class Published:
    """What nodes would be told."""

    def __init__(self) -> None:
        self.maps: list[DERPMap] = []
        self._news = asyncio.Event()

    async def __call__(self, derp_map: DERPMap) -> None:
        self.maps.append(derp_map)
        self._news.set()

    async def until(self, condition: Callable[[DERPMap], bool]) -> None:
        async with asyncio.timeout(10):
            while not (self.maps and condition(self.maps[-1])):
                self._news.clear()
                await self._news.wait()


async def test_urls_are_read_again_and_survive_trouble(tmp_path: Path, site: Site) -> None:
    config = RelayConfig(urls=(site.url,))
    published = Published()
    site.status = 503
    sources = DerpSources(config, tmp_path)
    assert hosts(sources.derp_map) == {}
    async with sources.kept_up_to_date(published):
        await asyncio.sleep(0.1)
        assert not published.maps
        site.status = 200
        await published.until(lambda one: hosts(one) == {1: "one.example"})
    # Without a network: what was read last.
    site.body = b"{"
    sources = DerpSources(config, tmp_path)
    assert hosts(sources.derp_map) == {1: "one.example"}
    async with sources.kept_up_to_date(published):
        await asyncio.sleep(0.1)
        assert hosts(sources.derp_map) == {1: "one.example"}
        site.body = document(r1="new.example", r2="two.example")
        await published.until(lambda one: hosts(one) == {1: "new.example", 2: "two.example"})
    assert len(published.maps) == 2
    (kept,) = tmp_path.iterdir()  # noqa: ASYNC240
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"Regions":{"x":1}}', 5 * 1024 * 1024 * b" "])
async def test_what_is_no_map_changes_nothing(tmp_path: Path, site: Site, body: bytes) -> None:
    published = Published()
    sources = DerpSources(RelayConfig(urls=(site.url,)), tmp_path)
    async with sources.kept_up_to_date(published):
        await published.until(lambda one: hosts(one) == {1: "one.example"})
    site.body = body
    async with sources.kept_up_to_date(published):
        await asyncio.sleep(0.1)
    assert hosts(sources.derp_map) == {1: "one.example"}
    assert hosts(DerpSources(RelayConfig(urls=(site.url,)), tmp_path).derp_map) == {1: "one.example"}


async def test_files_win_over_urls(tmp_path: Path, site: Site) -> None:
    file = tmp_path / "relays.yaml"
    file.write_text("regions: {1: {nodes: [{hostname: file.example}]}, 3: {nodes: [{hostname: c}]}}")
    site.body = document(r1="one.example", r2="two.example")
    published = Published()
    sources = DerpSources(RelayConfig(urls=(site.url,), paths=(file,)), tmp_path / "state")
    async with sources.kept_up_to_date(published):
        await published.until(lambda one: hosts(one) == {1: "file.example", 2: "two.example", 3: "c"})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("regions: 1", "is not a DERP map: regions: expected a map of regions by id"),
        ("a: [", ", line 1 is not YAML"),
        (None, ": No such file or directory"),
    ],
)
def test_a_file_that_is_no_map_is_told_at_start(tmp_path: Path, text: str | None, problem: str) -> None:
    file = tmp_path / "relays.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(StartupError) as refused:
        check(Config(state_dir=tmp_path, relay=RelayConfig(paths=(file,))))
    assert str(refused.value) == f"derp.paths: {file}{' ' if problem.startswith('is') else ''}{problem}"


async def test_nodes_are_told_of_changes(server: Server, site: Site) -> None:
    site.status = 503
    await server.stop()
    server.configure(relay=RelayConfig(is_enabled=False, urls=(site.url,)))
    await server.start()
    _, _, poll = await server.join("laptop")
    assert poll.map.relays is not None
    assert hosts(poll.map.relays) == {}
    site.status = 200
    await poll.until(lambda map: hosts(map.relays) == {1: "one.example"})
    _, _, other = await server.join("desktop")
    assert other.map.relays == poll.map.relays
