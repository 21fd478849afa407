"""One coordinator as the node uses it: register, follow the map, report changes.

A connection is made when a request needs one and kept for the next. The server's key is fetched again before
a registration and after a failed handshake, so that a coordinator that was rebuilt is found again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from http import HTTPStatus
from ipaddress import ip_address

from meshnode.control import errors
from meshnode.control.dial import MarkSocket
from meshnode.control.http2 import Http2Client, Response
from meshnode.control.noise_stream import Entropy, fetch_server_key, open_noise_stream
from meshnode.control.ping import answer_ping, is_answerable
from meshnode.control.server_url import ServerURL
from meshproto.codec import MalformedMessage, MapStreamReader, decode, encode
from meshproto.keys import MachinePrivate, MachinePublic
from meshproto.messages import (
    COMPRESS_ZSTD,
    MapRequest,
    MapResponse,
    PingRequest,
    RegisterRequest,
    RegisterResponse,
)

REGISTER_PATH = "/machine/register"
MAP_PATH = "/machine/map"
MAX_ANSWER_SIZE = 1024 * 1024
"""Bytes of a register response or an error text (control protocol §6)."""
REQUEST_TIMEOUT_S = 30.0
"""For an answer that the coordinator gives at once; a follow-up waits for a person and has no limit."""
WATCHDOG_S = 120.0
"""A map stream without a complete message for this long is dead (control protocol §8.1)."""
MAX_RETRY_AFTER_S = 3600.0


class ControlClient:
    """All requests of one node to one coordinator. Every method raises ControlError and nothing else."""

    def __init__(
        self,
        server: ServerURL,
        machine_key: MachinePrivate,
        *,
        mark: MarkSocket,
        entropy: Entropy,
        tls: ssl.SSLContext | None = None,
        watchdog_s: float = WATCHDOG_S,
    ) -> None:
        self.server = server
        self._machine_key = machine_key
        self._mark = mark
        self._entropy = entropy
        self._tls = tls
        self._watchdog_s = watchdog_s
        self._server_key: MachinePublic | None = None
        self._connection: Http2Client | None = None
        self._connecting = asyncio.Lock()
        self._local_host = ""

    async def register(self, request: RegisterRequest) -> RegisterResponse:
        """One registration step. A request with a follow-up is answered when a person has decided."""
        if not request.followup:
            await self._refresh_server_key()
        response = await self._request(
            REGISTER_PATH, encode(request), None if request.followup else REQUEST_TIMEOUT_S
        )
        body = await self._read_answer(REGISTER_PATH, response)
        try:
            return decode(body, RegisterResponse)
        except MalformedMessage as error:
            raise self._not_understood(REGISTER_PATH, error) from error

    async def update(self, request: MapRequest) -> None:
        """A lite update: tell the coordinator about ourselves without touching the map stream."""
        response = await self._request(MAP_PATH, encode(request), REQUEST_TIMEOUT_S)
        await self._read_answer(MAP_PATH, response)

    async def poll(self, request: MapRequest) -> AsyncGenerator[MapResponse, None]:
        """The map stream, keep-alives included, until it breaks. Ends only by an error."""
        response = await self._request(MAP_PATH, encode(request), self._watchdog_s)
        if response.status != HTTPStatus.OK:
            await self._read_answer(MAP_PATH, response)
        reader = MapStreamReader(compressed=request.compress == COMPRESS_ZSTD)
        messages = _messages(reader, response)
        try:
            async with aclosing(messages):
                while True:
                    async with asyncio.timeout(self._watchdog_s):
                        message = await anext(messages, None)
                    if message is None:
                        raise errors.ConnectionLost(f"{self.server} ended the map stream")
                    yield message
        except TimeoutError as error:
            await self.close()
            raise errors.ConnectionLost(
                f"{self.server} has been silent for {self._watchdog_s:.0f} s; connecting again"
            ) from error
        except MalformedMessage as error:
            raise self._not_understood(MAP_PATH, error) from error
        finally:
            await response.cancel()

    async def answer_ping(self, request: PingRequest) -> None:
        """Tell the coordinator that we live, where it asks in the way that we answer."""
        if is_answerable(request):
            await answer_ping(request, self._mark, self._tls)

    async def forsake(self, hosts: Collection[str]) -> None:
        """End the connection if it is made from an address that is none of this host's `hosts` any more.

        The other end's silence would only be noticed much later.
        """
        local = self._local_host
        if (
            self._connection is not None
            and local
            and not ip_address(local).is_loopback
            and local not in hosts
        ):
            await self.close()

    async def close(self) -> None:
        """End the connection. The next request makes a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _request(self, path: str, body: bytes, timeout_s: float | None) -> Response:
        try:
            async with asyncio.timeout(timeout_s):
                connection = await self._connected()
                return await connection.request("POST", path, body)
        except TimeoutError as error:
            await self.close()
            raise errors.no_answer(str(self.server), timeout_s or 0) from error

    async def _connected(self) -> Http2Client:
        async with self._connecting:
            if self._connection is not None and self._connection.is_open:
                return self._connection
            await self.close()
            self._connection = await self._connect()
            return self._connection

    async def _refresh_server_key(self) -> None:
        """Ask for the key, and leave a connection that was made to another one."""
        key = await fetch_server_key(self.server, self._mark, self._tls)
        if key != self._server_key:
            await self.close()
        self._server_key = key

    async def _connect(self) -> Http2Client:
        if self._server_key is None:
            self._server_key = await fetch_server_key(self.server, self._mark, self._tls)
        try:
            stream = await open_noise_stream(
                self.server,
                self._server_key,
                self._machine_key,
                mark=self._mark,
                entropy=self._entropy,
                tls=self._tls,
            )
        except (errors.HandshakeFailed, errors.ServerTooOld):
            self._server_key = None
            raise
        connection = Http2Client(stream, self.server.authority)
        await connection.start()
        self._local_host = stream.local_host
        return connection

    async def _read_answer(self, path: str, response: Response) -> bytes:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                body = await response.read(MAX_ANSWER_SIZE)
        except TimeoutError as error:
            await response.cancel()
            raise errors.no_answer(str(self.server), REQUEST_TIMEOUT_S) from error
        if response.status != HTTPStatus.OK:
            failure = errors.unexpected_status(
                str(self.server), path, response.status, body.decode(errors="replace")
            )
            if response.status == HTTPStatus.TOO_MANY_REQUESTS:
                failure.retry_after = retry_after(response.headers.get("retry-after", ""), self._entropy)
            raise failure
        return body

    def _not_understood(self, path: str, error: MalformedMessage) -> errors.ConnectionLost:
        return errors.ConnectionLost(f"{self.server} sent an answer to {path} that cannot be read: {error}")


async def _messages(reader: MapStreamReader, response: Response) -> AsyncGenerator[MapResponse, None]:
    async for data in response:
        for message in reader.receive_data(data):
            yield message


def retry_after(text: str, entropy: Callable[[int], bytes]) -> float:
    """Seconds to wait after a 429: what the server says up to an hour, else 5 to 10 (control protocol §6)."""
    if text.isascii() and text.isdecimal() and len(text) < 10 and 0 < int(text) <= MAX_RETRY_AFTER_S:
        return float(text)
    return 5.0 + 5.0 * int.from_bytes(entropy(2), "big") / 2**16
