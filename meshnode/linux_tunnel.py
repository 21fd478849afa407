"""The tunnel on Linux: TUN device, UDP sockets, WireGuard, the host's routing, and an eye on its networks."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence

from pyroute2 import NetlinkError

from meshnode.config import DaemonConfig
from meshnode.dataplane import segments_per_unit
from meshnode.disco.endpoints import Endpoint, EndpointType
from meshnode.engine.engine import Engine
from meshnode.engine.tun import Tun
from meshnode.engine.udp import UdpPortInUse, UdpSockets, UdpUnavailable
from meshnode.linux.errors import RouterError
from meshnode.linux.marks import FWMARK
from meshnode.linux.netmon import NetworkMonitor
from meshnode.linux.netstate import NetworkState
from meshnode.linux.router import LinuxRouter
from meshnode.linux.tun_device import TunError, limit_segments, open_tun
from meshnode.netmap.derive import Configuration, LocalFacts
from meshnode.paths import CandidatePaths
from meshnode.status import Traffic
from meshnode.tunnel import TunnelError
from meshnode.wireguard import Device
from meshproto.addresses import AddrPort
from meshproto.keys import NodePrivate, NodePublic

log = logging.getLogger(__name__)


class LinuxTunnel:
    """A `Tunnel`. Open it with `open`."""

    def __init__(self, config: DaemonConfig, engine: Engine, router: LinuxRouter) -> None:
        self.on_network_change: Callable[[], None] = lambda: None
        self._config = config
        self._engine = engine
        self._router = router
        self._monitor = NetworkMonitor(
            config.tun, on_change=self._network_changed, on_disturbed=router.repair
        )

    @classmethod
    async def open(
        cls, config: DaemonConfig, private_key: NodePrivate, on_gone: Callable[[], None]
    ) -> LinuxTunnel:
        """Make the interface and the sockets. `on_gone` is called when the interface is deleted under us.

        Raises TunnelError, and nothing is left open.
        """
        loop = asyncio.get_running_loop()
        try:
            udp = UdpSockets.open(config.port, fwmark=FWMARK)
        except UdpPortInUse as error:
            raise TunnelError(f"{error} (flag --port)") from error
        except UdpUnavailable as error:
            raise TunnelError(str(error)) from error
        try:
            tun = Tun(open_tun(config.tun))
        except TunError as error:
            udp.close()
            raise TunnelError(f"{error} (flag --tun)" if "name" in str(error) else str(error)) from error
        limit_segments(tun.name, segments_per_unit(config.mtu))
        device = Device(private_key, entropy=os.urandom, wall=time.time, mtu=config.mtu)
        engine = Engine(device, CandidatePaths(), tun, udp, loop)
        engine.on_tun_gone = on_gone
        tunnel = cls(config, engine, LinuxRouter(config.tun, config.state_dir))
        try:
            await tunnel._monitor.start()
        except (OSError, NetlinkError) as error:
            await tunnel.close()
            raise TunnelError(f"the state of this host's network cannot be read: {error}") from error
        engine.start()
        return tunnel

    async def configure(self, private_key: NodePrivate, wanted: Configuration) -> Sequence[str]:
        """See Tunnel."""
        self._engine.configure(private_key, wanted.peers, wanted.candidates)
        try:
            return await self._router.set(wanted.router)
        except RouterError as error:
            for problem in error.problems:
                log.error("%s", problem)
            return [str(problem) for problem in error.problems]

    def facts(self) -> LocalFacts:
        """See Tunnel."""
        return LocalFacts(
            lan_prefixes=self._monitor.state.lan_prefixes,
            mtu=self._config.mtu,
            listen_port=self._engine.local_port,
        )

    def endpoints(self) -> Sequence[Endpoint]:
        """See Tunnel."""
        port = self._engine.local_port
        return [
            Endpoint(AddrPort(str(address), port), EndpointType.LOCAL)
            for address in self._monitor.state.endpoints
        ]

    def traffic(self, peers: Sequence[NodePublic]) -> Mapping[NodePublic, Traffic]:
        """See Tunnel."""
        configured = set(self._engine.device.peers)
        return {peer: self._traffic_of(peer) for peer in peers if peer in configured}

    async def close(self) -> None:
        """See Tunnel."""
        await self._monitor.close()
        try:
            await self._router.close()
        except RouterError as error:
            for problem in error.problems:
                log.error("%s", problem)
        await self._engine.close()

    def _traffic_of(self, peer: NodePublic) -> Traffic:
        stats = self._engine.device.stats(peer)
        now = asyncio.get_running_loop().time()
        return Traffic(
            rx_bytes=stats.rx_bytes,
            tx_bytes=stats.tx_bytes,
            last_handshake=stats.last_handshake_wall,
            sent_ago_s=None if stats.last_sent is None else now - stats.last_sent,
            address=self._engine.paths.confirmed(peer),
        )

    def _network_changed(self, state: NetworkState) -> None:
        log.info("the host's networks have changed: %s", ", ".join(map(str, state.endpoints)) or "no address")
        self.on_network_change()
