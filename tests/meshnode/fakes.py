"""A tunnel that only remembers what it was told, and a coordinator in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from coordinator.app import Coordinator, running
from coordinator.config import Config, ListenAddress
from meshnode.netmap.derive import Configuration, LocalFacts
from meshnode.status import Traffic
from meshproto.addresses import AddrPort
from meshproto.keys import NodePrivate, NodePublic

ENDPOINT = AddrPort("192.0.2.7", 41641)


class FakeTunnel:
    """A `Tunnel` without devices. `problems` is what the next configurations cannot have."""

    def __init__(self) -> None:
        self.on_network_change: Callable[[], None] = lambda: None
        self.applied = Configuration()
        self.key: NodePrivate | None = None
        self.problems: tuple[str, ...] = ()
        self.local_endpoints = (ENDPOINT,)
        self.is_open = True

    async def configure(self, private_key: NodePrivate, wanted: Configuration) -> Sequence[str]:
        self.key, self.applied = private_key, wanted
        return self.problems

    def facts(self) -> LocalFacts:
        return LocalFacts(listen_port=ENDPOINT.port)

    def endpoints(self) -> Sequence[AddrPort]:
        return self.local_endpoints

    def traffic(self, peers: Sequence[NodePublic]) -> Mapping[NodePublic, Traffic]:
        return {}

    async def close(self) -> None:
        self.is_open = False


def coordinator_config(directory: Path, port: int = 0) -> Config:
    """A coordinator of its own on the loopback interface."""
    return replace(
        Config(),
        listen_addr=ListenAddress("127.0.0.1", port),
        state_dir=directory / "state",
        unix_socket=directory / "coordinator.sock",
    )


@asynccontextmanager
async def coordinator_in(directory: Path, port: int = 0) -> AsyncIterator[Coordinator]:
    """A running coordinator."""
    async with running(coordinator_config(directory, port)) as coordinator:
        yield coordinator
