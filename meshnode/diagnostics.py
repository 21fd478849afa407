"""What people ask of a running node beyond its status: pings, paths, relays, metrics."""

from __future__ import annotations

import os
from typing import Any

from meshnode.backend import Backend
from meshnode.dataplane_document import data_plane_document, with_drops
from meshnode.icmp_ping import icmp_ping
from meshnode.metrics import MetricFacts, node_metrics
from meshnode.path_document import path_document
from meshnode.pinging import Mesh, Pinger, PingType
from meshnode.status import home_region
from meshnode.tsmp import Tsmp
from meshnode.tunnel import Tunnel
from meshproto.addresses import IPAddress
from meshproto.keys import NodePublic
from meshproto.messages import DERPMap


class NothingToShow(Exception):
    """There is no such thing, or not yet. `str()` is a line for a person."""


class Diagnostics:
    """Looks at a backend and its tunnel, and changes neither."""

    def __init__(self, backend: Backend, tunnel: Tunnel, tsmp: Tsmp, interface: str) -> None:
        """`interface` is the tunnel's."""
        self._backend = backend
        self._tunnel = tunnel
        self._pinger = Pinger(tunnel, tsmp, lambda address: icmp_ping(interface, address, os.urandom))

    async def ping(self, address: IPAddress, kind: PingType, size: int) -> dict[str, Any]:
        """One ping, as a PingResult. Raises TimeoutError when no answer comes."""
        return await self._pinger.ping(
            Mesh(self._backend.network_map, self._backend.wireguard_peers), address, kind, size
        )

    def derp_map(self) -> DERPMap:
        """The relays that the coordinator offers. Raises NothingToShow."""
        network_map = self._backend.network_map
        if network_map is None:
            raise NothingToShow('no DERP map yet: this node is not connected; connect it with "meshnode up"')
        if network_map.derp_map is None or not network_map.derp_map.regions:
            raise NothingToShow("the coordinator offers no DERP relays; see derp in its configuration")
        return network_map.derp_map

    def paths(self, peer: NodePublic) -> dict[str, Any]:
        """How a peer is reached. Raises NothingToShow."""
        network_map = self._backend.network_map
        node = network_map.peer_by_key(peer) if network_map is not None else None
        if network_map is None or node is None:
            raise NothingToShow(f'no peer has the key {peer}; "meshnode status --json" lists them')
        return path_document(node, self._tunnel.path_status(peer), network_map.derp_map)

    def data_plane(self) -> dict[str, Any]:
        """What moves packets, and what went no further."""
        counters = self._tunnel.counters()
        drops = {reason.value: count for reason, count in counters.drops.items()}
        drops |= {reason.value: count for reason, count in counters.disco_drops.items()}
        return with_drops(data_plane_document(self._tunnel.offloads()), drops, counters.receive_overflow)

    def metrics(self) -> str:
        """Everything that is counted, as Prometheus reads it."""
        network_map = self._backend.network_map
        peers = [peer.key for peer in network_map.peers.values()] if network_map is not None else []
        return node_metrics(
            MetricFacts(
                counters=self._tunnel.counters(),
                prefs=self._backend.prefs,
                network_map=network_map,
                traffic=self._tunnel.traffic(peers),
                health=self._backend.health(),
                home_region=home_region(self._tunnel.net_info()),
            )
        )
