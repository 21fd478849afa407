"""PCP and NAT-PMP as services of a gateway: the cores `pcp` and `natpmp`, with a socket and a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Protocol

from meshnode.control.dial import MarkSocket
from meshnode.portmap import natpmp, pcp
from meshnode.portmap.lan import ask
from meshnode.portmap.mapping import Grant, Lan, MappingFailed, require_usable
from meshnode.portmap.timing import LIFETIME, GatewayClock, Timings, nat_pmp_rule, pcp_rule
from meshproto.addresses import AddrPort

__all__ = ["NatPmp", "Pcp", "Service"]


class Service(Protocol):
    """One way to have a gateway map a UDP port of ours. Every method raises MappingFailed, and nothing else.

    What a service remembers of its gateway makes it one for one network only.
    """

    @property
    def name(self) -> str:
        """For a person."""

    async def probe(self) -> None:
        """Return if the gateway has it."""

    async def map(self, local_port: int, suggested: AddrPort) -> Grant:
        """Map the port, or renew the mapping; to the suggested address and port outside, if they are free.

        Leaves nothing behind when it fails.
        """

    async def check(self, local_port: int, grant: Grant) -> None:
        """Return if the gateway still is the one that made the grant, as far as it can tell."""

    async def release(self, local_port: int, grant: Grant) -> None:
        """Take the mapping back."""


class NatPmp:
    """See `Service`."""

    name = "NAT-PMP"

    def __init__(self, lan: Lan, mark: MarkSocket, timings: Timings) -> None:
        self._lan = lan
        self._mark = mark
        self._timings = timings
        self._clock = GatewayClock(nat_pmp_rule)

    async def probe(self) -> None:
        await self._address(self._timings.probe_resend)

    async def map(self, local_port: int, suggested: AddrPort) -> Grant:
        address = await self._address(self._timings.resend)
        require_usable(address)
        request = natpmp.map_request(local_port, suggested.port, LIFETIME)
        reply = await self._map(request, local_port, self._timings.resend)
        return Grant.of(address, reply.external_port, reply.lifetime)

    async def check(self, local_port: int, grant: Grant) -> None:
        address = await self._address(self._timings.resend, is_check=True)
        if str(address) != grant.external.host:
            raise MappingFailed("the gateway has another address outside")

    async def release(self, local_port: int, grant: Grant) -> None:
        await self._map(natpmp.map_request(local_port, 0, 0), local_port, (self._timings.release,))

    async def _address(self, waits: Iterable[float], *, is_check: bool = False) -> IPv4Address:
        def accept(datagram: bytes) -> natpmp.AddressReply | None:
            reply = natpmp.parse_untrusted(datagram)
            return reply if isinstance(reply, natpmp.AddressReply) else None

        request = natpmp.address_request()
        reply = await ask(self._lan, natpmp.PORT, request, accept, waits, self._mark)
        is_same = self._clock.observe(_now(), reply.epoch)
        if reply.result != natpmp.Result.SUCCESS:
            raise _refused(natpmp.Result, reply.result)
        if reply.address is None:
            raise MappingFailed("the gateway has no address outside")
        if is_check and not is_same:
            raise _restarted()
        return reply.address

    async def _map(self, request: bytes, local_port: int, waits: Iterable[float]) -> natpmp.MapReply:
        def accept(datagram: bytes) -> natpmp.MapReply | None:
            reply = natpmp.parse_untrusted(datagram)
            if not isinstance(reply, natpmp.MapReply):
                return None
            has_port = reply.result == natpmp.Result.SUCCESS
            return reply if reply.internal_port == local_port or not has_port else None

        reply = await ask(self._lan, natpmp.PORT, request, accept, waits, self._mark)
        self._clock.observe(_now(), reply.epoch)
        if reply.result != natpmp.Result.SUCCESS:
            raise _refused(natpmp.Result, reply.result)
        return reply


class Pcp:
    """See `Service`. `nonce` proves to the gateway that our mappings are ours."""

    name = "PCP"

    def __init__(self, lan: Lan, nonce: bytes, mark: MarkSocket, timings: Timings) -> None:
        self._lan = lan
        self._nonce = nonce
        self._mark = mark
        self._timings = timings
        self._clock = GatewayClock(pcp_rule)

    async def probe(self) -> None:
        await self._announce(self._timings.probe_resend)

    async def map(self, local_port: int, suggested: AddrPort) -> Grant:
        request = pcp.MapRequest(self._nonce, self._lan.self_ip, local_port, LIFETIME, suggested)
        mapped, lifetime = await self._map(request, self._timings.resend)
        if not isinstance(mapped.external_address, IPv4Address):
            await self._take_back(request)
            raise MappingFailed(f"the gateway maps to {mapped.external_address}, which is not IPv4")
        try:
            return Grant.of(mapped.external_address, mapped.external_port, lifetime)
        except MappingFailed:
            await self._take_back(request)
            raise

    async def check(self, local_port: int, grant: Grant) -> None:
        # A gateway that gets another address outside begins a new epoch (RFC 6887 §8.5).
        if not await self._announce(self._timings.resend):
            raise _restarted()

    async def release(self, local_port: int, grant: Grant) -> None:
        request = pcp.MapRequest(self._nonce, self._lan.self_ip, local_port, 0, grant.external)
        await self._map(request, (self._timings.release,))

    async def _take_back(self, request: pcp.MapRequest) -> None:
        with suppress(MappingFailed):  # it ends by itself then
            await self._map(replace(request, lifetime=0), (self._timings.release,))

    async def _announce(self, waits: Iterable[float]) -> bool:
        """Whether the gateway is in the epoch that we know."""

        def accept(datagram: bytes) -> pcp.Reply | None:
            reply = pcp.parse_untrusted(datagram)
            return reply if reply and (reply.opcode == pcp.Opcode.ANNOUNCE or _is_refusal(reply)) else None

        request = pcp.announce_request(self._lan.self_ip)
        return self._succeeded(await ask(self._lan, natpmp.PORT, request, accept, waits, self._mark))

    async def _map(self, request: pcp.MapRequest, waits: Iterable[float]) -> tuple[pcp.Mapped, int]:
        def accept(datagram: bytes) -> pcp.Reply | None:
            reply = pcp.parse_untrusted(datagram)
            return reply if reply and request.is_answered_by(reply) else None

        reply = await ask(self._lan, natpmp.PORT, request.encode(), accept, waits, self._mark)
        self._succeeded(reply)
        assert reply.mapped is not None  # what answers a request and is a success has it
        return reply.mapped, reply.lifetime

    def _succeeded(self, reply: pcp.Reply) -> bool:
        if reply.result != pcp.Result.SUCCESS:
            raise _refused(pcp.Result, reply.result)
        return self._clock.observe(_now(), reply.epoch)


def _is_refusal(reply: pcp.Reply) -> bool:
    return reply.result == pcp.Result.UNSUPP_VERSION


def _refused(results: type[IntEnum], code: int) -> MappingFailed:
    try:
        text = results(code).name.lower().replace("_", " ")
    except ValueError:
        text = f"result {code}"
    return MappingFailed(f"the gateway refuses: {text}")


def _restarted() -> MappingFailed:
    return MappingFailed("the gateway has restarted")


def _now() -> float:
    return asyncio.get_running_loop().time()
