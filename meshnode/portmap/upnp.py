"""UPnP as a service of a gateway: the cores `ssdp` and `igd`, with sockets and HTTP.

What the gateway says is fetched from the gateway and nowhere else, in bounded size and time, without
redirects, proxies or cookies. Why there is no library in between: docs/adr/0009-own-upnp.md.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from ipaddress import AddressValueError, IPv4Address
from typing import Any

import aiohttp

from meshnode.control.dial import MarkSocket
from meshnode.portmap import igd, ssdp
from meshnode.portmap.lan import collect
from meshnode.portmap.mapping import Grant, Lan, MappingFailed, require_usable
from meshnode.portmap.timing import LIFETIME, Timings
from meshproto.addresses import AddrPort

__all__ = ["Upnp"]

DESCRIPTION = "meshnode"
"""What the gateway's pages show beside the mapping."""
PORT_ATTEMPTS = 4
FIRST_RANDOM_PORT = 1024
RANDOM_PORTS = 65535 - FIRST_RANDOM_PORT
"""Ports outside are chosen from those that need no privilege, and never 0, which stands for all of them."""
MAX_LOCATIONS = 4


class Upnp:
    """See `Service`."""

    name = "UPnP"

    def __init__(self, lan: Lan, entropy: Callable[[int], bytes], mark: MarkSocket, timings: Timings) -> None:
        self._lan = lan
        self._entropy = entropy
        self._mark = mark
        self._timings = timings
        self._services: list[igd.Service] = []
        self._used: igd.Service | None = None
        """The one that made the mapping."""

    async def probe(self) -> None:
        with _failures():
            locations = await self._search()
            self._services = await self._describe(locations)
        if not self._services:
            raise MappingFailed("the gateway has no UPnP service that maps ports")

    async def map(self, local_port: int, suggested: AddrPort) -> Grant:
        failure = MappingFailed("the gateway was not found by UPnP")
        with _failures():
            async with self._http() as http:
                for service in self._services:
                    try:
                        return await self._map(http, service, local_port, suggested.port)
                    except (MappingFailed, igd.Fault) as error:
                        failure = MappingFailed(str(error))
        raise failure

    async def check(self, local_port: int, grant: Grant) -> None:
        service = self._service_used()
        with _failures():
            async with self._http() as http:
                if await self._external_address(http, service) != grant.external.host:
                    raise MappingFailed("the gateway has another address outside")
                try:
                    entry = await self._call(
                        http, service, "GetSpecificPortMappingEntry", _key(grant.external.port)
                    )
                except igd.Fault as fault:
                    if fault.code == igd.Fault.NO_SUCH_ENTRY:
                        raise MappingFailed("the gateway has forgotten the mapping") from fault
                    return  # it cannot tell
        client = entry.get("NewInternalClient"), entry.get("NewInternalPort")
        if client != (str(self._lan.self_ip), str(local_port)):
            raise MappingFailed("the gateway has given the port to somebody else")

    async def release(self, local_port: int, grant: Grant) -> None:
        service = self._service_used()
        with _failures():
            async with asyncio.timeout(self._timings.release), self._http() as http:
                await self._call(http, service, "DeletePortMapping", _key(grant.external.port))

    def _service_used(self) -> igd.Service:
        if self._used is None:
            raise MappingFailed("nothing is mapped by UPnP")
        return self._used

    # Finding the gateway

    async def _search(self) -> list[str]:
        """Where descriptions of internet gateways are, as the gateway says. Raises OSError."""
        found: dict[str, str] = {}
        first = asyncio.Event()

        def receive(datagram: bytes) -> None:
            answer = ssdp.parse_answer_untrusted(datagram)
            if answer and len(found) < MAX_LOCATIONS:
                found.setdefault(answer.location, answer.device)
                first.set()

        listener = await collect(self._lan, receive, self._mark)
        try:
            for attempt, wait in enumerate(self._timings.search):
                for datagram, destination in ssdp.searches(self._lan.gateway, attempt):
                    listener.send(datagram, destination, ssdp.PORT)
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await first.wait()
                    await asyncio.sleep(self._timings.search_more)
                    break
        finally:
            listener.close()
        if not found:
            raise MappingFailed("no UPnP gateway answers")
        return sorted(found, key=lambda location: found[location].rpartition(":")[2], reverse=True)

    async def _describe(self, locations: list[str]) -> list[igd.Service]:
        services: list[igd.Service] = []
        failure: MappingFailed | None = None
        async with self._http() as http:
            for location in locations:
                try:
                    url = self._on_gateway(location)
                    body = await self._fetch(http, "GET", url, igd.MAX_DESCRIPTION)
                    services += igd.mapping_services(body, url)
                except (MappingFailed, igd.MalformedXML, aiohttp.ClientError, TimeoutError) as error:
                    failure = MappingFailed(f"the gateway's description: {str(error) or 'no answer in time'}")
        if not services and failure:
            raise failure
        return services[: igd.MAX_SERVICES]

    # Mapping

    async def _map(
        self, http: aiohttp.ClientSession, service: igd.Service, local_port: int, wanted: int
    ) -> Grant:
        address = await self._external_address(http, service)
        try:
            parsed = IPv4Address(address)
        except AddressValueError:
            raise MappingFailed("the gateway has no address outside") from None
        require_usable(parsed)  # before there is anything to take back
        port = await self._add(http, service, local_port, wanted)
        self._used = service
        return Grant.of(parsed, port, LIFETIME)

    async def _external_address(self, http: aiohttp.ClientSession, service: igd.Service) -> str:
        values = await self._call(http, service, "GetExternalIPAddress", {})
        return values.get("NewExternalIPAddress", "")

    async def _add(
        self, http: aiohttp.ClientSession, service: igd.Service, local_port: int, wanted: int
    ) -> int:
        """Map the port; the port outside, the wanted one if possible. Raises Fault."""
        any_port, lifetime, port = service.adds_any_port, LIFETIME, wanted
        attempt = 0
        while True:
            arguments = self._arguments(port, local_port, lifetime)
            try:
                if not any_port:
                    await self._call(http, service, "AddPortMapping", arguments)
                    return port
                values = await self._call(http, service, "AddAnyPortMapping", arguments)
                return _port(values.get("NewReservedPort", ""))
            except igd.Fault as fault:
                attempt += 1
                if attempt >= PORT_ATTEMPTS:
                    raise
                if fault.code == igd.Fault.CONFLICT:
                    port = FIRST_RANDOM_PORT + int.from_bytes(self._entropy(4), "big") % RANDOM_PORTS
                elif fault.code == igd.Fault.SAME_PORT_ONLY and port != local_port:
                    port = local_port
                elif fault.code in (igd.Fault.PERMANENT_ONLY, igd.Fault.INVALID_ARGUMENTS) and lifetime:
                    lifetime = 0
                elif fault.code == igd.Fault.INVALID_ACTION and any_port:
                    any_port = False
                else:
                    raise

    def _arguments(self, port: int, local_port: int, lifetime: int) -> dict[str, object]:
        return {
            **_key(port),
            "NewInternalPort": local_port,
            "NewInternalClient": self._lan.self_ip,
            "NewEnabled": 1,
            "NewPortMappingDescription": DESCRIPTION,
            "NewLeaseDuration": lifetime,
        }

    # HTTP

    @asynccontextmanager
    async def _http(self) -> AsyncIterator[aiohttp.ClientSession]:
        def marked(address: Any) -> socket.socket:
            family, kind, protocol, _, _ = address
            sock = socket.socket(family, kind, protocol)
            self._mark(sock)
            return sock

        connector = aiohttp.TCPConnector(
            local_addr=(str(self._lan.self_ip), 0), socket_factory=marked, force_close=True
        )
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timings.http),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
        ) as session:
            yield session

    async def _call(
        self,
        http: aiohttp.ClientSession,
        service: igd.Service,
        action: str,
        arguments: Mapping[str, object],
    ) -> dict[str, str]:
        url = self._on_gateway(service.control_url)
        headers = {
            "SOAPAction": igd.soap_action(service, action),
            "Content-Type": 'text/xml; charset="utf-8"',
        }
        request = igd.call(service, action, arguments)
        # A fault comes with status 500, and its reason is in the body.
        body = await self._fetch(http, "POST", url, igd.MAX_REPLY, request, headers, any_status=True)
        return igd.parse_reply_untrusted(body, action)

    async def _fetch(
        self,
        http: aiohttp.ClientSession,
        method: str,
        url: str,
        limit: int,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        any_status: bool = False,
    ) -> bytes:
        async with http.request(method, url, data=body, headers=headers, allow_redirects=False) as response:
            if response.status != 200 and not any_status:
                raise MappingFailed(f"the gateway answers with HTTP status {response.status}")
            received = bytearray()
            async for chunk in response.content.iter_any():
                received += chunk
                if len(received) > limit:
                    raise MappingFailed("the gateway answers with more than anybody needs")
            return bytes(received)

    def _on_gateway(self, url: str) -> str:
        made = ssdp.gateway_url(self._lan.gateway, url)
        if made is None:
            raise MappingFailed("the gateway names an address that is not of HTTP")
        return made


def _key(port: int) -> dict[str, object]:
    """The arguments that name a mapping."""
    return {"NewRemoteHost": "", "NewExternalPort": port, "NewProtocol": "UDP"}


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise MappingFailed("the gateway granted no port")
    return int(text)


@contextmanager
def _failures() -> Iterator[None]:
    """Whatever goes wrong with the gateway is a MappingFailed."""
    try:
        yield
    except TimeoutError as error:
        raise MappingFailed("the gateway does not answer in time") from error
    except (igd.Fault, igd.MalformedXML, aiohttp.ClientError, OSError) as error:
        raise MappingFailed(str(error)) from error
