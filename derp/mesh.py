"""The relays of one region: each watches who is connected to the others, and forwards packets there.

Every relay dials every other, with its own DERP key and the region's mesh key (nat-traversal reference §1.7).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from derp.client import ClientEvent, Disconnected, RelayClient
from derp.client_core import Connected, PeerGone
from derp.dial import DialOptions
from derp.frames import PeerPresent
from derp.login import ClientInfo
from derp.relay_node import RelayNode
from derp.server import RelayServer
from meshproto.keys import NodePublic

logger = logging.getLogger(__name__)


class MeshLink:
    """A link to one other relay. It tells ours whom that one can reach, and takes packets there."""

    def __init__(self, relay: RelayServer, node: RelayNode, options: DialOptions | None = None) -> None:
        core = relay.core
        self._relay = relay
        self._node = node
        self._present: set[NodePublic] = set()
        self._is_ourselves = asyncio.Event()
        info = ClientInfo(mesh_key=core.mesh_key, can_ack_pings=True)
        self._client = RelayClient(
            core.private_key, [node], self._handle, options=options, info=info, watches=True
        )

    def forward(self, source: bytes, destination: bytes, packets: Sequence[bytes]) -> None:
        """Called by our relay's registry."""
        self._client.forward_packets(source, destination, packets)

    async def run(self) -> None:
        """Keep the link up, until cancelled, or until it turns out to lead to ourselves."""
        running = asyncio.create_task(self._client.run())
        ourselves = asyncio.create_task(self._is_ourselves.wait())
        try:
            await asyncio.wait([running, ourselves], return_when=asyncio.FIRST_COMPLETED)
        finally:
            running.cancel()
            ourselves.cancel()
            await asyncio.gather(running, ourselves, return_exceptions=True)
            self._forget_everyone()

    def _handle(self, event: ClientEvent) -> None:
        registry = self._relay.core.registry
        match event:
            case Connected(server):
                self._forget_everyone()
                if server == self._relay.core.public_key:
                    logger.info("%s is this relay itself, and needs no link", self._node)
                    self._is_ourselves.set()
                else:
                    logger.info("linked to %s", self._node)
            case PeerPresent(key):
                self._present.add(key)
                registry.add_forwarder(key, self)
            case PeerGone(key):
                self._present.discard(key)
                registry.remove_forwarder(key, self)
                self._relay.flush()
            case Disconnected(reason):
                logger.info("no link: %s", reason)
                self._forget_everyone()

    def _forget_everyone(self) -> None:
        for key in self._present:
            self._relay.core.registry.remove_forwarder(key, self)
        self._present.clear()
        self._relay.flush()


async def run_mesh(
    relay: RelayServer, nodes: Sequence[RelayNode], options: DialOptions | None = None
) -> None:
    """Links to all the others of the region, until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        for node in nodes:
            tasks.create_task(MeshLink(relay, node, options).run())
