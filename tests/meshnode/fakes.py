"""A tunnel that only remembers what it was told, and a coordinator in this process."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from coordinator.app import Coordinator, running
from coordinator.config import Config
from coordinator.relay_config import RelayConfig
from derp.listen import ListenAddress
from meshnode.dataplane_document import Offloads
from meshnode.disco.endpoints import Endpoint, EndpointType
from meshnode.disco.events import PongReceived
from meshnode.disco.status import PathStatus
from meshnode.netmap.derive import Configuration, LocalFacts
from meshnode.status import Counters, Traffic
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPrivate, DiscoPublic, NodePrivate, NodePublic
from meshproto.messages import NetInfo

ENDPOINT = AddrPort("192.0.2.7", 41641)


class FakeTunnel:
    """A `Tunnel` without devices. `problems` is what the next configurations cannot have.

    What it answers is what a test has put into it.
    """

    def __init__(self) -> None:
        self.disco_key: DiscoPublic = DiscoPrivate.generate(os.urandom).public
        self.on_change: Callable[[], None] = lambda: None
        self.on_network_change: Callable[[], None] = lambda: None
        self.applied = Configuration()
        self.key: NodePrivate | None = None
        self.problems: tuple[str, ...] = ()
        self.known_endpoints = (Endpoint(ENDPOINT, EndpointType.LOCAL),)
        self.known_net_info: NetInfo | None = None
        self.problem_of_relay = ""
        self.known_traffic: dict[NodePublic, Traffic] = {}
        self.known_paths: dict[NodePublic, PathStatus] = {}
        self.pongs: dict[NodePublic, PongReceived] = {}
        self.counted = Counters()
        self.is_open = True

    async def configure(self, private_key: NodePrivate, wanted: Configuration) -> Sequence[str]:
        self.key, self.applied = private_key, wanted
        return self.problems

    def facts(self) -> LocalFacts:
        return LocalFacts(listen_port=ENDPOINT.port)

    def endpoints(self) -> Sequence[Endpoint]:
        return self.known_endpoints

    def net_info(self) -> NetInfo | None:
        return self.known_net_info

    def relay_problem(self) -> str:
        return self.problem_of_relay

    def traffic(self, peers: Sequence[NodePublic]) -> Mapping[NodePublic, Traffic]:
        return {peer: traffic for peer, traffic in self.known_traffic.items() if peer in peers}

    def counters(self) -> Counters:
        return self.counted

    def offloads(self) -> Offloads:
        return Offloads(tun_tcp=True, merge_tcp=True, udp_gso=True)

    def path_status(self, peer: NodePublic) -> PathStatus | None:
        return self.known_paths.get(peer)

    async def ping(self, peer: NodePublic, size: int = 0) -> PongReceived:
        """The pong that is kept for the peer. None is kept: it does not answer."""
        if peer not in self.known_paths:
            raise KeyError(peer)
        if peer not in self.pongs:
            raise TimeoutError
        return self.pongs[peer]

    async def close(self) -> None:
        self.is_open = False


def coordinator_config(directory: Path, port: int = 0) -> Config:
    """A coordinator of its own on the loopback interface."""
    return replace(
        Config(),
        listen_addr=ListenAddress("127.0.0.1", port),
        state_dir=directory / "state",
        unix_socket=directory / "coordinator.sock",
        relay=RelayConfig(
            stun_listen_addr=ListenAddress("127.0.0.1", 0),
            stun_alternate_listen_addr=ListenAddress("127.0.0.1", 0),
        ),
    )


@asynccontextmanager
async def coordinator_in(directory: Path, port: int = 0) -> AsyncIterator[Coordinator]:
    """A running coordinator."""
    async with running(coordinator_config(directory, port)) as coordinator:
        yield coordinator
