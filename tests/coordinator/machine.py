"""A machine as the coordinator meets it: Noise and HTTP/2 over a real socket, and a map that it keeps.

Small on purpose, and not the node's own client: what this one accepts is what the protocol says.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import msgspec

from meshproto import codec
from meshproto.early import EarlyPayloadReader
from meshproto.keys import DiscoPrivate, MachinePrivate, MachinePublic, NodePrivate, NodePublic
from meshproto.messages import (
    DERPMap,
    DNSConfig,
    Hostinfo,
    MapRequest,
    MapResponse,
    Message,
    Node,
    OverTLSPublicKeyResponse,
    RegisterAuth,
    RegisterRequest,
    RegisterResponse,
)
from meshproto.noise.ik import RESPONSE_SIZE, Initiator
from meshproto.noise.records import Transport

VERSION = 130


@dataclass
class NetMap:
    """The network as one machine knows it, reduced from map responses (control-protocol §8.2)."""

    own: Node | None = None
    peers: dict[int, Node] = field(default_factory=dict)
    owners: dict[int, str] = field(default_factory=dict)
    filters: dict[str, Any] = field(default_factory=dict)
    relays: DERPMap | None = None
    dns: DNSConfig | None = None

    def apply(self, response: MapResponse) -> None:
        """Take over what `response` says; absent means unchanged."""
        self.own = response.node or self.own
        self.relays = response.derp_map or self.relays
        self.dns = self.dns if response.dns_config is None else response.dns_config
        if response.peers:
            self.peers = {peer.id: peer for peer in response.peers}
        else:
            for peer_id in response.peers_removed:
                self.peers.pop(peer_id, None)
            for peer in response.peers_changed:
                self.peers[peer.id] = peer
            for patch in response.peers_changed_patch:
                self._patch(patch)
        self.owners |= {profile.id: profile.login_name for profile in response.user_profiles}
        self.filters |= response.packet_filters or {}

    def _patch(self, patch: Any) -> None:
        names = {"derp_region": "home_derp"}
        changes = {
            names.get(name, name): value
            for name in patch.__struct_fields__
            if name != "node_id" and (value := getattr(patch, name)) not in (None, 0)
        }
        if changes.get("online") is False or "online" not in changes:
            pass
        elif "last_seen" not in changes:
            changes["last_seen"] = None
        if changes.get("key_expiry") and changes["key_expiry"].year == 1:
            changes["key_expiry"] = None
        if patch.online is False:
            changes["online"] = False
        self.peers[patch.node_id] = msgspec.structs.replace(self.peers[patch.node_id], **changes)

    def names(self) -> set[str]:
        return {peer.name.partition(".")[0] for peer in self.peers.values()}

    def peer(self, name: str) -> Node:
        return next(peer for peer in self.peers.values() if peer.name.partition(".")[0] == name)


@dataclass
class Reply:
    status: int
    body: bytes


class _Stream:
    """One HTTP/2 stream, seen from the client."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.chunks: asyncio.Queue[bytes | None] = asyncio.Queue()

    def end(self) -> None:
        if not self.status.done():
            self.status.set_exception(ConnectionError("stream ended without a response"))
            self.status.exception()
        self.chunks.put_nowait(None)


class Connection:
    """A control connection. `read_on` stands for whether this end takes what comes."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, transport: Transport
    ) -> None:
        self._reader = reader
        self.writer = writer
        self._noise = transport
        self._early = EarlyPayloadReader()
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self._streams: dict[int, _Stream] = {}
        self.acknowledge = True
        self.authority = "vpn.test:80"
        self.closed = asyncio.Event()
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self._noise.seal(self.h2.data_to_send()))

    async def run(self) -> None:
        """Read until the end."""
        try:
            while data := await self._reader.read(65536):
                plaintext = self._early.receive_data(self._noise.receive_data(data))
                for event in self.h2.receive_data(plaintext) if plaintext else ():
                    self._handle(event)
                self.flush()
        except ConnectionError:
            pass
        finally:
            self.closed.set()
            for stream in self._streams.values():
                stream.end()

    def _handle(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self._streams[event.stream_id].status.set_result(
                    int(dict[Any, Any](event.headers)[":status"])
                )
            case h2.events.DataReceived():
                if self.acknowledge:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                self._streams[event.stream_id].chunks.put_nowait(event.data)
            case h2.events.StreamEnded() | h2.events.StreamReset():
                self._streams[event.stream_id].end()

    def open(self, method: str, path: str, body: bytes) -> tuple[int, _Stream]:
        stream_id = self.h2.get_next_available_stream_id()
        stream = self._streams[stream_id] = _Stream()
        headers = [(":method", method), (":path", path), (":scheme", "https"), (":authority", self.authority)]
        self.h2.send_headers(stream_id, headers)
        for start in range(0, len(body), 16384):
            self.h2.send_data(stream_id, body[start : start + 16384])
        self.h2.end_stream(stream_id)
        self.flush()
        return stream_id, stream

    async def request(self, method: str, path: str, message: Message | bytes = b"") -> Reply:
        body = message if isinstance(message, bytes) else codec.encode(message)
        _, stream = self.open(method, path, body)
        status = await stream.status
        content = b""
        while (chunk := await stream.chunks.get()) is not None:
            content += chunk
        return Reply(status, content)

    def reset(self, stream_id: int) -> None:
        self.h2.reset_stream(stream_id)
        self.flush()


class Poll:
    """A streaming map request and the map it has led to so far."""

    def __init__(self, connection: Connection, stream_id: int, stream: _Stream) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._stream = stream
        self._reader = codec.MapStreamReader(compressed=True)
        self.messages: list[MapResponse] = []
        self.map = NetMap()
        self.ended = False

    async def next(self) -> MapResponse | None:
        """The next message; None at the end of the stream."""
        while not self.messages:
            chunk = await self._stream.chunks.get()
            if chunk is None:
                self.ended = True
                return None
            self.messages += self._reader.receive_data(chunk)
        message = self.messages.pop(0)
        self.map.apply(message)
        return message

    async def rest(self) -> list[MapResponse]:
        """Every message until the end of the stream."""
        messages = []
        async with asyncio.timeout(10):
            while (message := await self.next()) is not None:
                messages.append(message)
        return messages

    async def until(self, condition: Any) -> NetMap:
        """Read on until `condition(map)` holds."""
        async with asyncio.timeout(10):
            while not condition(self.map):
                assert await self.next() is not None, "the stream ended"
        return self.map

    async def is_quiet(self, seconds: float = 0.3) -> bool:
        """Whether nothing comes for a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.next()
                return False
        return True

    def stop(self) -> None:
        self._connection.reset(self._stream_id)


class Machine:
    """One installation: a machine key that stays, and the node key of the moment."""

    def __init__(self, port: int, hostname: str) -> None:
        self.port = port
        self.key = MachinePrivate.generate(os.urandom)
        self.private_key = NodePrivate.generate(os.urandom)
        self.node_key: NodePublic = self.private_key.public
        self.old_node_key = NodePublic.zero()
        self.disco_key = DiscoPrivate.generate(os.urandom).public
        self.hostinfo = Hostinfo(hostname=hostname, os="linux")

    def new_node_key(self) -> Self:
        self.old_node_key, self.private_key = self.node_key, NodePrivate.generate(os.urandom)
        self.node_key = self.private_key.public
        return self

    async def server_key(self) -> MachinePublic:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /key?v=130 HTTP/1.1\r\nHost: vpn.test\r\nConnection: close\r\n\r\n")
        response = await reader.read()
        writer.close()
        await writer.wait_closed()
        return codec.decode(response.partition(b"\r\n\r\n")[2], OverTLSPublicKeyResponse).public_key

    @asynccontextmanager
    async def connect(self, server_key: MachinePublic | None = None) -> AsyncIterator[Connection]:
        server_key = server_key or await self.server_key()
        initiator = Initiator(self.key, server_key, VERSION, os.urandom)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(
            b"POST /ts2021 HTTP/1.1\r\nHost: vpn.test\r\nContent-Length: 0\r\nConnection: upgrade\r\n"
            b"Upgrade: tailscale-control-protocol\r\nX-Tailscale-Handshake: "
            + base64.b64encode(initiator.initiation())
            + b"\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        transport = initiator.consume_response(await reader.readexactly(RESPONSE_SIZE))
        connection = Connection(reader, writer, transport)
        task = asyncio.create_task(connection.run())
        try:
            yield connection
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def register_request(self, key: str = "", **fields: Any) -> RegisterRequest:
        return RegisterRequest(
            version=VERSION,
            node_key=self.node_key,
            old_node_key=self.old_node_key,
            auth=RegisterAuth(auth_key=key) if key else None,
            hostinfo=self.hostinfo,
            **fields,
        )

    async def register(self, connection: Connection, key: str = "", **fields: Any) -> RegisterResponse:
        reply = await connection.request("POST", "/machine/register", self.register_request(key, **fields))
        assert reply.status == 200, reply
        return codec.decode(reply.body, RegisterResponse)

    def map_request(self, **fields: Any) -> MapRequest:
        defaults: dict[str, Any] = {
            "version": VERSION,
            "compress": "zstd",
            "keep_alive": True,
            "node_key": self.node_key,
            "disco_key": self.disco_key,
            "hostinfo": self.hostinfo,
        }
        return MapRequest(**defaults | fields)

    async def report(self, connection: Connection, **fields: Any) -> Reply:
        """A lite update."""
        request = self.map_request(stream=False, omit_peers=True, **fields)
        return await connection.request("POST", "/machine/map", request)

    async def poll(self, connection: Connection, **fields: Any) -> Poll:
        """A streaming poll whose first message has been read."""
        body = codec.encode(self.map_request(stream=True, **fields))
        stream_id, stream = connection.open("POST", "/machine/map", body)
        assert await stream.status == 200
        poll = Poll(connection, stream_id, stream)
        assert await poll.next() is not None
        return poll
