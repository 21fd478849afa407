"""The first request of each connection to a relay's listener.

A client that starts fast sends its login right behind the request, and expects nothing but frames in return:
no HTTP library leaves that alone. So the first head is read here. If it asks for DERP, the connection is the
relay's; anything else goes, from its first byte, to the HTTP server, for the rest of the connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import cast

from derp.buckets import TokenBucket
from derp.frames import FrameError
from derp.server import RelayServer
from derp.session import Arrival
from derp.upgrade import IDEAL_NODE, HeadReader, RequestHead, encode_response, parse_request_untrusted

HEAD_TIMEOUT_S = 10.0
DERP_PATH = "/derp"
MAX_CONNECTIONS = 16_384
_PROXY_HEADERS = ("x-forwarded-for", "x-real-ip", "forwarded", "via")

HttpServer = Callable[[], asyncio.Protocol]
"""Makes the protocol for a connection of the HTTP server: an aiohttp `web.Server` is one."""

logger = logging.getLogger(__name__)


class Front:
    """Makes the protocols of a relay's listener: pass it to `loop.create_server`.

    `accept_limit` bounds how many connections a second are accepted; what exceeds it is closed at once.
    """

    def __init__(
        self, relay: RelayServer, http_server: HttpServer, accept_limit: TokenBucket | None = None
    ) -> None:
        self.relay = relay
        self.http_server = http_server
        self.accepts_refused = 0
        self._accept_limit = accept_limit
        self._loop = asyncio.get_running_loop()

    def __call__(self) -> asyncio.Protocol:
        return _FirstRequest(self)

    def accepts(self) -> bool:
        """Whether there is room for one more connection."""
        is_full = self.relay.connections >= MAX_CONNECTIONS
        if is_full or (self._accept_limit and not self._accept_limit.take(1, self._loop.time())):
            self.accepts_refused += 1
            return False
        return True


class _FirstRequest(asyncio.Protocol):
    """A connection up to the end of its first head."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._reader = HeadReader()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if self._front.accepts():
            self._deadline = asyncio.get_running_loop().call_later(HEAD_TIMEOUT_S, self._transport.abort)
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        try:
            complete = self._reader.receive_data(data)
            if complete is None:
                return
            head, rest = complete
            request = parse_request_untrusted(head)
        except FrameError:
            self._hand_over(transport)  # to be refused with an answer
            return
        if request.method == "GET" and request.path == DERP_PATH and request.asks_for_derp:
            self._start_derp(transport, request, rest)
        else:
            self._hand_over(transport)

    def _start_derp(self, transport: asyncio.Transport, request: RequestHead, rest: bytes) -> None:
        self._finish()
        relay = self._front.relay
        relay.take_over(
            transport,
            arrival(transport, request.headers),
            greeting=b"" if request.wants_fast_start else encode_response(relay.core.public_key),
            received=rest,
        )

    def _hand_over(self, transport: asyncio.Transport) -> None:
        self._finish()
        protocol = self._front.http_server()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(self._reader.received)

    def _finish(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()


def arrival(transport: asyncio.Transport, headers: Mapping[str, str]) -> Arrival:
    """How a client came. `headers` are those of its request, with names in lower case.

    A proxy on this machine is believed what it says of the client's address; nobody else is.
    """
    host, port = (transport.get_extra_info("peername") or ("", 0))[:2]
    host = str(host).partition("%")[0]
    has_proxy_header = any(name in headers for name in _PROXY_HEADERS)
    said = headers.get("x-forwarded-for", "").rpartition(",")[2].strip()
    if said and _is_loopback(host):
        try:
            host, port = str(ip_address(said)), 0
        except ValueError:
            logger.debug("proxy says nonsense in X-Forwarded-For")
    return Arrival(
        host,
        port,
        # A relay without TLS of its own has a proxy in front that adds it.
        behind_proxy=has_proxy_header or transport.get_extra_info("sslcontext") is None,
        is_ideal=not headers.get(IDEAL_NODE),
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
