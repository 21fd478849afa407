"""What the backend needs of everything below it: the tunnel's devices and the host's network, as one thing.

`Tunnel` is the interface; the Linux one is in `meshnode.linux_tunnel`, and tests have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from meshnode.netmap.derive import Configuration, LocalFacts
from meshnode.status import Traffic
from meshproto.addresses import AddrPort
from meshproto.keys import NodePrivate, NodePublic


class TunnelError(Exception):
    """The host cannot give us what a tunnel needs. `str()` is one line for a person, with the fix."""


class Tunnel(Protocol):
    """An open tunnel: a TUN device, UDP sockets, WireGuard between them, and the host's routes and rules."""

    on_network_change: Callable[[], None]
    """Called when the host's addresses or networks have changed. Set by the backend."""

    async def configure(self, private_key: NodePrivate, wanted: Configuration) -> Sequence[str]:
        """Make it so. Returns lines about what could not be done, each with its fix."""

    def facts(self) -> LocalFacts:
        """What the host is like just now."""

    def endpoints(self) -> Sequence[AddrPort]:
        """Where peers on the same networks may reach us."""

    def traffic(self, peers: Sequence[NodePublic]) -> Mapping[NodePublic, Traffic]:
        """What went to and from these peers. Those that are not configured are left out."""

    async def close(self) -> None:
        """Undo everything."""
