"""The mapping of one port in one network: found, renewed, and made again when the gateway forgot it."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Collection, Iterable

from meshnode.control.dial import MarkSocket
from meshnode.portmap import natpmp, pcp, ssdp
from meshnode.portmap.lan import Listener, listen
from meshnode.portmap.mapping import Grant, Lan, MappingFailed, Probed
from meshnode.portmap.services import NatPmp, Pcp, Service
from meshnode.portmap.timing import MIN_RENEWAL_DELAY, Timings, renewal_delay
from meshnode.portmap.upnp import Upnp
from meshproto.addresses import AddrPort

__all__ = ["Session", "probe"]

log = logging.getLogger(__name__)


class Session:
    """Keeps one UDP port mapped from `start` to `close`. `on_change` is called when `external` changed."""

    def __init__(
        self,
        lan: Lan,
        local_port: int,
        *,
        mark: MarkSocket,
        entropy: Callable[[int], bytes],
        nonce: bytes,
        timings: Timings,
        on_change: Callable[[], None],
    ) -> None:
        self.lan = lan
        self.local_port = local_port
        self.problem = ""
        """Why there is no mapping, for a person; empty while there is one or nothing is known."""
        self._mark = mark
        self._timings = timings
        self._on_change = on_change
        self._services = services_of(lan, nonce, mark, entropy, timings)
        self._used: Service | None = None
        self._grant: Grant | None = None
        self._expires = 0.0
        self._suggested = AddrPort("0.0.0.0", local_port)
        self._news = asyncio.Event()
        self._heeded_at = -math.inf
        self._last_notice: str | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def external(self) -> AddrPort | None:
        """Where others reach the port."""
        return self._grant.external if self._grant else None

    @property
    def service(self) -> str:
        """The protocol of the mapping, empty if there is none."""
        return self._used.name if self._used and self._grant else ""

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="port mapping")

    async def close(self, *, release: bool = True) -> None:
        """End, and give the mapping back unless the gateway is out of reach. Safe to call again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None
        grant, self._grant = self._grant, None
        if grant and self._used and release:
            try:
                await self._used.release(self.local_port, grant)
            except MappingFailed as error:
                log.debug("%s: the mapping of port %d stays: %s", self._used.name, self.local_port, error)

    async def _run(self) -> None:
        listeners = await self._listen()
        try:
            await self._stay_mapped()
        finally:
            for listener in listeners:
                listener.close()

    async def _stay_mapped(self) -> None:
        delay = self._timings.first_retry
        while True:
            try:
                await self._establish()
                if self._grant:
                    delay = self._timings.first_retry
                    await self._keep(self._grant.lifetime)
                    continue
            except Exception:
                log.exception("mapping port %d failed", self.local_port)  # the next network may do better
                self._set(None)
            await self._pause(delay)
            delay = min(2 * delay, self._timings.last_retry)

    # Making a mapping

    async def _establish(self) -> None:
        """Make a mapping in the way that worked before, or in the best that works now."""
        problems: list[str] = []
        if not (self._used and await self._try(self._used, problems)):
            problems.clear()
            if not await self._find(problems):
                self._set(None)
        self.problem = "" if self._grant else "; ".join(problems)

    async def _find(self, problems: list[str]) -> bool:
        """Ask for all services at once and use the best that is there. Whether one has mapped the port."""
        probes = {asyncio.create_task(service.probe()): service for service in self._services}
        pending = set(probes)
        try:
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if better := _better(probes, done, pending):
                    await asyncio.wait(better, timeout=self._timings.better_wait)
                    done |= {task for task in better if task.done()}
                    pending -= done
                for task in [task for task in probes if task in done]:
                    if failure := _failure(task):
                        problems.append(f"{probes[task].name}: {failure}")
                    elif await self._try(probes[task], problems):
                        return True
            return False
        finally:
            await _cancel(pending)

    async def _try(self, service: Service, problems: list[str]) -> bool:
        try:
            grant = await service.map(self.local_port, self._suggested)
        except MappingFailed as error:
            problems.append(f"{service.name}: {error}")
            log.debug("%s does not map port %d: %s", service.name, self.local_port, error)
            return False
        self._used = service
        self._set(grant)
        return True

    def _set(self, grant: Grant | None) -> None:
        before = self.external
        self._grant = grant
        if grant:
            self._expires = _now() + grant.lifetime
            self._suggested = grant.external
        if self.external != before:
            log.info(
                "port %d is mapped to %s by %s", self.local_port, self.external, self.service or "nothing"
            )
            self._on_change()

    # Keeping it

    async def _keep(self, lifetime: float) -> None:
        """Renew the mapping in time, and when the gateway may have lost it. Returns when it has."""
        renewal = _now() + renewal_delay(lifetime)
        check = _now() + self._timings.check
        while True:
            has_news = await self._pause(min(renewal, check) - _now())
            if has_news or _now() >= renewal:
                is_over = has_news or self._expires - _now() <= MIN_RENEWAL_DELAY
                if not await self._renew() and is_over:
                    return
                renewal = _now() + renewal_delay(self._expires - _now())
            elif _now() >= check:
                if not await self._is_alive():
                    return
                check = _now() + self._timings.check

    async def _renew(self) -> bool:
        return self._used is not None and await self._try(self._used, [])

    async def _is_alive(self) -> bool:
        if self._used is None or self._grant is None:
            return False
        try:
            await self._used.check(self.local_port, self._grant)
        except MappingFailed as error:
            log.info(
                "the mapping of port %d by %s is made again: %s", self.local_port, self._used.name, error
            )
            return False
        return True

    async def _pause(self, seconds: float) -> bool:
        """Wait, but not when the gateway has news. Whether it has.

        Anybody on the LAN can make news, so what follows from it does not follow too often.
        """
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._news.wait()
                await asyncio.sleep(self._heeded_at + self._timings.announced_gap - _now())
        except TimeoutError:
            return False
        self._heeded_at = _now()
        self._news.clear()
        return True

    # Hearing the gateway

    async def _listen(self) -> list[Listener]:
        """What gateways say to everybody when they start. A port that is not free is done without."""
        groups = (
            (natpmp.ANNOUNCEMENT_GROUP, natpmp.ANNOUNCEMENT_PORT, self._announced),
            (ssdp.GROUP, ssdp.PORT, self._noticed),
        )
        listeners = []
        for group, port, receive in groups:
            try:
                listeners.append(await listen(self.lan, group, port, receive, self._mark))
            except OSError as error:
                log.debug("announcements at port %d are not heard: %s", port, error)
        return listeners

    def _announced(self, datagram: bytes) -> None:
        if natpmp.parse_untrusted(datagram) or pcp.parse_untrusted(datagram):
            self._news.set()

    def _noticed(self, datagram: bytes) -> None:
        notice = ssdp.parse_notice_untrusted(datagram)
        if notice is not None and notice != self._last_notice:
            self._last_notice = notice
            self._news.set()


async def probe(lan: Lan, *, mark: MarkSocket, entropy: Callable[[int], bytes], timings: Timings) -> Probed:
    """Ask the gateway of a network for all services, without mapping anything."""
    services = services_of(lan, bytes(pcp.NONCE_SIZE), mark, entropy, timings)
    found = await asyncio.gather(*(_has(service) for service in services))
    pcp_found, pmp_found, upnp_found = found
    return Probed(upnp=upnp_found, pmp=pmp_found, pcp=pcp_found)


async def _has(service: Service) -> bool:
    try:
        await service.probe()
    except MappingFailed as error:
        log.debug("%s: %s", service.name, error)
        return False
    return True


def services_of(
    lan: Lan, nonce: bytes, mark: MarkSocket, entropy: Callable[[int], bytes], timings: Timings
) -> tuple[Service, ...]:
    """All ways to map a port in a network, best first.

    PCP says who owns a mapping, and notices a NAT in between; UPnP takes the most packets.
    """
    return (
        Pcp(lan, nonce, mark, timings),
        NatPmp(lan, mark, timings),
        Upnp(lan, entropy, mark, timings),
    )


def _failure(task: asyncio.Task[None]) -> MappingFailed | None:
    """Why a probe found nothing. Raises what no probe should raise."""
    try:
        task.result()
    except MappingFailed as error:
        return error
    return None


def _better(
    best_first: Iterable[asyncio.Task[None]],
    done: Collection[asyncio.Task[None]],
    pending: Collection[asyncio.Task[None]],
) -> list[asyncio.Task[None]]:
    """The probes that are still to come before the best one that has found something."""
    better = []
    for task in best_first:
        if task in pending:
            better.append(task)
        elif task in done and task.exception() is None:
            return better
    return []


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _now() -> float:
    return asyncio.get_running_loop().time()
