"""Nodes without devices, and the coordinator they talk to, in this process."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from coordinator.app import Coordinator
from meshnode.backend import Backend
from meshnode.control.client import ControlClient
from meshnode.notifications import Notification
from meshnode.prefs import Prefs
from meshnode.state import State, StateDir
from meshproto.keys import MachinePrivate
from tests.meshnode.fakes import FakeTunnel, coordinator_in


@dataclass
class TestNode:
    """A backend with what is around it."""

    __test__ = False

    backend: Backend
    tunnel: FakeTunnel
    store: StateDir
    crashes: list[BaseException] = field(default_factory=list)
    heard: list[Notification] = field(default_factory=list)

    async def reaches(self, label: str, timeout: float = 20.0) -> None:
        """Wait for a state."""
        await wait_until(lambda: self.backend.state.label == label, timeout, lambda: self.describe(label))

    def describe(self, wanted: str) -> str:
        return (
            f"state {self.backend.state.label} instead of {wanted}; {self.backend.health()}; {self.crashes}"
        )

    async def end(self) -> None:
        """As at the end of the daemon."""
        await self.backend.close()
        self.store.close()


async def wait_until(
    condition: Callable[[], object], timeout: float = 10.0, describe: Callable[[], str] = str
) -> None:
    """Until the condition is true. Fails with the description."""
    try:
        async with asyncio.timeout(timeout):
            while not condition():  # noqa: ASYNC110 - the condition is anything at all
                await asyncio.sleep(0.01)
    except TimeoutError:
        pytest.fail(describe() or "the condition is not true in time")


NodeMaker = Callable[[str], Awaitable[TestNode]]


@pytest.fixture
async def start_node(tmp_path: Path) -> AsyncIterator[NodeMaker]:
    """Makes a node from its directory of that name: a new one, or one that was there before."""
    nodes: list[TestNode] = []

    async def start(name: str) -> TestNode:
        store = StateDir(tmp_path / name)
        state = store.load() or State(machine_key=MachinePrivate.generate(os.urandom))
        store.save(state)
        tunnel = FakeTunnel()
        crashes: list[BaseException] = []
        backend = Backend(
            store,
            state,
            tunnel,
            make_client=lambda server: ControlClient(
                server, state.machine_key, mark=lambda own: None, entropy=os.urandom
            ),
            entropy=os.urandom,
            on_crash=crashes.append,
        )
        node = TestNode(backend, tunnel, store, crashes)
        await backend.open()
        nodes.append(node)
        return node

    yield start
    for node in nodes:
        if node.tunnel.is_open:
            await node.end()
        assert not node.crashes


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[Coordinator]:
    """A running coordinator with the user ana."""
    async with coordinator_in(tmp_path / "coordinator") as coordinator:
        await coordinator.state.create_user("ana")
        yield coordinator


def url_of(coordinator: Coordinator) -> str:
    return f"http://127.0.0.1:{coordinator.port}"


def prefs_for(coordinator: Coordinator, name: str, **prefs: object) -> Prefs:
    """The preferences of `up --login-server … --hostname name`."""
    return Prefs(control_url=url_of(coordinator), hostname=name, **prefs)  # type: ignore[arg-type]


async def create_key(coordinator: Coordinator, **options: object) -> str:
    """A pre-auth key of ana."""
    arguments = {"reusable": False, "ephemeral": False, "expiration": None, "tags": ()} | options
    (user,) = coordinator.state.snapshot.users.values()
    _, secret = await coordinator.state.create_pre_auth_key(user.id, **arguments)
    return str(secret)


async def join(node: TestNode, coordinator: Coordinator, name: str, **prefs: object) -> None:
    """Log in with a fresh key and wait until the node runs."""
    await node.backend.start(prefs_for(coordinator, name, **prefs), await create_key(coordinator))
    await node.reaches("Running")
