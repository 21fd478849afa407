"""Gateways that do what no decent one does, on loopback addresses of their own and a fast clock."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import selectors
import socket
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from ipaddress import IPv4Address
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from meshnode.portmap import natpmp, ssdp
from meshnode.portmap.mapping import Lan
from meshnode.portmap.session import Session
from meshnode.portmap.timing import DEFAULT

SELF = IPv4Address("127.0.0.1")
PORT = 41641
SPEED = 40
"""Seconds of the fast clock in one real second."""

Respond = Callable[[bytes], Iterable[bytes]]
"""What to send back for a request."""

# A fast clock leaves little real time for an answer, and a loaded machine needs some.
PATIENT = replace(DEFAULT, resend=(20.0,), release=20.0, probe_resend=(10.0,), better_wait=0.0)


class _FastSelector(selectors.DefaultSelector):
    def select(self, timeout: float | None = None) -> Any:
        return super().select(timeout / SPEED if timeout else timeout)


class FastLoop(asyncio.SelectorEventLoop):
    """An event loop whose seconds are short."""

    def __init__(self) -> None:
        super().__init__(_FastSelector())

    def time(self) -> float:
        return super().time() * SPEED


def run_fast(test: Coroutine[Any, Any, None]) -> None:
    """Run a test by the fast clock."""
    with asyncio.Runner(loop_factory=FastLoop) as runner:
        runner.run(test)


class FakeGateway:
    """A gateway at an address of its own, as an async context manager. `requests` is what came, and when."""

    _numbers = itertools.count(secrets.randbelow(1 << 20))

    def __init__(self, respond: Respond | None = None, *, upnp: web.Application | None = None) -> None:
        number = next(self._numbers) % (1 << 22)
        self.address = IPv4Address(0x7F400000 + number)
        self.lan = Lan(self.address, SELF)
        self.requests: list[tuple[float, bytes]] = []
        self.location = f"http://{self.address}:5000/desc.xml"
        self._respond = respond
        self._upnp = upnp
        self._transports: list[asyncio.BaseTransport] = []
        self._runner: web.AppRunner | None = None

    def session(self, on_change: Callable[[], None] = lambda: None, **timings: Any) -> Session:
        """A session with this gateway, not started."""
        return Session(
            self.lan,
            PORT,
            mark=lambda sock: None,
            entropy=os.urandom,
            nonce=bytes(range(12)),
            timings=replace(PATIENT, **timings),
            on_change=on_change,
        )

    async def __aenter__(self) -> Self:
        if self._respond:
            await self._serve_udp(natpmp.PORT, self._respond)
        if self._upnp:
            await self._serve_udp(ssdp.PORT, self._answer_search)
            self._runner = web.AppRunner(self._upnp, shutdown_timeout=0.1)
            await self._runner.setup()
            await web.TCPSite(self._runner, str(self.address), 5000).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for transport in self._transports:
            transport.close()
        if self._runner:
            await self._runner.cleanup()

    async def _serve_udp(self, port: int, respond: Respond) -> None:
        requests = self.requests

        class Server(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
                requests.append((asyncio.get_running_loop().time(), data))
                for answer in respond(data):
                    self.transport.sendto(answer, addr)

        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(Server, local_addr=(str(self.address), port))
        self._transports.append(transport)

    def _answer_search(self, request: bytes) -> list[bytes]:
        device = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
        return [f"HTTP/1.1 200 OK\r\nST: {device}\r\nLOCATION: {self.location}\r\n\r\n".encode()]


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for it, in real seconds at most."""
    loop = asyncio.get_running_loop()
    factor = SPEED if isinstance(loop, FastLoop) else 1
    deadline = loop.time() + seconds * factor
    while not condition():
        assert loop.time() < deadline, "not in time"
        await asyncio.sleep(0.01 * factor)


DESCRIPTION = """<?xml version="1.0"?><root xmlns="urn:schemas-upnp-org:device-1-0"><device><serviceList>
<service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>{url}</controlURL>
</service></serviceList></device></root>"""


def reply(action: str, **values: object) -> web.Response:
    """What a call returns."""
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in values.items())
    return _soap(f"<{action}Response>{inside}</{action}Response>")


def fault(code: int) -> web.Response:
    """That a call failed."""
    return _soap(f"<Fault><errorCode>{code}</errorCode></Fault>", 500)


def _soap(inside: str, status: int = 200) -> web.Response:
    return web.Response(text=f"<Envelope><Body>{inside}</Body></Envelope>", status=status)


def free_port() -> socket.socket:
    """A TCP listener on another address than the gateway's, that nobody should come to."""
    sock = socket.create_server(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock
