"""The connections of a node to DERP relays: one to its home region always, others as long as they are used.

Which region a packet goes through is the caller's choice (a peer's home, as the map says). While we have no
connection there, but one over which the peer has spoken, that one is taken (nat-traversal reference §1.10).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress

from derp.client import ClientEvent, Disconnected, RelayClient
from derp.client_core import Connected, HealthChanged, PacketsReceived, PeerGone
from derp.dial import DialOptions, MarkSocket
from derp.relay_node import RelayNode
from derp.trust import MakeContext
from meshnode.local_address import is_ours
from meshnode.relay_nodes import relay_nodes
from meshproto.keys import NodePrivate, NodePublic
from meshproto.messages import DERPMap, DERPRegion

IDLE_TIMEOUT_S = 60.0
"""A connection that is not home, and over which nothing goes and nothing comes, is closed after that."""
SWEEP_EVERY_S = 15.0
PROBLEM_AFTER_S = 2.0
"""A relay that restarts is back sooner, and nobody needs to hear of it. Nor of two connections with our key
while the relay has not noticed that the older one is dead."""
MAX_LEARNED = 4096
"""Peers of which we remember over which region they spoke."""

log = logging.getLogger(__name__)

OnPackets = Callable[[int, NodePublic, bytes, int], None]
"""Called with the region, the source, packets one behind the other, and the length of each; the last may be
shorter. A disco message is alone, and a run fits the data plane's receive buffer."""
OnPeerGone = Callable[[NodePublic, int], None]
"""Called with a peer and the region that says that the peer is not there."""


class Relays:
    """See the module. Callbacks come in the event loop, which must be running when this is made."""

    def __init__(
        self,
        *,
        on_packets: OnPackets,
        on_peer_gone: OnPeerGone,
        on_change: Callable[[], None],
        mark: MarkSocket,
        make_tls: MakeContext = ssl.create_default_context,
    ) -> None:
        """`on_change`: connected, disconnected, or another problem. `mark` is called with each new socket."""
        self.home = 0
        """The region where peers find us; 0 is none."""
        self._on_packets = on_packets
        self._on_peer_gone = on_peer_gone
        self._on_change = on_change
        self._options = DialOptions(mark=mark, make_tls=make_tls)
        self._loop = asyncio.get_running_loop()
        self._private_key: NodePrivate | None = None
        self._regions: dict[int, DERPRegion] = {}
        self._links: dict[int, _Link] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._learned: dict[NodePublic, int] = {}
        self._sweep_timer = self._loop.call_later(SWEEP_EVERY_S, self._sweep)
        self._late_change: asyncio.TimerHandle | None = None

    def configure(self, private_key: NodePrivate, derp_map: DERPMap | None) -> None:
        """Who we are, and which regions there are: None or no regions at all means none.

        Connections stay, except those of another key, or to regions that are gone or have changed.
        """
        regions = dict(derp_map.regions or {}) if derp_map is not None else {}
        has_changed = False
        is_new_key = self._private_key is None or private_key.raw != self._private_key.raw
        self._private_key = private_key
        self._regions = regions
        for region_id, link in list(self._links.items()):
            region = regions.get(region_id)
            nodes = relay_nodes(region) if region is not None else ()
            if is_new_key or nodes != link.nodes:
                has_changed = True
                self._drop(region_id)
                if nodes and not link.is_idle(self._loop.time()):
                    self._open(region_id)
        self._open_home()
        if has_changed:
            self._on_change()

    def set_home(self, region_id: int) -> None:
        """Be found in this region. The home until now stays connected while peers still come there."""
        if region_id == self.home:
            return
        before, self.home = self._links.get(self.home), region_id
        if before is not None:
            before.used(self._loop.time())
            before.client.note_preferred(False)
        if region_id in self._links:
            self._links[region_id].client.note_preferred(True)
        self._open_home()

    def send(self, region_id: int, peer: NodePublic, data: bytes | memoryview, stride: int) -> None:
        """Relay packets of `stride` bytes, of which the last may be shorter. `data` is copied.

        While there is no connection, the newest few wait for it.
        """
        link = self._links.get(region_id)
        if link is None or not link.client.is_connected:
            link = self._link_of(peer) or link or self._open(region_id)
        if link is not None:
            link.used(self._loop.time())
            packets = [data[start : start + stride] for start in range(0, len(data), stride)]
            link.client.send_packets(peer, packets)

    def heard_from_home_at(self) -> float | None:
        """When the home relay last said anything, in the event loop's time."""
        link = self._links.get(self.home)
        return None if link is None else link.client.heard_at

    def is_connected(self, region_id: int) -> bool:
        """Whether a relay of this region has accepted our login."""
        link = self._links.get(region_id)
        return link is not None and link.client.is_connected

    @property
    def connected(self) -> Sequence[int]:
        """The regions with a connection."""
        return [region_id for region_id in sorted(self._links) if self.is_connected(region_id)]

    @property
    def failed(self) -> frozenset[int]:
        """The regions that we try to reach, and have not reached for PROBLEM_AFTER_S."""
        settled = self._loop.time() - PROBLEM_AFTER_S
        return frozenset(region_id for region_id, link in self._links.items() if link.is_down_since(settled))

    def failure(self) -> str:
        """Why we cannot be reached through the home relay, or what it complains about, in a line; else ""."""
        if not self.home:
            return ""
        link = self._links.get(self.home)
        if link is None:
            return f"region {self.home}, our home, has no relay in the coordinator's map"
        name = self._regions[self.home].region_code or str(self.home)
        settled = self._loop.time() - PROBLEM_AFTER_S
        if not link.client.is_connected:
            return f'relay "{name}": {link.problem}' if link.is_down_since(settled) else ""
        if link.complaint and link.complained_at <= settled:
            return f'relay "{name}" says: {link.complaint}'
        return ""

    def network_changed(self) -> None:
        """Leave connections that are made from an address that is not ours any more; doubt the others."""
        for link in self._links.values():
            link.network_changed()

    async def close(self) -> None:
        """Leave every relay."""
        self._sweep_timer.cancel()
        if self._late_change is not None:
            self._late_change.cancel()
        for region_id in list(self._links):
            self._drop(region_id)
        if self._closing:
            await asyncio.wait(self._closing)

    # Inside.

    def _open_home(self) -> None:
        if self.home and self.home not in self._links:
            self._open(self.home)

    def _open(self, region_id: int) -> _Link | None:
        """A new connection, or None to a region that is not there."""
        region = self._regions.get(region_id)
        nodes = relay_nodes(region) if region is not None else ()
        if not nodes or self._private_key is None:
            return None
        link = _Link(
            self._private_key, nodes, self._options, lambda event: self._handle(region_id, link, event)
        )
        link.client.note_preferred(region_id == self.home)
        self._links[region_id] = link
        return link

    def _drop(self, region_id: int) -> None:
        link = self._links.pop(region_id)
        self._forget_region(region_id)
        self._closing.add(link.task)
        link.task.add_done_callback(self._closing.discard)
        link.task.cancel()

    def _link_of(self, peer: NodePublic) -> _Link | None:
        """A live connection over which the peer has spoken."""
        link = self._links.get(self._learned.get(peer, 0))
        return link if link is not None and link.client.is_connected else None

    def _handle(self, region_id: int, link: _Link, event: ClientEvent) -> None:
        if self._links.get(region_id) is not link:
            return  # it is being closed
        match event:
            case PacketsReceived(source, packets):
                link.used(self._loop.time())
                if self._learned.get(source) != region_id:
                    self._learn(source, region_id)
                if packets[0]:  # an empty one says nothing, and has no stride
                    self._on_packets(region_id, source, b"".join(packets), len(packets[0]))
            case PeerGone(key):
                if self._learned.get(key) == region_id:
                    del self._learned[key]
                self._on_peer_gone(key, region_id)
            case Connected():
                log.debug("connected to relay region %d", region_id)
                link.problem = link.complaint = ""
                self._on_change()
            case HealthChanged(problem):
                link.complaint, link.complained_at = problem, self._loop.time()
                self._told()
            case Disconnected(reason):
                log.debug("relay region %d: %s", region_id, reason)
                if not link.problem:
                    link.down_since = self._loop.time()
                link.problem = reason
                self._forget_region(region_id)
                self._told()

    def _told(self) -> None:
        """Something may be wrong: `failure` says so now or, if it lasts, when that is sure."""
        self._on_change()
        if self._late_change is None:
            self._late_change = self._loop.call_later(PROBLEM_AFTER_S + 0.01, self._tell_late)

    def _tell_late(self) -> None:
        self._late_change = None
        self._on_change()

    def _learn(self, peer: NodePublic, region_id: int) -> None:
        if len(self._learned) >= MAX_LEARNED:
            self._learned.clear()
        self._learned[peer] = region_id

    def _forget_region(self, region_id: int) -> None:
        for peer in [peer for peer, learned in self._learned.items() if learned == region_id]:
            del self._learned[peer]

    def _sweep(self) -> None:
        self._sweep_timer = self._loop.call_later(SWEEP_EVERY_S, self._sweep)
        now = self._loop.time()
        idle = [region_id for region_id, link in self._links.items() if link.is_idle(now)]
        for region_id in idle:
            if region_id != self.home:
                self._drop(region_id)
        if idle:
            self._on_change()


class _Link:
    """The connection to one region, for as long as it is wanted."""

    def __init__(
        self,
        private_key: NodePrivate,
        nodes: tuple[RelayNode, ...],
        options: DialOptions,
        on_event: Callable[[ClientEvent], None],
    ) -> None:
        self.nodes = nodes
        self.client = RelayClient(private_key, nodes, on_event, options=options)
        self.task = asyncio.get_running_loop().create_task(self._run(), name="relay connection")
        self.problem = ""
        """Why there is no connection, once one has failed."""
        self.down_since = 0.0
        self.complaint = ""
        """What the relay says is wrong."""
        self.complained_at = 0.0
        self._used_at = asyncio.get_running_loop().time()

    def used(self, now: float) -> None:
        """A packet goes or comes."""
        self._used_at = now

    def is_idle(self, now: float) -> bool:
        """Whether nothing has gone or come for IDLE_TIMEOUT_S."""
        return now - self._used_at >= IDLE_TIMEOUT_S

    def is_down_since(self, when: float) -> bool:
        """Whether there has been no connection since then."""
        return bool(self.problem) and not self.client.is_connected and self.down_since <= when

    def network_changed(self) -> None:
        """See `Relays`."""
        local = self.client.local_address
        if local is None or not is_ours(local):
            self.client.reconnect("the network has changed")
        else:
            self.client.doubt()

    async def _run(self) -> None:
        with suppress(asyncio.CancelledError):
            await self.client.run()
