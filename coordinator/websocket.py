"""Control connections over WebSocket, for clients in browsers (control-protocol §2.4).

The messages carry the same bytes as the socket of an upgraded connection; their boundaries mean nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import Any

from aiohttp import WSMsgType, web

from coordinator.noise_server import NoiseServer
from meshproto.noise.ik import Accepted

MAX_MESSAGE_SIZE = 1024 * 1024  # bytes of one message from the client
LOW_WATER_SHARE = 4  # writing goes on when the buffer is down to this part of the limit


class WebSocketTransport(asyncio.Transport):
    """What a `MachineConnection` uses of a transport, over the messages of a WebSocket."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        super().__init__()
        self._socket = socket
        self._protocol: asyncio.Protocol | None = None
        self._unsent: deque[bytes] = deque()
        self._unsent_size = 0
        self._high_water = 0
        self._paused = False
        self._closing = False
        self._woken = asyncio.Event()

    async def run(self) -> None:
        """Send what is written, until closed and drained, or until the client is gone."""
        with suppress(ConnectionError):
            while not (self._closing and not self._unsent):
                await self._woken.wait()
                self._woken.clear()
                await self._drain()
            await self._socket.close()

    async def _drain(self) -> None:
        while self._unsent:
            data = self._unsent.popleft()
            await self._socket.send_bytes(data)
            self._unsent_size = max(0, self._unsent_size - len(data))  # an abort in between left nothing
            if self._paused and self._unsent_size <= self._high_water // LOW_WATER_SHARE:
                self._paused = False
                if self._protocol is not None:
                    self._protocol.resume_writing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._unsent.append(bytes(data))
        self._unsent_size += len(data)
        self._woken.set()
        if self._unsent_size > self._high_water and not self._paused and self._protocol is not None:
            self._paused = True
            self._protocol.pause_writing()

    def close(self) -> None:
        self._closing = True
        self._woken.set()

    def abort(self) -> None:
        self._unsent.clear()
        self._unsent_size = 0
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return self._unsent_size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high_water = high or 0

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default  # the TCP connection below is aiohttp's to look after


async def serve(
    request: web.Request, subprotocol: str, accepted: Accepted, server: NoiseServer, scheme: str
) -> web.WebSocketResponse:
    """Turn a WebSocket request into a control connection, and stay until that is over.

    `scheme` is that of the URL which the client has.
    """
    socket = web.WebSocketResponse(protocols=[subprotocol], compress=False, max_msg_size=MAX_MESSAGE_SIZE)
    await socket.prepare(request)
    transport = WebSocketTransport(socket)
    # No early payload here: browser clients do not look for one.
    connection = server.take_over(accepted, transport, accepted.response, b"", lambda _: None, scheme)
    async with asyncio.TaskGroup() as tasks:
        sender = tasks.create_task(transport.run())
        try:
            async for message in socket:
                if message.type is not WSMsgType.BINARY:
                    break
                connection.data_received(message.data)
        finally:
            connection.connection_lost(None)
            transport.abort()
            sender.cancel()
    return socket
