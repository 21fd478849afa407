"""What the backend needs of everything below it: the tunnel's devices and the host's network, as one thing.

`Tunnel` is the interface; the Linux one is in `meshnode.linux_tunnel`, and tests have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from meshnode.dataplane_document import Offloads
from meshnode.disco.endpoints import Endpoint
from meshnode.disco.events import PongReceived
from meshnode.disco.status import PathStatus
from meshnode.netmap.derive import Configuration, LocalFacts
from meshnode.status import Counters, Traffic
from meshproto.keys import DiscoPublic, NodePrivate, NodePublic
from meshproto.messages import NetInfo


class TunnelError(Exception):
    """The host cannot give us what a tunnel needs. `str()` is one line for a person, with the fix."""


class Tunnel(Protocol):
    """An open tunnel: TUN device, sockets and relays, WireGuard between them, the host's routes and rules."""

    disco_key: DiscoPublic
    """Ours, another one for each run: the coordinator passes it on to peers."""
    on_network_change: Callable[[], None]
    """Called when the host's addresses or networks have changed. Set by the backend."""
    on_change: Callable[[], None]
    """Called when what the coordinator is to know has changed: endpoints or NetInfo. Set by the backend."""

    async def configure(self, private_key: NodePrivate, wanted: Configuration) -> Sequence[str]:
        """Make it so. Returns lines about what could not be done, each with its fix."""

    def facts(self) -> LocalFacts:
        """What the host is like just now."""

    def endpoints(self) -> Sequence[Endpoint]:
        """Where peers may reach us, best first."""

    def net_info(self) -> NetInfo | None:
        """What the last netcheck found out, the home region included. None before the first one."""

    def relay_problem(self) -> str:
        """Why the home relay cannot be reached, as one line for a person; empty when all is well."""

    def traffic(self, peers: Sequence[NodePublic]) -> Mapping[NodePublic, Traffic]:
        """What went to and from these peers. Those that are not configured are left out."""

    def counters(self) -> Counters:
        """What has been counted since the start, for metrics."""

    def offloads(self) -> Offloads:
        """What the tunnel device and the sockets can do in one piece, just now."""

    def path_status(self, peer: NodePublic) -> PathStatus | None:
        """How `peer` is reached and why. None for one that is not configured or does not speak disco."""

    async def ping(self, peer: NodePublic, size: int = 0) -> PongReceived:
        """Send one disco ping, of `size` bytes of UDP payload where that is more than the smallest one.

        Raises TimeoutError when no pong came in 5 s, KeyError for a peer that is not configured or does not
        speak disco.
        """

    async def close(self) -> None:
        """Undo everything."""
