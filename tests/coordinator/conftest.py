"""A whole coordinator in process, on real sockets, with its clocks shortened."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coordinator.app import Coordinator, running
from coordinator.config import Config
from coordinator.dns_config import DnsConfig
from coordinator.model import NodeRecord
from coordinator.relay_config import RelayConfig
from coordinator.state import State, Timings
from derp.listen import ListenAddress
from tests.coordinator.machine import Connection, Machine, Poll

FREE_PORT = ListenAddress("127.0.0.1", 0)
TIMINGS = Timings(offline_grace_s=1.0, ephemeral_timeout_s=1.5, expiry_check_s=0.1, pending_lifetime_s=60)


class Server:
    """A coordinator that a test can stop and start again, and machines that know where it is."""

    def __init__(self, directory: Path, timings: Timings = TIMINGS) -> None:
        self.timings = timings
        self.config = Config(
            server_url="http://vpn.test",
            listen_addr=ListenAddress("127.0.0.1", 0),
            state_dir=directory / "state",
            unix_socket=directory / "coordinator.sock",
            dns=DnsConfig(base_domain="mesh.test"),
            relay=RelayConfig(stun_listen_addr=FREE_PORT, stun_alternate_listen_addr=FREE_PORT),
        )
        self._running = AsyncExitStack()
        self._machines = AsyncExitStack()
        self.coordinator: Coordinator

    def configure(self, **fields: Any) -> None:
        """Other values for the next start."""
        self.config = replace(self.config, **fields)

    async def start(self) -> None:
        self.coordinator = await self._running.enter_async_context(running(self.config, self.timings))

    async def stop(self) -> None:
        await self._running.aclose()

    async def close(self) -> None:
        await self._machines.aclose()
        await self.stop()

    @property
    def state(self) -> State:
        return self.coordinator.state

    async def connect(self, machine: Machine) -> Connection:
        machine.port = self.coordinator.port
        return await self._machines.enter_async_context(machine.connect())

    def machine(self, hostname: str) -> Machine:
        return Machine(self.coordinator.port, hostname)

    async def auth_key(self, user: str = "ana", **fields: Any) -> str:
        """A new pre-auth key of the user, who is made if need be."""
        user_id = self.state.snapshot.user_ids_by_name.get(user)
        if user_id is None:
            user_id = (await self.state.create_user(user)).id
        _, text = await self.state.create_pre_auth_key(user_id, **fields)
        return text

    async def join(self, hostname: str, **fields: Any) -> tuple[Machine, Connection, Poll]:
        """A machine that is in and polls."""
        machine = self.machine(hostname)
        connection = await self.connect(machine)
        response = await machine.register(connection, await self.auth_key(**fields))
        assert not response.error, response
        await machine.report(connection)
        return machine, connection, await machine.poll(connection)

    def node(self, machine: Machine) -> NodeRecord:
        return self.state.snapshot.nodes[self.state.snapshot.node_ids_by_node_key[machine.node_key]]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    await server.start()
    yield server
    await server.close()
