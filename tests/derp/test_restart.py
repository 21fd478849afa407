"""A relay, as a program, that is killed or restarts, while fifty clients are connected."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from derp.client import Disconnected
from derp.client_core import Connected, Restarting
from derp.relay_node import RelayNode
from meshproto.keys import NodePrivate
from tests.derp.relays import Certificate, RunningClient, running_client
from tests.derp.test_program import Program, running

CLIENTS = 50
SOON_S = 2.0 + 4.0
"""What is promised after the relay is back, and as much again for a machine that has other tests to run."""


@pytest.fixture
def arguments(tmp_path: Path, certificate: Certificate) -> list[str | Path]:
    """Of a relay with TLS, except for where it listens."""
    key_file = tmp_path / "derper.key"
    return ["--certificate", certificate.chain, "--certificate-key", certificate.key, "--key-file", key_file]


@asynccontextmanager
async def clients_of(node: RelayNode, tls: Certificate) -> AsyncIterator[list[RunningClient]]:
    """Many, all connected."""
    async with AsyncExitStack() as stack:
        keys = [NodePrivate.generate(os.urandom) for _ in range(CLIENTS)]
        clients = [await stack.enter_async_context(running_client(node, key, tls=tls)) for key in keys]
        for client in clients:
            await client.wait_for(Connected)
        yield clients


@asynccontextmanager
async def numbers(source: RunningClient, destination: RunningClient) -> AsyncIterator[None]:
    """Fifty packets in a second."""

    async def send() -> None:
        for number in range(100_000):
            source.send(destination, b"%d" % number)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(send())
    try:
        yield
    finally:
        task.cancel()


async def everyone_is_back(clients: list[RunningClient]) -> None:
    """Connected again, and traffic between the first two goes on."""
    async with asyncio.timeout(SOON_S):
        await clients[1].wait_for_packets(len(clients[1].packets) + 1)
        for client in clients:
            await client.wait_for(Connected)


async def start_again(arguments: list[str | Path], node: RelayNode, stack: AsyncExitStack) -> Program:
    program = await stack.enter_async_context(running("--listen", f"127.0.0.1:{node.port}", *arguments))
    await program.node()
    return program


async def test_relay_that_is_killed(arguments: list[str | Path], certificate: Certificate) -> None:
    async with AsyncExitStack() as stack:
        program = await stack.enter_async_context(running("--listen", "127.0.0.1:0", *arguments))
        node = await program.node(uses_tls=True)
        clients = await stack.enter_async_context(clients_of(node, certificate))
        await stack.enter_async_context(numbers(clients[0], clients[1]))
        for _ in range(2):
            await clients[1].wait_for_packets(len(clients[1].packets) + 1)
            await program.stop(signal.SIGKILL)
            for client in clients:
                await client.wait_for(Disconnected)
                assert not client.client.is_connected
            program = await start_again(arguments, node, stack)
            await everyone_is_back(clients)


async def test_relay_that_restarts(arguments: list[str | Path], certificate: Certificate) -> None:
    """Everyone is told, and nothing that the relay had taken is lost."""
    async with AsyncExitStack() as stack:
        program = await stack.enter_async_context(running("--listen", "127.0.0.1:0", *arguments))
        node = await program.node(uses_tls=True)
        clients = await stack.enter_async_context(clients_of(node, certificate))
        sent = [b"%d" % number for number in range(32)]
        clients[0].send(clients[1], *sent)
        await clients[0].client.ping()  # the relay has taken them
        assert await program.stop() == 0
        assert await clients[1].wait_for_packets(32) == sent
        for client in clients:
            await client.wait_for(Restarting)
            await client.wait_for(Disconnected)
        await stack.enter_async_context(numbers(clients[0], clients[1]))
        await start_again(arguments, node, stack)
        await everyone_is_back(clients)
