"""Nodes that join a coordinator, as little of each as there can be: 1,000 share a core that they do not need.

A node does what a client does: it fetches the key, upgrades, registers, reports its endpoints and polls. Of
HTTP/2 it speaks what that takes, with windows that never close; of its map it keeps who is in it.
"""

from __future__ import annotations

import asyncio
import base64
import os
import struct
from collections.abc import Callable
from typing import TypeAlias, cast

import hpack
import msgspec
import zstandard

from meshproto import codec
from meshproto.addresses import AddrPort, parse_prefix
from meshproto.early import EarlyPayloadReader
from meshproto.messages import Hostinfo, Message, NetInfo, RegisterResponse
from meshproto.noise.ik import RESPONSE_SIZE, Initiator
from meshproto.noise.records import Transport
from tests.coordinator.machine import VERSION, Machine

POLL_AGAIN_S = 1.0  # after a coordinator has ended a poll
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME = struct.Struct(">BHBBL")  # length (high byte, low bytes), type, flags, stream
_LENGTH = struct.Struct("<I")
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 4, 6, 8
_END_STREAM, _END_HEADERS, _ACK = 0x1, 0x4, 0x1
_INITIAL_WINDOW_SIZE = 4
_MAX_WINDOW = 2**31 - 1
_DEFAULT_WINDOW = 2**16 - 1
_END_OF_HEAD = b"\r\n\r\n"

Looked: TypeAlias = Callable[["Node"], None]
"""Called with a node whose map has changed."""


class _Peer(msgspec.Struct):
    id: int = msgspec.field(name="ID")
    allowed_ips: msgspec.Raw = msgspec.field(name="AllowedIPs", default=msgspec.Raw())


class _Response(msgspec.Struct):
    node: _Peer | None = msgspec.field(name="Node", default=None)
    peers: list[_Peer] | None = msgspec.field(name="Peers", default=None)
    peers_changed: list[_Peer] | None = msgspec.field(name="PeersChanged", default=None)
    peers_removed: list[int] | None = msgspec.field(name="PeersRemoved", default=None)


_decoder = msgspec.json.Decoder(_Response)


class Map:
    """Who is in a node's map, by id; `routers` are those that `route` goes through."""

    def __init__(self, route: str) -> None:
        self.own = 0
        self.peers: set[int] = set()
        self.routers: set[int] = set()
        self._route = route.encode()
        self._buffer = bytearray()

    def begin(self) -> None:
        """A new stream follows. What was known holds until its first message."""
        self._buffer.clear()

    def receive_data(self, data: bytes) -> bool:
        """Part of the map stream; whether it completed a message."""
        self._buffer += data
        is_new = False
        while len(self._buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                break
            frame = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            # Not all frames say how large they are inside.
            self._apply(_decoder.decode(zstandard.ZstdDecompressor().decompressobj().decompress(frame)))
            is_new = True
        return is_new

    def _apply(self, response: _Response) -> None:
        if response.node is not None:
            self.own = response.node.id
        if response.peers is not None:
            self.peers.clear()
        for peer in (*(response.peers or ()), *(response.peers_changed or ())):
            self.peers.add(peer.id)
            if self._route in bytes(peer.allowed_ips):
                self.routers.add(peer.id)
            else:
                self.routers.discard(peer.id)
        self.peers.difference_update(response.peers_removed or ())


class Node(asyncio.Protocol):
    """One node, on the one connection that it keeps."""

    def __init__(self, port: int, number: int, route: str, looked: Looked) -> None:
        """The first of them offers `route`."""
        self.number = number
        self.map = Map(route)
        self.polls_lost = 0
        self._looked = looked
        self._machine = Machine(port, f"node{number}")
        self._machine.hostinfo = Hostinfo(
            hostname=f"node{number}",
            os="linux",
            net_info=NetInfo(preferred_derp=900),
            routable_ips=() if number else (parse_prefix(route),),
        )
        self._endpoint = AddrPort(f"203.0.{113 + number // 256}.{number % 256}", 41641)
        self._transport: asyncio.Transport | None = None
        self._initiator: Initiator | None = None
        self._noise: Transport | None = None
        self._early = EarlyPayloadReader()
        self._headers = hpack.Decoder()
        self._buffer = bytearray()
        self._next_stream = 1
        self._poll = 0
        self._bodies: dict[int, bytearray] = {}
        self._statuses: dict[int, int] = {}
        self._over: dict[int, asyncio.Future[None]] = {}
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def join(self, key: str) -> None:
        """Returns with the first map. Raises AssertionError when it is refused."""
        machine = self._machine
        self._initiator = Initiator(machine.key, await machine.server_key(), VERSION, os.urandom)
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", machine.port)
        await self._ready
        answer = codec.decode(
            await self._request("/machine/register", machine.register_request(key)), RegisterResponse
        )
        assert answer.machine_authorized, answer
        report = machine.map_request(stream=False, omit_peers=True, endpoints=(self._endpoint,))
        await self._request("/machine/map", report)
        self._ready = asyncio.get_running_loop().create_future()
        self._begin_poll()
        await self._ready

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self._initiator is not None
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio's
        self._transport.write(
            b"POST /ts2021 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: upgrade\r\n"
            b"Upgrade: tailscale-control-protocol\r\nX-Tailscale-Handshake: "
            + base64.b64encode(self._initiator.initiation())
            + _END_OF_HEAD
        )

    def data_received(self, data: bytes) -> None:
        if self._noise is None:
            self._buffer += data
            end = self._buffer.find(_END_OF_HEAD) + len(_END_OF_HEAD)
            if end < len(_END_OF_HEAD) or len(self._buffer) < end + RESPONSE_SIZE:
                return
            head, response = self._buffer[:end], bytes(self._buffer[end : end + RESPONSE_SIZE])
            assert head.startswith(b"HTTP/1.1 101 "), head
            assert self._initiator is not None
            self._noise = self._initiator.consume_response(response)
            data = bytes(self._buffer[end + RESPONSE_SIZE :])
            self._buffer.clear()
            self._begin()
        self._take(self._early.receive_data(self._noise.receive_data(data)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        lost = ConnectionError(f"node {self.number} lost its connection")
        for waiting in (self._ready, *self._over.values()):
            if not waiting.done():
                waiting.set_exception(lost)
                waiting.exception()  # whoever waits sees it; nobody may

    # Inside.

    def _begin(self) -> None:
        window = struct.pack(">HL", _INITIAL_WINDOW_SIZE, _MAX_WINDOW)
        whole = struct.pack(">L", _MAX_WINDOW - _DEFAULT_WINDOW)
        self._send(_PREFACE + _frame(_SETTINGS, 0, 0, window) + _frame(_WINDOW_UPDATE, 0, 0, whole))
        self._ready.set_result(None)

    def _begin_poll(self) -> None:
        self.map.begin()
        request = self._machine.map_request(stream=True, endpoints=(self._endpoint,))
        self._poll = self._send_request("/machine/map", request)

    def _send(self, frames: bytes) -> None:
        if self._noise is not None and self._transport is not None:
            self._transport.write(self._noise.seal(frames))

    async def _request(self, path: str, message: Message) -> bytes:
        stream = self._send_request(path, message)
        await self._over[stream]
        status, body = self._statuses.pop(stream), bytes(self._bodies.pop(stream))
        assert status == 200, f"{path}: {status} {body!r}"
        return body

    def _send_request(self, path: str, message: Message) -> int:
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._over[stream] = asyncio.get_running_loop().create_future()
        self._bodies[stream] = bytearray()
        headers = {":method": "POST", ":path": path, ":scheme": "http", ":authority": "127.0.0.1"}
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
        self._send(
            _frame(_HEADERS, _END_HEADERS, stream, block)
            + _frame(_DATA, _END_STREAM, stream, codec.encode(message))
        )
        return stream

    def _take(self, data: bytes) -> None:
        self._buffer += data
        start = 0
        while len(self._buffer) >= start + _FRAME.size:
            high, low, kind, flags, stream = _FRAME.unpack_from(self._buffer, start)
            end = start + _FRAME.size + (high << 16 | low)
            if len(self._buffer) < end:
                break
            self._handle(kind, flags, stream, bytes(self._buffer[start + _FRAME.size : end]))
            start = end
        del self._buffer[:start]

    def _handle(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == _HEADERS:
            self._statuses[stream] = int(dict(self._headers.decode(payload, raw=True))[b":status"])
        elif kind == _DATA and stream == self._poll:
            if self.map.receive_data(payload):
                if not self._ready.done():
                    self._ready.set_result(None)
                self._looked(self)
        elif kind == _DATA:
            self._bodies[stream] += payload
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._send(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        if kind in (_HEADERS, _DATA) and flags & _END_STREAM:
            self._over[stream].set_result(None)
            if stream == self._poll:
                self.polls_lost += 1
                asyncio.get_running_loop().call_later(POLL_AGAIN_S, self._begin_poll)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    high, low = divmod(len(payload), 1 << 16)
    return _FRAME.pack(high, low, kind, flags, stream) + payload


def _text(value: str) -> bytes:
    """A string of less than 127 bytes, as HPACK has it."""
    return bytes([len(value)]) + value.encode()
