"""Runs netchecks: sends what `Netcheck` says, by the UDP socket of somebody else, and asks the rest itself.

Nothing that the network does raises: what fails is missing in the report. Latencies are taken by the system's
clock, for the time of uvloop's loop has whole milliseconds and stands still while something is done.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol

from derp.dial import DialOptions, MarkSocket
from derp.errors import CannotConnect
from derp.relay_node import RelayNode
from derp.trust import MakeContext
from meshnode.netcheck.check import TOTAL_TIME, Netcheck, Probe
from meshnode.netcheck.plan import Plan, fallback_relays, full_plan, incremental_plan, stun_port
from meshnode.netcheck.portal import CHALLENGE_HEADER, challenge_for, is_portal, portal_witnesses
from meshnode.netcheck.report import Family, Report
from meshnode.probes import http, icmp
from meshnode.probes.names import Addresses, Names
from meshnode.relay_nodes import relay_node
from meshproto.addresses import AddrPort, MalformedAddress, parse_address
from meshproto.messages import DERPMap, DERPNode, DERPRegion
from stun.messages import BindingResponse, MalformedMessage, encode_binding_request, parse_response_untrusted

__all__ = ["NetcheckRunner", "PortMappers", "Send", "has_ipv6"]

PORTAL_AFTER_S: Final = 0.2
"""By when STUN has usually answered, so that nobody need be asked."""
PORTAL_TIME_S: Final = 3.0
ICMP_TIME_S: Final = 1.0
LATENCY_PATH: Final = "/derp/latency-check"
HTTP_PORT: Final = 80
NO_FAMILY: Final = "none"

Send = Callable[[bytes, AddrPort], bool]
"""Sends one datagram; False when the system refused it."""


class PortMappers(Protocol):
    """Which port mapping protocols the router answers to; None where that is not known."""

    @property
    def upnp(self) -> bool | None: ...
    @property
    def pmp(self) -> bool | None: ...
    @property
    def pcp(self) -> bool | None: ...


def has_ipv6() -> bool:
    """Whether this machine has IPv6 at all, be it only to itself."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


class NetcheckRunner:
    """One check at a time; a second one waits for the first."""

    def __init__(
        self,
        send: Send,
        *,
        mark: MarkSocket,
        entropy: Callable[[int], bytes],
        probe_port_mappers: Callable[[], Awaitable[PortMappers]] | None = None,
        make_tls: MakeContext = ssl.create_default_context,
    ) -> None:
        """`mark` is called with each socket that a check opens; `make_tls` says whom relays must convince.

        `probe_port_mappers` is asked in full checks.
        """
        self._send = send
        self._entropy = entropy
        self._options = DialOptions(mark=mark, make_tls=make_tls)
        self._probe_port_mappers = probe_port_mappers
        self._turn = asyncio.Lock()
        self._check: _Check | None = None

    async def check(
        self,
        derp_map: DERPMap,
        *,
        last: Report | None,
        home: int,
        is_full: bool,
        os_has_ipv6: bool,
        verbose: bool = False,
    ) -> Report:
        """Measure for at most five seconds. `last` is the report before, `home` the home region, 0 for none.

        `verbose`: wait for every region, and look for a captive portal even where UDP works.
        """
        regions = derp_map.regions or {}
        families = tuple(Family) if os_has_ipv6 else (Family.IPV4,)
        plan = _plan(regions, families, last, home, is_full=is_full)
        async with self._turn:
            machine = Netcheck(
                plan,
                entropy=self._entropy,
                now=time.monotonic(),
                os_has_ipv6=os_has_ipv6,
                verbose=verbose,
            )
            self._check = _Check(machine, self._send, self._options, self._entropy)
            try:
                await self._check.run(regions, home, self._probe_port_mappers, verbose=verbose)
            finally:
                self._check = None
            return machine.report

    def receive(self, datagram: bytes, source: AddrPort) -> None:
        """A STUN datagram that came to the socket. Its transaction id tells whose it is; `source` may lie."""
        if self._check is not None:
            self._check.receive(datagram)


def _plan(
    regions: Mapping[int, DERPRegion],
    families: tuple[Family, ...],
    last: Report | None,
    home: int,
    *,
    is_full: bool,
) -> Plan:
    """After a captive portal everything may have changed, so that is looked at in full."""
    if is_full or last is None or (last.captive_portal and not last.udp):
        return full_plan(regions, families)
    return incremental_plan(regions, families, last, home)


class _Check:
    """One check. Its tasks end with it."""

    def __init__(
        self, machine: Netcheck, send: Send, options: DialOptions, entropy: Callable[[int], bytes]
    ) -> None:
        self._machine = machine
        self._send = send
        self._options = options
        self._entropy = entropy
        self._names = Names()
        self._news = asyncio.Event()

    async def run(
        self,
        regions: Mapping[int, DERPRegion],
        home: int,
        probe_port_mappers: Callable[[], Awaitable[PortMappers]] | None,
        *,
        verbose: bool,
    ) -> None:
        """Until everything is known that can be known in time."""
        deadline = time.monotonic() + TOTAL_TIME
        async with asyncio.TaskGroup() as group:
            tasks: list[asyncio.Task[None]] = []

            def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
                tasks.append(group.create_task(work))
                return tasks[-1]

            beside = []
            if self._machine.is_full and probe_port_mappers is not None:
                beside.append(start(self._ask_port_mappers(probe_port_mappers)))
            witnesses = portal_witnesses(regions, home) if self._machine.is_full else []
            portal = start(self._look_for_portal(witnesses))
            await self._measure(regions, start)
            if verbose or not self._machine.report.udp:
                beside.append(portal)
            else:
                portal.cancel()
            if beside:
                await asyncio.wait(beside, timeout=deadline - time.monotonic())
            for task in tasks:
                task.cancel()

    def receive(self, datagram: bytes) -> None:
        """An answer, to us or not."""
        try:
            response = parse_response_untrusted(datagram)
        except MalformedMessage:
            return
        if isinstance(response, BindingResponse):
            observed = AddrPort(*response.mapped_address)
            if self._machine.stun_received(response.transaction_id, observed, time.monotonic()):
                self._news.set()

    async def _measure(
        self,
        regions: Mapping[int, DERPRegion],
        start: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        is_falling_back = False
        while not self._machine.is_done(now := time.monotonic()):
            for probe in self._machine.take_probes(now):
                start(self._ask_stun(probe))
            if not is_falling_back and self._machine.wants_fallback(now):
                is_falling_back = True
                start(self._measure_otherwise(fallback_relays(regions)))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._machine.next_timeout(now) - now):
                    await self._news.wait()
            self._news.clear()

    # --- STUN ---

    async def _ask_stun(self, probe: Probe) -> None:
        address = await self._stun_address(probe.node, probe.family)
        request = encode_binding_request(probe.tx_id)
        if address and self._send(request, AddrPort(address, stun_port(probe.node))):
            self._machine.sent(probe, time.monotonic())
            return
        self._machine.not_sent(probe)
        self._news.set()

    async def _stun_address(self, node: DERPNode, family: Family) -> str:
        if node.stun_test_ip:
            return _literal(node.stun_test_ip, family)
        return (await self._addresses(node)).of(family)

    async def _addresses(self, node: DERPNode) -> Addresses:
        """Those in the map, and what the name resolves to for a family of which the map says nothing."""
        found = Addresses()
        if node.host_name and not (node.ipv4 and node.ipv6):
            found = await self._names.resolve(node.host_name)
        return Addresses(
            _literal(node.ipv4, Family.IPV4) if node.ipv4 else found.ipv4,
            _literal(node.ipv6, Family.IPV6) if node.ipv6 else found.ipv6,
        )

    # --- where STUN is not answered ---

    async def _measure_otherwise(self, relays: Mapping[int, DERPNode]) -> None:
        await asyncio.gather(
            *(self._https(region_id, node) for region_id, node in relays.items()),
            *(self._icmp(region_id, node) for region_id, node in relays.items()),
        )
        self._machine.fallback_ended()
        self._news.set()

    async def _https(self, region_id: int, node: DERPNode) -> None:
        addresses = await self._addresses(node)
        ipv4, ipv6 = (address or NO_FAMILY for address in addresses)
        relay = replace(relay_node(node), ipv4=ipv4, ipv6=ipv6)
        with suppress(CannotConnect):
            answer = await http.get(relay, LATENCY_PATH, self._options)
            if answer.status <= 299:
                family = Family.IPV6 if answer.is_ipv6 else Family.IPV4
                self._machine.https_measured(region_id, family, answer.latency_s)

    async def _icmp(self, region_id: int, node: DERPNode) -> None:
        address = (await self._addresses(node)).ipv4
        if not address:
            return
        data, mark = node.name.encode(), self._options.mark
        with suppress(OSError):  # which includes TimeoutError
            async with asyncio.timeout(ICMP_TIME_S):
                latency = await icmp.ping(address, data, mark=mark, entropy=self._entropy)
            self._machine.icmp_measured(region_id, latency)

    # --- beside all that ---

    async def _ask_port_mappers(self, probe: Callable[[], Awaitable[PortMappers]]) -> None:
        found = await probe()
        report = self._machine.report
        report.upnp, report.pmp, report.pcp = found.upnp, found.pmp, found.pcp

    async def _look_for_portal(self, witnesses: Sequence[DERPNode]) -> None:
        """Errors are no portals, but where nobody answers nothing is known either."""
        if not witnesses:
            return
        await asyncio.sleep(PORTAL_AFTER_S)
        seen = await asyncio.gather(*(self._sees_portal(node.ipv4) for node in witnesses))
        answered = [one for one in seen if one is not None]
        if answered:
            self._machine.report.captive_portal = any(answered)

    async def _sees_portal(self, ipv4: str) -> bool | None:
        """None without an answer."""
        relay = RelayNode(ipv4, HTTP_PORT, ipv4=ipv4, ipv6=NO_FAMILY, uses_tls=False)
        challenge = challenge_for(ipv4)
        path = f"/generate_204?t={int(time.time())}"
        try:
            async with asyncio.timeout(PORTAL_TIME_S):
                options = replace(self._options, use_proxy=False)
                answer = await http.get(relay, path, options, {CHALLENGE_HEADER: challenge})
        except (CannotConnect, TimeoutError):
            return None
        return is_portal(answer.status, answer.headers, challenge)


def _literal(text: str, family: Family) -> str:
    """The address, where it is one of the family; else empty."""
    try:
        version = parse_address(text).version
    except MalformedAddress:
        return ""
    return text if version == (4 if family is Family.IPV4 else 6) else ""
