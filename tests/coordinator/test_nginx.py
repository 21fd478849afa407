"""Behind a real nginx that has the TLS, with the configuration that we hand out."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import aiohttp
import pytest

from derp.client_core import Connected, PacketsReceived
from derp.dial import DialOptions
from derp.listen import ListenAddress
from meshnode.control import login
from meshnode.control.client import ControlClient
from meshnode.control.server_url import ServerURL
from meshnode.relay_nodes import relay_nodes
from meshproto.capver import CURRENT_CAPABILITY_VERSION
from meshproto.keys import MachinePrivate, NodePrivate
from meshproto.messages import COMPRESS_ZSTD, DERPRegion, Hostinfo, MapRequest
from meshproto.noise.ik import RESPONSE_SIZE, Initiator
from tests.coordinator.conftest import Server
from tests.coordinator.test_relay import relaying
from tests.derp.nginx import running_nginx
from tests.derp.relays import Certificate

CONFIGURATION = Path(__file__).parents[2] / "packaging" / "nginx" / "coordinator.conf"
HOSTINFO = Hostinfo(hostname="node", os="linux")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def adapted(certificate: Certificate, plain_port: int) -> str:
    """What we hand out, for a machine where not everything is ours: other ports, name and certificate."""
    text = CONFIGURATION.read_text()
    live = "/etc/letsencrypt/live/vpn.example.org"
    for handed_out, here in (
        ("listen 443 ssl;", "listen 127.0.0.1:%(port)d ssl;"),
        ("listen [::]:443 ssl;", ""),
        ("listen 80;", f"listen 127.0.0.1:{plain_port};"),
        ("listen [::]:80;", ""),
        ("server 127.0.0.1:8080;", "server 127.0.0.1:%(relay)d;"),
        ("server_name vpn.example.org;", "server_name localhost;"),
        (f"{live}/fullchain.pem", str(certificate.chain)),
        (f"{live}/privkey.pem", str(certificate.key)),
    ):
        assert handed_out in text
        text = text.replace(handed_out, here)
    return text


def trust() -> ssl.SSLContext:
    """Whom the environment says to trust now."""
    return ssl.create_default_context()


def a_browser() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust()))


class Site:
    """A coordinator and the nginx in front of it."""

    def __init__(self, server: Server, port: int, plain_port: int) -> None:
        self.server = server
        self.url = f"https://localhost:{port}"
        self.plain_url = f"http://localhost:{plain_port}"

    async def node(self) -> tuple[ControlClient, NodePrivate]:
        """A node that has registered."""
        client = ControlClient(
            ServerURL.parse(self.url),
            MachinePrivate.generate(os.urandom),
            mark=lambda _: None,
            entropy=os.urandom,
        )
        attempt = login.fresh(None, await self.server.auth_key(), os.urandom)
        response = await client.register(login.register_request(attempt, HOSTINFO))
        assert response.error == ""
        return client, attempt.node_key


@pytest.fixture
async def site(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    certificate = Certificate.make(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.chain))
    await server.stop()
    plain_port, behind = free_port(), free_port()
    async with running_nginx(tmp_path, adapted(certificate, plain_port), behind) as port:
        server.configure(
            server_url=f"https://localhost:{port}", listen_addr=ListenAddress("127.0.0.1", behind)
        )
        await server.start()
        yield Site(server, port, plain_port)
        await server.stop()


async def first_region(client: ControlClient, key: NodePrivate) -> DERPRegion:
    request = MapRequest(
        version=CURRENT_CAPABILITY_VERSION,
        compress=COMPRESS_ZSTD,
        keep_alive=True,
        node_key=key.public,
        hostinfo=HOSTINFO,
        stream=True,
    )
    async with asyncio.timeout(10):
        async for response in client.poll(request):
            assert response.derp_map is not None
            assert response.derp_map.regions is not None
            return response.derp_map.regions[999]
    raise AssertionError("no map")


async def test_nodes_join_and_relay_through_nginx(site: Site) -> None:
    ana, ana_key = await site.node()
    ben, ben_key = await site.node()
    region = await first_region(ana, ana_key)
    nodes = relay_nodes(region)
    assert [(f"https://{node.host_name}:{node.port}", node.cert_name) for node in nodes] == [(site.url, "")]
    options = DialOptions(make_tls=trust)
    async with relaying(ana_key, nodes, options) as one, relaying(ben_key, nodes, options) as two:
        await one.until(Connected)
        await two.until(Connected)
        one.relay.send_packet(ben_key.public, b"over nginx")
        assert await two.until(PacketsReceived) == PacketsReceived(ana_key.public, [b"over nginx"])
    await ana.close()
    await ben.close()


async def test_without_a_url_of_its_own_nginx_tells_the_coordinator_how_nodes_came(site: Site) -> None:
    await site.server.stop()
    site.server.configure(server_url="")
    await site.server.start()
    ana, ana_key = await site.node()
    nodes = relay_nodes(await first_region(ana, ana_key))
    assert [(f"https://{node.host_name}:{node.port}", node.cert_name) for node in nodes] == [(site.url, "")]
    await ana.close()


async def test_browsers(site: Site) -> None:
    """WebSockets, to the coordinator and to the relay."""
    machine = site.server.machine("browser")
    initiator = Initiator(machine.key, await machine.server_key(), 130, os.urandom)
    handshake = quote(base64.b64encode(initiator.initiation()).decode(), safe="")
    async with a_browser() as session:
        async with session.ws_connect(
            f"{site.url}/ts2021?X-Tailscale-Handshake={handshake}", protocols=["tailscale-control-protocol"]
        ) as control:
            assert len((await control.receive_bytes())[:RESPONSE_SIZE]) == RESPONSE_SIZE
        async with session.ws_connect(f"{site.url}/derp", protocols=["derp"]) as relay:
            assert b"DERP" in await relay.receive_bytes()


async def test_what_is_asked_without_an_upgrade(site: Site) -> None:
    async with a_browser() as session:
        async with session.get(f"{site.url}/derp/latency-check") as reply:
            assert reply.status == 200
        async with session.get(f"{site.plain_url}/generate_204", allow_redirects=False) as reply:
            assert reply.status == 204
        async with session.get(f"{site.plain_url}/key?v=130", allow_redirects=False) as reply:
            assert reply.status == 301
            assert reply.headers["Location"] == "https://localhost/key?v=130"
