"""Two relays of one region, and clients at either."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from derp.client_core import PeerGone
from derp.dial import DialOptions
from derp.frames import PeerGoneReason
from derp.mesh import MeshLink, run_mesh
from meshproto.keys import NodePrivate
from tests.derp.keys import ALICE, BOB, RELAY
from tests.derp.relay_sim import DISCO
from tests.derp.relays import RunningRelay, connected_client, running_relay, until

OTHER = NodePrivate(bytes(range(7, 39)))
DIRECTLY = DialOptions(use_proxy=False)


@asynccontextmanager
async def linked(relay: RunningRelay, other: RunningRelay) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(run_mesh(relay.server, [other.node], DIRECTLY))
    try:
        await until(lambda: other.core.registry.watchers > 0)
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def region() -> AsyncIterator[tuple[RunningRelay, RunningRelay]]:
    async with (
        running_relay(key=RELAY) as first,
        running_relay(key=OTHER) as second,
        linked(first, second),
        linked(second, first),
    ):
        yield first, second


async def test_packets_cross() -> None:
    async with region() as (first, second), AsyncExitStack() as clients:
        alice = await clients.enter_async_context(connected_client(first.node, ALICE))
        bob = await clients.enter_async_context(connected_client(second.node, BOB))
        await until(lambda: first.core.registry.remote_keys == second.core.registry.remote_keys == 2)
        alice.send(bob, b"over there", DISCO)
        bob.send(alice, b"and back")
        assert await bob.wait_for_packets(2) == [b"over there", DISCO]
        assert await alice.wait_for_packets(1) == [b"and back"]
        assert bob.packets[0][0] == ALICE.public
        assert first.core.counters.packets_forwarded_out == 2
        assert second.core.counters.packets_forwarded_in == 2


async def test_peer_that_leaves_the_other_relay() -> None:
    async with region() as (first, second), connected_client(first.node, ALICE) as alice:
        async with connected_client(second.node, BOB) as bob:
            await until(lambda: second.core.registry.remote_keys == 2)
            bob.send(alice, b"packet")
            await alice.wait_for_packets(1)
        assert await alice.wait_for(PeerGone) == PeerGone(BOB.public, PeerGoneReason.DISCONNECTED)


async def test_link_that_breaks_takes_everyone_with_it_and_comes_back() -> None:
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(running_relay(key=RELAY))
        alice = await stack.enter_async_context(connected_client(first.node, ALICE))
        async with running_relay(key=OTHER) as second:
            await stack.enter_async_context(linked(first, second))
            async with connected_client(second.node, BOB):
                await until(lambda: first.core.registry.remote_keys == 2)
        await until(lambda: first.core.registry.remote_keys == 0)
        await stack.enter_async_context(running_relay(key=OTHER, port=second.node.port))
        bob = await stack.enter_async_context(connected_client(second.node, BOB))
        await until(lambda: first.core.registry.remote_keys == 2)
        alice.send(bob, b"packet")
        assert await bob.wait_for_packets(1) == [b"packet"]


async def test_link_to_ourselves_ends() -> None:
    async with running_relay() as relay:
        link = MeshLink(relay.server, relay.node, DIRECTLY)
        await asyncio.wait_for(link.run(), 10)
        assert relay.core.registry.remote_keys == 0
        await until(lambda: not relay.core.sessions)
