"""The relay and the STUN servers inside a running coordinator, by our own clients for them."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

from coordinator.errors import StartupError
from coordinator.relay_config import RelayConfig
from derp.client import ClientEvent, Disconnected, RelayClient
from derp.client_core import Connected, PacketsReceived, Restarting
from derp.dial import DialOptions
from derp.listen import ListenAddress
from derp.relay_node import RelayNode
from meshnode.relay_nodes import relay_nodes
from meshproto.keys import NodePrivate
from meshproto.messages import DERPMap, DERPRegion
from stun.messages import (
    BindingResponse,
    TransportAddress,
    encode_binding_request,
    parse_response_untrusted,
)
from tests.coordinator.conftest import Server
from tests.coordinator.machine import Machine

REGION = 999


class Client:
    """A relay client that remembers its events."""

    def __init__(self, key: NodePrivate, nodes: tuple[RelayNode, ...], options: DialOptions | None) -> None:
        self.events: list[ClientEvent] = []
        self._news = asyncio.Event()
        self.relay = RelayClient(key, nodes, self._on_event, options=options)

    def _on_event(self, event: ClientEvent) -> None:
        self.events.append(event)
        self._news.set()

    async def until(self, kind: type[Any]) -> Any:
        """The first event of a kind."""
        async with asyncio.timeout(10):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def relaying(
    key: NodePrivate, nodes: tuple[RelayNode, ...], options: DialOptions | None = None
) -> AsyncIterator[Client]:
    client = Client(key, nodes, options)
    task = asyncio.create_task(client.relay.run())
    try:
        yield client
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def joined(server: Server, name: str) -> tuple[Machine, DERPRegion]:
    """A machine that reaches the coordinator at an address, and the region of the relay inside."""
    machine = server.machine(name)
    connection = await server.connect(machine)
    connection.authority = f"127.0.0.1:{server.coordinator.port}"
    response = await machine.register(connection, await server.auth_key())
    assert not response.error
    poll = await machine.poll(connection)
    relays = poll.map.relays
    assert isinstance(relays, DERPMap)
    assert relays.regions is not None
    return machine, relays.regions[REGION]


@pytest.fixture
async def anywhere(server: Server) -> Server:
    """A coordinator without a URL of its own."""
    await server.stop()
    server.configure(server_url="")
    await server.start()
    return server


async def test_two_nodes_relay_over_the_coordinator(anywhere: Server) -> None:
    ana, region = await joined(anywhere, "ana")
    ben, _ = await joined(anywhere, "ben")
    nodes = relay_nodes(region)
    assert [(node.host_name, node.port, node.uses_tls) for node in nodes] == [
        ("127.0.0.1", anywhere.coordinator.port, True)
    ]
    async with relaying(ana.private_key, nodes) as one, relaying(ben.private_key, nodes) as two:
        await one.until(Connected)
        await two.until(Connected)
        one.relay.send_packet(ben.node_key, b"over the relay")
        assert await two.until(PacketsReceived) == PacketsReceived(ana.node_key, [b"over the relay"])
        await anywhere.coordinator.state.ping_database()
        stop = asyncio.create_task(anywhere.stop())
        await one.until(Restarting)
        await stop


async def test_only_nodes_may_use_the_relay(anywhere: Server) -> None:
    _, region = await joined(anywhere, "ana")
    stranger = NodePrivate.generate(os.urandom)
    async with relaying(stranger, relay_nodes(region)) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.until(Connected)
    await anywhere.stop()
    anywhere.configure(relay=replace(anywhere.config.relay, verifies_clients=False))
    await anywhere.start()
    _, region = await joined(anywhere, "ana")
    async with relaying(stranger, relay_nodes(region)) as client:
        await client.until(Connected)


async def test_a_node_that_is_removed_leaves_the_relay(anywhere: Server) -> None:
    ana, region = await joined(anywhere, "ana")
    async with relaying(ana.private_key, relay_nodes(region)) as client:
        await client.until(Connected)
        await anywhere.state.delete_node(anywhere.node(ana).id)
        await client.until(Disconnected)


async def test_maps_that_nodes_keep_stay_good(anywhere: Server) -> None:
    ana, region = await joined(anywhere, "ana")
    port = anywhere.coordinator.port
    await anywhere.stop()
    anywhere.configure(listen_addr=ListenAddress("127.0.0.1", port))
    await anywhere.start()
    async with relaying(ana.private_key, relay_nodes(region)) as client:
        await client.until(Connected)
    key_file = anywhere.config.relay_private_key_file
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600


async def test_by_name(anywhere: Server) -> None:
    """Handshakes that name a host get a certificate for it."""
    ana, region = await joined(anywhere, "ana")
    relays = anywhere.state.snapshot.settings.relays
    (named,) = relay_nodes(relays.map_for(f"http://localhost:{anywhere.coordinator.port}").regions[REGION])  # type: ignore[index]
    assert named.host_name == "localhost"
    assert named.cert_name != relay_nodes(region)[0].cert_name
    async with relaying(ana.private_key, (named,)) as client:
        await client.until(Connected)


async def ask_stun(*servers: TransportAddress, change: bool = False) -> list[TransportAddress]:
    """Ask each from one socket; where the answers came from. All have to see us as we are."""
    loop = asyncio.get_running_loop()
    sources = []
    is_ipv6 = ":" in servers[0].host
    family = socket.AF_INET6 if is_ipv6 else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as asking:
        asking.setblocking(False)
        asking.bind(("::1" if is_ipv6 else "127.0.0.1", 0))
        for server in servers:
            request = encode_binding_request(os.urandom(12), change_address=change, change_port=change)
            await loop.sock_sendto(asking, request, tuple(server))
            async with asyncio.timeout(5):
                answer, source = await loop.sock_recvfrom(asking, 2048)
            response = parse_response_untrusted(answer)
            assert isinstance(response, BindingResponse)
            assert response.mapped_address == TransportAddress(*asking.getsockname()[:2])
            sources.append(TransportAddress(*source[:2]))
    return sources


async def test_two_stun_servers(anywhere: Server) -> None:
    _, region = await joined(anywhere, "ana")
    first, second = region.nodes
    assert (first.stun_only, second.stun_only) == (False, True)
    assert first.stun_port != second.stun_port
    servers = [TransportAddress(node.ipv4, node.stun_port) for node in (first, second)]
    assert await ask_stun(*servers) == servers


async def test_one_port_for_both_families(anywhere: Server) -> None:
    await anywhere.stop()
    any_address = ListenAddress("0.0.0.0", 0)
    relay = replace(anywhere.config.relay, stun_listen_addr=any_address, stun_alternate_listen_addr=None)
    anywhere.configure(relay=relay)
    await anywhere.start()
    _, region = await joined(anywhere, "ana")
    (node,) = region.nodes
    for host in ("127.0.0.1", "::1"):
        asked = TransportAddress(host, node.stun_port)
        assert await ask_stun(asked) == [asked]


async def test_a_busy_stun_port(anywhere: Server) -> None:
    await anywhere.stop()
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as other:
        other.bind(("127.0.0.1", 0))
        taken = ListenAddress(*other.getsockname())
        for name in ("stun_listen_addr", "stun_alternate_listen_addr"):
            anywhere.configure(relay=replace(anywhere.config.relay, **{name: taken}))
            with pytest.raises(StartupError) as refused:
                await anywhere.start()
            assert str(refused.value) == (
                f"derp.server.{name} {taken} is in use by another program; "
                "stop that one, or choose another port"
            )
            free = ListenAddress("127.0.0.1", 0)
            anywhere.configure(relay=replace(anywhere.config.relay, **{name: free}))
    await anywhere.start()


async def test_no_relay(server: Server) -> None:
    await server.stop()
    server.configure(relay=RelayConfig(is_enabled=False))
    await server.start()
    _, _, poll = await server.join("ana")
    assert poll.map.relays is not None
    assert poll.map.relays.regions == {}


async def test_two_addresses_answer_for_each_other(server: Server) -> None:
    """As RFC 5780 wants it, for who asks how a NAT filters."""
    await server.stop()
    one, other = ListenAddress("127.0.0.2", free_port()), ListenAddress("127.0.0.3", free_port())
    server.configure(
        server_url="",
        relay=replace(server.config.relay, stun_listen_addr=one, stun_alternate_listen_addr=other),
    )
    await server.start()
    _, region = await joined(server, "ana")
    assert [(node.ipv4, node.stun_port) for node in region.nodes] == [
        ("127.0.0.1", one.port),
        (other.host, other.port),
    ]
    (source,) = await ask_stun(TransportAddress(one.host, one.port), change=True)
    assert source == TransportAddress(other.host, other.port)


def free_port() -> int:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_latencies_without_udp_are_measured_inside_tls(anywhere: Server) -> None:
    url = f"https://127.0.0.1:{anywhere.coordinator.port}/derp/latency-check"
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(url, ssl=False) as reply:
                assert reply.status == 200
