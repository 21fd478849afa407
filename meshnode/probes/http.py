"""One GET to a relay, and how long its answer takes: dialled as DERP is, and no redirect is followed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from derp.dial import DialOptions, dial
from derp.errors import CannotConnect
from derp.frames import FrameError
from derp.relay_node import RelayNode
from derp.upgrade import END_OF_HEAD, HeadReader, parse_response_untrusted

__all__ = ["Answer", "get"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response without its body. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    latency_s: float
    """From the request to the answer: without dialling."""
    is_ipv6: bool
    """How the request went, as far as the first hop that speaks TCP: that may be a proxy."""


async def get(
    node: RelayNode, path: str, options: DialOptions, headers: Mapping[str, str] | None = None
) -> Answer:
    """Raises CannotConnect."""
    connection = await dial(node, options, _Get)
    try:
        return await connection.ask(_request(node, path, headers or {}))
    except (FrameError, EOFError, UnicodeError) as error:
        raise CannotConnect(f"{node} does not answer in HTTP") from error
    finally:
        connection.close()


def _request(node: RelayNode, path: str, headers: Mapping[str, str]) -> bytes:
    all_headers = {"Host": node.host_header, "Connection": "close", **headers}
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in all_headers.items())]
    return "\r\n".join(lines).encode("latin-1") + END_OF_HEAD


class _Get(asyncio.Protocol):
    """The client's end of a connection for one request."""

    def __init__(self) -> None:
        self._reader = HeadReader()
        self._transport: asyncio.Transport | None = None
        self._head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def ask(self, request: bytes) -> Answer:
        """Raises FrameError, EOFError."""
        assert self._transport is not None
        begun_at = time.monotonic()
        self._transport.write(request)
        head = await self._head
        latency_s = time.monotonic() - begun_at
        peer = self._transport.get_extra_info("peername")
        status = parse_response_untrusted(head).status
        return Answer(status, _headers(head), latency_s, is_ipv6=":" in str(peer[0]))

    def close(self) -> None:
        """What else would come is of no interest."""
        self._head.cancel()
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        if self._head.done():
            return
        try:
            complete = self._reader.receive_data(data)
        except FrameError as error:
            self._fail(error)
            return
        if complete is not None:
            self._head.set_result(complete[0])

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._head.done():
            self._fail(EOFError("closed"))

    def _fail(self, error: Exception) -> None:
        self._head.set_exception(error)
        self._head.exception()  # asked for, hence not reported as lost where the dialling fails


def _headers(head: bytes) -> dict[str, str]:
    lines = head.decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
