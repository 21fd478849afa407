"""Relays behind something that lets only WebSockets pass."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
from pathlib import Path

import pytest

from derp.client import Disconnected
from derp.client_core import Connected
from derp.client_stream import WebSocketStream
from derp.errors import CannotConnect, UpgradeRefused
from derp.frames import FrameError
from derp.relay_node import RelayNode
from tests.derp.keys import ALICE, BOB
from tests.derp.loops import on_both_loops
from tests.derp.nginx import ONLY_WEBSOCKETS, running_nginx
from tests.derp.relays import Certificate, connected_client, running_client, running_relay


@on_both_loops
async def test_proxy_that_passes_only_websockets(tls: Certificate | None, tmp_path: Path) -> None:
    async with (
        running_relay() as relay,
        running_nginx(tmp_path, ONLY_WEBSOCKETS, relay.node.port, tls) as port,
        connected_client(relay.node, BOB) as bob,
    ):
        node = RelayNode("localhost", port, uses_tls=tls is not None, ipv6="none")
        async with connected_client(node, ALICE, tls=tls) as alice:
            packets = [random.Random(n).randbytes(n * 100) for n in range(30)]
            alice.send(bob, *packets)
            bob.send(alice, bytes(65536))
            assert await bob.wait_for_packets(30) == packets
            assert await alice.wait_for_packets(1) == [bytes(65536)]
            assert 0 < await alice.client.ping() < 10


async def test_what_worked_is_taken_again(tmp_path: Path) -> None:
    async with running_relay() as relay, running_nginx(tmp_path, ONLY_WEBSOCKETS, relay.node.port) as port:
        node = RelayNode("localhost", port, uses_tls=False, ipv6="none")
        async with connected_client(node, ALICE) as alice:
            await alice.client.ping()
            assert alice.client._over_websocket == {node}
            for connection in list(relay.server._connections.values()):
                connection.abort()
            await alice.wait_for(Disconnected)
            await alice.wait_for(Connected)
            alice.client.reconnect("the network has changed")
            assert not alice.client._over_websocket
            await alice.wait_for(Disconnected)
            await alice.wait_for(Connected)


async def answer_of(answer: bytes) -> str:
    """What a client says of a server that answers so, whatever it is asked."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        node = RelayNode("localhost", server.sockets[0].getsockname()[1], uses_tls=False, ipv6="none")
        async with running_client(node, ALICE) as client:
            return (await client.wait_for(Disconnected)).reason.removeprefix(f"{node} ")


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (
            b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
            "answers 403 Forbidden, so no relay is there",
        ),
        (
            b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
            "answers 502 Bad Gateway, so no relay is there",
        ),
        (b"HTTP/1.1 426 No\r\nContent-Length: 0\r\n\r\n", "answers 426 No, so no relay is there"),
    ],
)
async def test_refusals(answer: bytes, complaint: str) -> None:
    assert await answer_of(answer) == complaint


def handshake(stream: WebSocketStream, *headers: str) -> bytes:
    """The answer of a server that agrees."""
    request = stream.data_to_send(b"").decode()
    (key,) = (line.split(": ")[1] for line in request.split("\r\n") if line.startswith("Sec-WebSocket-Key"))
    accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {base64.b64encode(accept).decode()}",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def opened() -> WebSocketStream:
    stream = WebSocketStream(RelayNode("relay.example.org"), "1a")
    assert stream.receive_data(handshake(stream, "Sec-WebSocket-Protocol: derp")) == b""
    return stream


def test_request() -> None:
    request = WebSocketStream(RelayNode("relay.example.org", 8443), "1a").data_to_send(b"").decode()
    assert request.startswith("GET /derp HTTP/1.1\r\nHost: relay.example.org:8443\r\n")
    assert "\r\nSec-WebSocket-Protocol: derp\r\n" in request
    assert "\r\nIdeal-Node: 1a\r\n" in request


def test_boundaries_mean_nothing() -> None:
    stream = opened()
    assert stream.receive_data(bytes.fromhex("0203") + b"abc" + bytes.fromhex("8002") + b"de") == b"abcde"
    assert stream.receive_data(bytes.fromhex("82")) == b""
    assert stream.receive_data(bytes.fromhex("01") + b"f") == b"f"
    assert stream.receive_data(bytes.fromhex("8100")) == b""


def test_pings_are_answered() -> None:
    stream = opened()
    assert stream.receive_data(bytes.fromhex("8902") + b"hi") == b""
    reply = stream.data_to_send(b"")
    assert reply[:2] == bytes.fromhex("8a82")  # a pong of two bytes, masked


def test_after_the_close_nothing_is_sent() -> None:
    stream = opened()
    assert stream.receive_data(bytes.fromhex("8802") + (1008).to_bytes(2, "big")) == b""
    stream.data_to_send(b"")
    assert stream.data_to_send(b"late") == b""


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", UpgradeRefused),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n", CannotConnect),
        (b"220 mail.example.org ESMTP\r\n\r\n", CannotConnect),
        (b"x" * 100_000, CannotConnect),
    ],
)
def test_answers_that_are_no_websocket(answer: bytes, error: type[Exception]) -> None:
    stream = WebSocketStream(RelayNode("r"), "")
    stream.data_to_send(b"")
    with pytest.raises(error):
        stream.receive_data(answer)


def test_another_sub_protocol() -> None:
    stream = WebSocketStream(RelayNode("r"), "")
    with pytest.raises(CannotConnect, match="not for DERP"):
        stream.receive_data(handshake(stream))


@pytest.mark.parametrize("data", [bytes.fromhex("83"), bytes.fromhex("827f") + b"\x00" * 4 + b"\xff" * 4])
def test_broken_messages(data: bytes) -> None:
    stream = opened()
    with pytest.raises(FrameError):
        stream.receive_data(data + bytes(100))
