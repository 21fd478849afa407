"""DERP inside a WebSocket, for clients in browsers. The boundaries of messages mean nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from derp.front import arrival
from derp.server import RelayServer

SUBPROTOCOL = "derp"
MAX_MESSAGE_SIZE = 256 * 1024  # bytes of one message from a client


class WebSocketTransport(asyncio.Transport):
    """What a RelayConnection uses of a transport, over the messages of a WebSocket."""

    def __init__(self, socket: web.WebSocketResponse, below: asyncio.Transport) -> None:
        super().__init__()
        self._socket = socket
        self._below = below
        self._protocol: asyncio.BaseProtocol | None = None
        self._unsent = bytearray()
        self._high_water = self._low_water = 0
        self._is_paused = False
        self._is_closing = False
        self._has_work = asyncio.Event()
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def send_all(self) -> None:
        """Send what is written, until closed and all of it is sent."""
        while self._unsent or not self._is_closing:
            await self._has_work.wait()
            self._has_work.clear()
            while self._unsent:
                data, self._unsent = bytes(self._unsent), bytearray()
                await self._socket.send_bytes(data)
                self._resume_when_low()
        await self._socket.close()

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self._unsent += data
        self._has_work.set()
        if len(self._unsent) > self._high_water and not self._is_paused and self._protocol is not None:
            self._is_paused = True
            self._protocol.pause_writing()

    def _resume_when_low(self) -> None:
        if self._is_paused and len(self._unsent) <= self._low_water and self._protocol is not None:
            self._is_paused = False
            self._protocol.resume_writing()

    def close(self) -> None:
        self._is_closing = True
        self._has_work.set()
        self.may_read.set()

    def abort(self) -> None:
        self._unsent.clear()
        self.close()
        self._below.abort()

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self.may_read.clear()

    def resume_reading(self) -> None:
        self.may_read.set()

    def get_write_buffer_size(self) -> int:
        return len(self._unsent) + self._below.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high_water, self._low_water = high or 0, low or 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._below.get_extra_info(name, default)


async def serve(request: web.Request, relay: RelayServer) -> web.WebSocketResponse:
    """Turn a WebSocket request into a client's connection, and stay until that is over."""
    socket = web.WebSocketResponse(protocols=[SUBPROTOCOL], compress=False, max_msg_size=MAX_MESSAGE_SIZE)
    await socket.prepare(request)
    below = request.transport
    if below is None:
        return socket
    if socket.ws_protocol != SUBPROTOCOL:
        await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"sub-protocol derp expected")
        return socket
    transport = WebSocketTransport(socket, below)
    headers = {name.lower(): value for name, value in request.headers.items()}
    connection = relay.take_over(transport, arrival(below, headers))
    sender = asyncio.create_task(transport.send_all())
    try:
        while (await transport.may_read.wait()) and not transport.is_closing():
            message = await socket.receive()
            if message.type is not WSMsgType.BINARY:
                break
            connection.data_received(message.data)
    finally:
        connection.connection_lost(None)
        sender.cancel()
        with suppress(asyncio.CancelledError, ConnectionError):
            await sender
    return socket
