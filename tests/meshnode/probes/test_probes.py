"""Single questions: what a relay answers over HTTP, and everything that is no answer; names; pings."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from derp.dial import DialOptions
from derp.errors import CannotConnect
from derp.relay_node import RelayNode
from meshnode.probes import http, icmp
from meshnode.probes.names import Addresses, Names
from tests.derp.loops import on_both_loops
from tests.derp.relays import Certificate, running_relay

DIRECT = DialOptions(use_proxy=False)


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[RelayNode, list[bytes]]]:
    """A server that says this to whatever it is asked, and what it was asked."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield RelayNode("relay.invalid", port, ipv4="127.0.0.1", ipv6="none", uses_tls=False), asked


@on_both_loops
async def test_a_relay_answers(tls: Certificate | None) -> None:
    options = replace(DIRECT, make_tls=tls.client_context) if tls else DIRECT
    async with running_relay(tls=tls) as relay:
        answer = await http.get(relay.node, "/derp/latency-check", options)
        assert answer.status == 200
        assert 0 < answer.latency_s < 5
        assert not answer.is_ipv6
        assert answer.headers["access-control-allow-origin"] == "*"


async def test_what_is_asked() -> None:
    async with answering(b"HTTP/1.0 302 Found\r\nLocation: http://login.example/\r\n\r\n") as (node, asked):
        answer = await http.get(node, "/generate_204?t=1", DIRECT, {"X-Test": "1"})
        assert answer.status == 302, "redirects are not followed"
        assert answer.headers == {"location": "http://login.example/"}
        head = asked[0].decode().split("\r\n")
        assert head[0] == "GET /generate_204?t=1 HTTP/1.1"
        assert f"Host: relay.invalid:{node.port}" in head
        assert "X-Test: 1" in head


async def test_a_relay_that_is_not_trusted(certificate: Certificate) -> None:
    async with running_relay(tls=certificate) as relay:
        with pytest.raises(CannotConnect, match="not trusted"):
            await http.get(relay.node, "/derp/latency-check", DIRECT)


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 2x0\r\n\r\n", b"x" * 100_000],
    ids=["nothing", "half", "ssh", "no status", "endless"],
)
async def test_what_is_no_answer(answer: bytes) -> None:
    async with answering(answer) as (node, _):
        with pytest.raises(CannotConnect):
            await http.get(node, "/", DIRECT)


@on_both_loops
async def test_names_are_looked_up_once() -> None:
    names = Names()
    found = await asyncio.gather(*(names.resolve("localhost") for _ in range(3)))
    assert found[0].ipv4 == "127.0.0.1"
    assert found[0] is found[1] is found[2]
    for wrong in ("nowhere.invalid", "a\0b", "x" * 300, "ä" * 80):
        assert await names.resolve(wrong) == Addresses()


@pytest.mark.system
@on_both_loops
async def test_ping() -> None:
    marked: list[socket.socket] = []
    async with asyncio.timeout(10):
        latency = await icmp.ping("127.0.0.1", b"1a", mark=marked.append, entropy=os.urandom)
        with pytest.raises(OSError):
            await icmp.ping("255.255.255.255", b"1a", mark=marked.append, entropy=os.urandom)
    assert 0 < latency < 5
    assert len(marked) == 2
