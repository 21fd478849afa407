"""A relay on real sockets in the event loop of the test, and clients that remember what happened to them."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import NameOID

from derp import frames
from derp.buckets import TokenBucket
from derp.certificates import ServerTls
from derp.client import ClientEvent, RelayClient
from derp.client_core import Connected, PacketsReceived
from derp.dial import DialOptions
from derp.front import Front
from derp.listen import ListenAddress, open_listeners
from derp.login import ClientInfo, open_server_info_untrusted, seal_client_info
from derp.relay_node import RelayNode
from derp.server import RelayServer, Verify
from derp.server_core import Limits, ServerCore
from derp.upgrade import encode_request
from derp.web import add_routes
from meshproto.keys import NodePrivate, NodePublic
from tests.derp.keys import MESH_KEY, RELAY

EventT = TypeVar("EventT")
PATIENCE_S = 20.0


@dataclass
class RunningRelay:
    """What a test needs of a relay."""

    core: ServerCore
    server: RelayServer
    node: RelayNode
    front: Front
    listener: asyncio.Server


@asynccontextmanager
async def running_relay(
    *,
    key: NodePrivate = RELAY,
    limits: Limits | None = None,
    verify: Verify | None = None,
    tls: Certificate | None = None,
    port: int = 0,
    accept_limit: TokenBucket | None = None,
) -> AsyncIterator[RunningRelay]:
    """A relay on a port of 127.0.0.1."""
    core = ServerCore(
        key, entropy=os.urandom, mesh_key=MESH_KEY, verifies_clients=verify is not None, limits=limits
    )
    async with RelayServer.open(core, verify) as server:
        app = web.Application()
        add_routes(app, server)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        assert runner.server is not None
        front = Front(server, runner.server, accept_limit)
        (listening,) = open_listeners(ListenAddress("127.0.0.1", port))
        context = tls.server_context(key.public) if tls else None
        listener = await asyncio.get_running_loop().create_server(front, sock=listening, ssl=context)
        node = RelayNode("localhost", listening.getsockname()[1], uses_tls=tls is not None, ipv6="none")
        try:
            yield RunningRelay(core, server, node, front, listener)
        finally:
            listener.close()
            await server.close()
            await runner.cleanup()


@dataclass
class RunningClient:
    """A client, and everything it has seen."""

    key: NodePrivate
    client: RelayClient
    events: list[ClientEvent] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def on_event(self, event: ClientEvent) -> None:
        self.events.append(event)
        self._changed.set()

    @property
    def packets(self) -> list[tuple[NodePublic, bytes]]:
        received = [event for event in self.events if isinstance(event, PacketsReceived)]
        return [(event.source, packet) for event in received for packet in event.packets]

    def send(self, destination: RunningClient, *packets: bytes) -> None:
        for packet in packets:
            self.client.send_packet(destination.key.public, packet)

    async def wait_for(self, kind: type[EventT]) -> EventT:
        """The first event of this kind, which is taken out."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for event in self.events:
                    if isinstance(event, kind):
                        self.events.remove(event)
                        return event
                await self._wait()

    async def wait_for_packets(self, count: int) -> list[bytes]:
        """The packets, once there are so many."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.packets) < count:
                await self._wait()
        return [packet for _, packet in self.packets]

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


@asynccontextmanager
async def running_client(
    node: RelayNode,
    key: NodePrivate,
    *,
    tls: Certificate | None = None,
    info: ClientInfo | None = None,
    use_proxy: bool = False,
) -> AsyncIterator[RunningClient]:
    """A client of the relay, connected or about to be."""
    make_tls = tls.client_context if tls else ssl.create_default_context
    options = DialOptions(make_tls=make_tls, use_proxy=use_proxy)
    running: RunningClient

    def on_event(event: ClientEvent) -> None:
        running.on_event(event)

    running = RunningClient(key, RelayClient(key, [node], on_event, options=options, info=info))
    task = asyncio.create_task(running.client.run())
    try:
        yield running
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@asynccontextmanager
async def connected_client(
    node: RelayNode, key: NodePrivate, *, tls: Certificate | None = None, info: ClientInfo | None = None
) -> AsyncIterator[RunningClient]:
    """A client that has logged in."""
    async with running_client(node, key, tls=tls, info=info) as client:
        await client.wait_for(Connected)
        yield client


class RawClient:
    """A socket to a relay of which the test moves every byte. It reads only when it is told to."""

    def __init__(self, relay: RunningRelay, *, receive_buffer: int | None = None) -> None:
        self._relay = relay
        self._loop = asyncio.get_running_loop()
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.setblocking(False)

    async def __aenter__(self) -> RawClient:
        await self._loop.sock_connect(self.socket, ("127.0.0.1", self._relay.node.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.socket, data)

    async def receive(self, size: int) -> bytes:
        """Exactly so many bytes."""
        data = b""
        async with asyncio.timeout(PATIENCE_S):
            while len(data) < size:
                piece = await self._loop.sock_recv(self.socket, size - len(data))
                assert piece, "the relay closed the connection"
                data += piece
        return data

    async def log_in(self, key: NodePrivate) -> None:
        """As a client that starts fast, byte by byte."""
        server = self._relay.core.public_key
        login = frames.encode(
            frames.FrameType.CLIENT_INFO, seal_client_info(ClientInfo(), key, server, os.urandom)
        )
        await self.send(encode_request("r", fast_start=True) + login)
        assert await self.receive(45) == frames.server_key(server)
        kind, length = struct.unpack(">BI", await self.receive(5))
        assert kind == frames.FrameType.SERVER_INFO
        info = open_server_info_untrusted(await self.receive(length), key, server)
        assert info.version == 2

    async def wait_until_closed(self, patience_s: float = PATIENCE_S) -> bool:
        """Whether the relay closes the connection in that time."""
        try:
            async with asyncio.timeout(patience_s):
                while await self._loop.sock_recv(self.socket, 4096):
                    pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


async def until(condition: Callable[[], bool]) -> None:
    """Look again and again: for what has no event of its own."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1 and some names or addresses, in files."""

    chain: Path
    key: Path

    @classmethod
    def make(
        cls, directory: Path, names: tuple[str, ...] = ("localhost",), *, is_ed25519: bool = False
    ) -> Certificate:
        private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
        if is_ed25519:
            private = ed25519.Ed25519PrivateKey.generate()
        else:
            private = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        now = datetime.now(UTC)
        alternatives = [_general_name(name) for name in names]
        built = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=30))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(
                x509.SubjectAlternativeName([*alternatives, x509.IPAddress(ip_address("127.0.0.1"))]), False
            )
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
            .sign(private, None if is_ed25519 else hashes.SHA256())
        )
        made = cls(directory / "relay.crt", directory / "relay.key")
        made.chain.write_bytes(built.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return made

    def server_context(self, key: NodePublic) -> ssl.SSLContext:
        return ServerTls(self.chain, self.key, key, datetime.now(UTC)).context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.chain))


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
