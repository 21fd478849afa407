"""The tunnel on Linux: TUN device, UDP sockets, WireGuard, the host's routing, and an eye on its networks."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence

from pyroute2 import NetlinkError

from meshnode.config import DaemonConfig
from meshnode.connectivity import Connectivity
from meshnode.dataplane import segments_per_unit
from meshnode.dataplane_document import Offloads
from meshnode.disco.context import Settings
from meshnode.disco.destinations import AuxPath, DerpDestination, RelayPath, address_of
from meshnode.disco.endpoints import Endpoint
from meshnode.disco.events import Event as PathEvent
from meshnode.disco.events import PathChanged, PongReceived
from meshnode.disco.manager import Manager
from meshnode.disco.status import PathStatus
from meshnode.engine.engine import Engine
from meshnode.engine.tun import Tun
from meshnode.engine.udp import UdpPortInUse, UdpSockets, UdpUnavailable
from meshnode.engine.wire import PathCounts
from meshnode.linux.errors import RouterError
from meshnode.linux.marks import FWMARK
from meshnode.linux.netmon import NetworkMonitor
from meshnode.linux.netstate import NetworkState
from meshnode.linux.router import LinuxRouter
from meshnode.linux.tun_device import TunError, limit_segments, open_tun
from meshnode.netcheck_runner import NetcheckRunner
from meshnode.netmap.derive import Configuration, LocalFacts
from meshnode.portmap import PortMapper
from meshnode.relays import Relays
from meshnode.status import Counters, Flow, Traffic, Way
from meshnode.tunnel import TunnelError
from meshnode.wireguard import Device, Event, HandshakeCompleted
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPrivate, NodePrivate, NodePublic
from meshproto.messages import NetInfo

PING_TIMEOUT_S = 5.0

log = logging.getLogger(__name__)


class LinuxTunnel:
    """A `Tunnel`. Open it with `open`."""

    def __init__(self, config: DaemonConfig, engine: Engine, router: LinuxRouter) -> None:
        self.on_network_change: Callable[[], None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None
        self.disco_key = engine.paths.disco_key
        self._config = config
        self._engine = engine
        self._router = router
        self._pings: dict[bytes, asyncio.Future[PongReceived]] = {}
        self._handshakes = 0
        self._path_changes = 0
        self._relays = Relays(
            on_packets=engine.receive_relayed,
            on_peer_gone=self._peer_gone,
            on_change=self._relays_changed,
            mark=mark_socket,
        )
        netchecker = NetcheckRunner(engine.send_stun, mark=mark_socket, entropy=os.urandom)
        self._connectivity = Connectivity(
            engine,
            self._relays,
            netchecker,
            PortMapper(mark=mark_socket, entropy=os.urandom, on_change=self._port_mapped),
            is_port_fixed=config.port != 0,
            maps_port=config.port_mapping,
            on_change=lambda: self.on_change(),
        )
        engine.on_stun = netchecker.receive
        engine.on_event = self._count_event
        engine.on_path_event = self._path_event
        engine.use_relays(self._relays.send)
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
        paths = Manager(
            DiscoPrivate.generate(os.urandom),
            private_key.public,
            entropy=os.urandom,
            settings=Settings(probe_mtu=True, spray=config.spray),
        )
        engine = Engine(device, paths, tun, udp, loop)
        engine.on_tun_gone = on_gone
        tunnel = cls(config, engine, LinuxRouter(config.tun, config.state_dir))
        try:
            await tunnel._monitor.start()
        except (OSError, NetlinkError) as error:
            await tunnel.close()
            raise TunnelError(f"the state of this host's network cannot be read: {error}") from error
        engine.start()
        tunnel._connectivity.start(tunnel._monitor.state)
        return tunnel

    async def configure(self, private_key: NodePrivate, wanted: Configuration) -> Sequence[str]:
        """See Tunnel."""
        self._connectivity.configure(private_key, wanted.derp_map)
        self._engine.configure(private_key, wanted.peers, wanted.paths)
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
        return self._connectivity.endpoints

    def net_info(self) -> NetInfo | None:
        """See Tunnel."""
        return self._connectivity.net_info

    def relay_problem(self) -> str:
        """See Tunnel."""
        return self._relays.failure()

    def path_status(self, peer: NodePublic) -> PathStatus | None:
        """See Tunnel."""
        try:
            return self._engine.paths.status(peer, time.monotonic())
        except KeyError:
            return None

    async def ping(self, peer: NodePublic, size: int = 0) -> PongReceived:
        """See Tunnel."""
        answered: asyncio.Future[PongReceived] = asyncio.get_running_loop().create_future()
        with self._engine.turn() as now:
            asked = self._engine.paths.ping(peer, size, now)
            self._pings |= dict.fromkeys(asked, answered)
        try:
            async with asyncio.timeout(PING_TIMEOUT_S):
                return await answered
        finally:
            for tx_id in asked:
                self._pings.pop(tx_id, None)

    def counters(self) -> Counters:
        """See Tunnel."""
        engine = self._engine
        return Counters(
            inbound=_flows(engine.received),
            outbound=_flows(engine.sent),
            drops=engine.drops,
            disco_drops=engine.paths.drops,
            receive_overflow=engine.receive_overflow,
            handshakes=self._handshakes,
            path_changes=self._path_changes,
        )

    def offloads(self) -> Offloads:
        """See Tunnel."""
        return self._engine.offloads

    def traffic(self, peers: Sequence[NodePublic]) -> Mapping[NodePublic, Traffic]:
        """See Tunnel."""
        configured = set(self._engine.device.peers)
        return {peer: self._traffic_of(peer) for peer in peers if peer in configured}

    async def close(self) -> None:
        """See Tunnel."""
        await self._monitor.close()
        await self._connectivity.close()
        try:
            await self._router.close()
        except RouterError as error:
            for problem in error.problems:
                log.error("%s", problem)
        await self._engine.close()

    def _traffic_of(self, peer: NodePublic) -> Traffic:
        stats = self._engine.device.stats(peer)
        now = time.monotonic()
        via = self._engine.paths.confirmed(peer)
        return Traffic(
            rx_bytes=stats.rx_bytes,
            tx_bytes=stats.tx_bytes,
            last_handshake=stats.last_handshake_wall,
            sent_ago_s=None if stats.last_sent is None else now - stats.last_sent,
            address=address_of(via) if isinstance(via, AddrPort | AuxPath) else None,
            relay=via.region_id if isinstance(via, DerpDestination) else 0,
            peer_relay=str(via) if isinstance(via, RelayPath) else "",
        )

    # --- what the parts tell ---

    def _network_changed(self, state: NetworkState) -> None:
        log.info("the host's networks have changed: %s", ", ".join(map(str, state.endpoints)) or "no address")
        self._connectivity.network_changed(state)
        self.on_network_change()

    def _peer_gone(self, peer: NodePublic, region_id: int) -> None:
        with self._engine.turn():
            self._engine.paths.gone_from(peer, region_id)

    def _relays_changed(self) -> None:
        self._connectivity.relays_changed()

    def _port_mapped(self) -> None:
        self._connectivity.port_mapped()

    def _count_event(self, event: Event) -> None:
        if isinstance(event, HandshakeCompleted):
            self._handshakes += 1

    def _path_event(self, event: PathEvent) -> None:
        self._connectivity.on_path_event(event)
        if isinstance(event, PathChanged):
            self._path_changes += 1
        elif isinstance(event, PongReceived):
            waiting = self._pings.pop(event.tx_id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(event)


def mark_socket(own: socket.socket) -> None:
    """Keep our own traffic out of every tunnel."""
    own.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, FWMARK)


def _flows(counts: PathCounts) -> dict[Way, Flow]:
    return {Way(kind): Flow(counts.packets[kind], counts.bytes[kind]) for kind in counts.bytes}
