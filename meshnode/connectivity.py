"""Keeps this node reachable: measures its network, holds its home relay, and says where it can be reached.

One task measures at a time: when the map or the network changes, when path discovery wants fresh endpoints,
when the home relay is lost, and every 20 to 26 s while anybody talks to us, because NATs forget after 30 s.
A node that nobody talks to is silent; its home relay brings it the first packet, and that wakes the rest.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final

import msgspec

from meshnode.disco.endpoints import Endpoint, EndpointBook
from meshnode.disco.events import EndpointsWanted
from meshnode.disco.events import Event as PathEvent
from meshnode.engine.engine import Engine
from meshnode.linux.netstate import NetworkState
from meshnode.netcheck.home import HomeChooser
from meshnode.netcheck.plan import FULL_INTERVAL
from meshnode.netcheck.report import Report
from meshnode.netcheck_runner import NetcheckRunner
from meshnode.portmap import PortMapper, Probed
from meshnode.relays import Relays
from meshproto.addresses import AddrPort
from meshproto.keys import NodePrivate
from meshproto.messages import DERPMap, DERPRegion, NetInfo

RESTUN_MIN_S: Final = 20.0
RESTUN_MAX_S: Final = 26.0
"""Between measurements while anybody talks to us (reference §5.1)."""
MIN_GAP_S: Final = 1.0
"""Between two measurements, whoever asks."""

log = logging.getLogger(__name__)


class Connectivity:
    """All methods are to be called from the loop's thread."""

    def __init__(
        self,
        engine: Engine,
        relays: Relays,
        netchecker: NetcheckRunner,
        port_mapper: PortMapper,
        *,
        is_port_fixed: bool,
        maps_port: bool,
        on_change: Callable[[], None],
    ) -> None:
        """`maps_port`: whether the port mapper is to do more than look.

        `on_change` is called when `endpoints` or `net_info` are others than before, latencies aside.
        """
        self.endpoints: tuple[Endpoint, ...] = ()
        """Where peers may reach us, best first."""
        self.net_info: NetInfo | None = None
        """What the last measurement found out. None before the first one."""
        self._engine = engine
        self._relays = relays
        self._netchecker = netchecker
        self._port_mapper = port_mapper
        self._is_port_fixed = is_port_fixed
        self._mapped_port = engine.local_port if maps_port else 0
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._network = NetworkState()
        self._derp_map: DERPMap | None = None
        self._node_key: NodePrivate | None = None
        self._report: Report | None = None
        self._full_at: float | None = None
        self._book = EndpointBook()
        self._home = HomeChooser()
        self._wanted = asyncio.Event()
        self._port_mappers = Probed()
        self._mapper_search: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None

    # --- what is known from elsewhere ---

    def start(self, network: NetworkState) -> None:
        """Begin."""
        self._network = network
        self._configure_port_mapper()
        self._publish()
        self._task = asyncio.create_task(self._measure_on_and_on(), name="connectivity")

    async def close(self) -> None:
        """Stop measuring, release what was mapped, and leave the relays."""
        if self._task is not None:
            self._task.cancel()
            self._mapper_search.cancel()
            await asyncio.gather(self._task, self._mapper_search, return_exceptions=True)
        await self._port_mapper.close()
        await self._relays.close()

    def configure(self, private_key: NodePrivate, derp_map: DERPMap | None) -> None:
        """Who we are, and the relays that we may use; None: none, and nothing is measured."""
        self._relays.configure(private_key, derp_map)
        self._node_key = private_key
        if derp_map == self._derp_map:
            return
        self._derp_map = derp_map
        self._full_at = None
        regions = self._regions()
        if self._relays.home not in regions:
            # One region needs no measurement; with more, it is worth half a second to choose well.
            self._go_home(next(iter(regions)) if len(regions) == 1 else 0)
        self._wanted.set()

    def network_changed(self, network: NetworkState) -> None:
        """The host's addresses or routes are others."""
        before, self._network = self._network, network
        if (before.endpoints, before.default_routes) == (network.endpoints, network.default_routes):
            return
        self._book.forget()
        self._home.forget()
        self._full_at = None
        self._report = None
        self._port_mappers = Probed()
        self._relays.network_changed()
        self._configure_port_mapper()
        with self._engine.turn() as now:
            self._engine.paths.network_changed(now)
        self._publish()
        self._wanted.set()

    def on_path_event(self, event: PathEvent) -> None:
        """To be told of every event of the paths."""
        if isinstance(event, EndpointsWanted):
            self._wanted.set()

    def relays_changed(self) -> None:
        """A relay is connected, or is not any more: then what was measured may not hold any more either.

        Endpoints are not told again, which would pass for measured anew.
        """
        with self._engine.turn() as now:
            self._tell_reachability(now)
        if self._relays.failed:
            self._wanted.set()

    def port_mapped(self) -> None:
        """The port mapper has a mapping, another one, or none any more."""
        self._publish()

    # --- measuring ---

    async def _measure_on_and_on(self) -> None:
        while True:
            await self._until_wanted()
            self._wanted.clear()
            if self._derp_map is not None:
                await self._measure(self._derp_map)
            await asyncio.sleep(MIN_GAP_S)

    async def _until_wanted(self) -> None:
        while not self._wanted.is_set():
            try:
                async with asyncio.timeout(random.uniform(RESTUN_MIN_S, RESTUN_MAX_S)):
                    await self._wanted.wait()
            except TimeoutError:
                if self._engine.paths.is_active(monotonic()):
                    return

    async def _measure(self, derp_map: DERPMap) -> None:
        begun_at = self._loop.time()
        network = self._network
        is_full = self._full_at is None or begun_at - self._full_at >= FULL_INTERVAL
        report = await self._netchecker.check(
            derp_map,
            last=self._report,
            home=self._relays.home,
            is_full=is_full,
            os_has_ipv6=self._engine.has_ipv6,
        )
        if network != self._network or derp_map is not self._derp_map:
            self._wanted.set()  # the answers are about what is no more
            return
        if is_full:
            self._full_at = begun_at
            self._mapper_search.cancel()
            self._mapper_search = asyncio.create_task(self._look_for_port_mappers(), name="port mappers")
        self._choose_home(report, derp_map, begun_at)
        self._report = report
        self._publish()

    async def _look_for_port_mappers(self) -> None:
        """Takes seconds where there are none, which nothing else is to wait for."""
        self._port_mappers = await self._port_mapper.probe()
        self._publish()

    def _choose_home(self, report: Report, derp_map: DERPMap, begun_at: float) -> None:
        scores = derp_map.home_params.region_score if derp_map.home_params is not None else {}
        home = self._home.choose(
            report,
            self._loop.time(),
            scores=scores,
            begun_at=begun_at,
            heard_from_home_at=self._relays.heard_from_home_at(),
        )
        report.preferred_derp = home or self._relays.home or self._any_region()
        self._go_home(report.preferred_derp)

    def _go_home(self, region_id: int) -> None:
        if region_id != self._relays.home:
            log.info("home relay region is %s", region_id or "none")
        self._home.home = region_id
        self._relays.set_home(region_id)

    def _any_region(self) -> int:
        """Where nothing can be measured a relay may still be reached: each node has its own guess."""
        regions = sorted(number for number, one in self._regions().items() if not one.no_measure_no_home)
        if not regions or self._node_key is None:
            return 0
        return regions[self._node_key.public.raw[0] % len(regions)]

    def _regions(self) -> dict[int, DERPRegion]:
        return (self._derp_map.regions or {}) if self._derp_map is not None else {}

    # --- telling ---

    def _configure_port_mapper(self) -> None:
        gateway, own = self._network.gateway_v4 or (None, None)
        self._port_mapper.configure(gateway=gateway, self_ip=own, local_port=self._mapped_port)

    def _local(self) -> Sequence[AddrPort]:
        return [AddrPort(str(address), self._engine.local_port) for address in self._network.endpoints]

    def _publish(self) -> None:
        """Tell the paths, and the coordinator where that is news to it."""
        report = self._report
        if report is not None:
            mappers = self._port_mappers
            report.upnp, report.pmp, report.pcp = mappers.upnp, mappers.pmp, mappers.pcp
        mapped = self._port_mapper.external
        with self._engine.turn() as now:
            endpoints = self._book.gather(
                report,
                port_mapped=mapped,
                local=self._local(),
                is_port_fixed=self._is_port_fixed,
                now=now,
            )
            self._tell_reachability(now)
            self._engine.paths.set_own_endpoints(
                [one.address for one in endpoints],
                now,
                mapping_varies=report.mapping_varies_by_dest_ip if report is not None else None,
            )
        net_info = report.net_info(have_port_map=mapped is not None) if report is not None else self.net_info
        is_news = endpoints != self.endpoints or _basics(net_info) != _basics(self.net_info)
        self.endpoints, self.net_info = endpoints, net_info
        if is_news:
            self._on_change()

    def _tell_reachability(self, now: float) -> None:
        report = self._report
        # Where not even the home relay is there, nobody knows whether UDP would pass.
        has_udp = report is None or report.udp or self._relays.failure() != ""
        self._engine.paths.set_reachability(
            now, has_derp=self._relays.home != 0, has_udp=has_udp, dead_regions=self._relays.failed
        )


def _basics(net_info: NetInfo | None) -> NetInfo | None:
    """Without what is different each time."""
    return None if net_info is None else msgspec.structs.replace(net_info, derp_latency={})
