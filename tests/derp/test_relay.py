"""A relay and its clients on real sockets, in clear and with TLS."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, suppress

import pytest

from derp import frames
from derp.buckets import TokenBucket
from derp.client import Disconnected, RelayClient
from derp.client_core import Connected, HealthChanged, PeerGone, Restarting
from derp.frames import PeerGoneReason
from derp.relay_node import RelayNode
from derp.server_core import Limits
from derp.session import Admission
from derp.upgrade import encode_request
from tests.derp.keys import ALICE, BOB, CAROL, RELAY
from tests.derp.loops import on_both_loops
from tests.derp.pairs import alice_and_bob
from tests.derp.relay_sim import DISCO
from tests.derp.relays import (
    Certificate,
    RawClient,
    connected_client,
    running_client,
    running_relay,
    until,
)


@on_both_loops
async def test_two_clients_exchange_packets(tls: Certificate | None) -> None:
    async with alice_and_bob(tls=tls) as (_, alice, bob):
        packets = [random.Random(n).randbytes(n * 100) for n in range(30)]
        alice.send(bob, *packets)
        bob.send(alice, DISCO)
        assert await bob.wait_for_packets(30) == packets
        assert bob.packets[0][0] == ALICE.public
        assert await alice.wait_for_packets(1) == [DISCO]
        assert 0 < await alice.client.ping() < 10


@on_both_loops
async def test_largest_packet(tls: Certificate | None) -> None:
    async with alice_and_bob(tls=tls) as (_, alice, bob):
        packet = random.Random(0).randbytes(65536)
        alice.send(bob, packet, packet)
        assert await bob.wait_for_packets(2) == [packet, packet]


@on_both_loops
async def test_tls_is_started_fast(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """The login goes out with the request, as the certificates say the relay's key."""
    asked: list[bool] = []

    def note(host: str, *, fast_start: bool, ideal_node: str = "") -> bytes:
        asked.append(fast_start)
        return encode_request(host, fast_start=fast_start, ideal_node=ideal_node)

    monkeypatch.setattr("derp.client_stream.encode_request", note)
    async with (
        running_relay(tls=certificate) as relay,
        connected_client(relay.node, ALICE, tls=certificate),
    ):
        assert asked == [True]
    async with running_relay() as relay, connected_client(relay.node, ALICE):
        assert asked == [True, False]


async def test_peer_gone() -> None:
    async with running_relay() as relay, connected_client(relay.node, BOB) as bob:
        async with connected_client(relay.node, ALICE) as alice:
            alice.send(bob, b"packet")
            await bob.wait_for_packets(1)
        assert await bob.wait_for(PeerGone) == PeerGone(ALICE.public, PeerGoneReason.DISCONNECTED)
        bob.send(alice, DISCO)
        assert await bob.wait_for(PeerGone) == PeerGone(ALICE.public, PeerGoneReason.NOT_HERE)


async def test_duplicate_login() -> None:
    async with (
        running_relay() as relay,
        connected_client(relay.node, BOB) as bob,
        connected_client(relay.node, ALICE) as old,
    ):
        async with connected_client(relay.node, ALICE) as new:
            bob.send(old, b"to the newest")
            assert await new.wait_for_packets(1) == [b"to the newest"]
            old.send(bob, b"still here")
            await bob.wait_for_packets(1)
            assert (await old.wait_for(HealthChanged)).problem
            assert (await new.wait_for(HealthChanged)).problem
            bob.send(old, b"to the last that spoke")
            assert await old.wait_for_packets(1) == [b"to the last that spoke"]
        assert await old.wait_for(HealthChanged) == HealthChanged("")
        assert not [event for event in bob.events if isinstance(event, PeerGone)]


@on_both_loops
async def test_restart() -> None:
    """Clients are told, wait for the relay, and go on; packets sent meanwhile arrive."""
    async with AsyncExitStack() as clients:
        async with running_relay() as relay:
            alice = await clients.enter_async_context(connected_client(relay.node, ALICE))
            bob = await clients.enter_async_context(connected_client(relay.node, BOB))
        for client in (alice, bob):
            assert (await client.wait_for(Restarting)).reconnect_in_s == 0.25
            await client.wait_for(Disconnected)
        assert not alice.client.is_connected
        alice.send(bob, b"sent while there was no relay")
        async with running_relay(port=relay.node.port):
            await bob.wait_for(Connected)
            await alice.wait_for(Connected)
            alice.send(bob, b"after")
            await until(lambda: b"after" in [packet for _, packet in bob.packets])


async def test_packets_wait_for_the_connection() -> None:
    async with (
        running_relay() as relay,
        connected_client(relay.node, BOB) as bob,
        running_client(relay.node, ALICE) as alice,
    ):
        alice.send(bob, *[b"%d" % number for number in range(32)])
        assert await bob.wait_for_packets(32) == [b"%d" % number for number in range(32)]


@on_both_loops
async def test_slow_reader_loses_only_its_own_packets() -> None:
    async with (
        running_relay() as relay,
        connected_client(relay.node, ALICE) as alice,
        connected_client(relay.node, BOB) as bob,
        RawClient(relay, receive_buffer=4096) as slow,
    ):
        await slow.log_in(CAROL)  # and read no more
        for number in range(300):
            for _ in range(30):
                alice.client.send_packet(CAROL.public, bytes(1000))
            alice.send(bob, b"%d" % number)
            await bob.wait_for_packets(number + 1)
        assert [packet for _, packet in bob.packets] == [b"%d" % number for number in range(300)]
        assert relay.core.counters.packets_dropped.total() > 4000


@on_both_loops
async def test_what_a_slow_reader_keeps_of_a_relay_is_bounded() -> None:
    async with (
        running_relay() as relay,
        connected_client(relay.node, ALICE) as alice,
        RawClient(relay, receive_buffer=4096) as slow,
    ):
        await slow.log_in(CAROL)
        (session,) = [s for s in relay.core.sessions if s.member and s.member.key == CAROL.public.raw]
        transport = relay.server._connections[session]._transport
        largest = 0
        for _ in range(30):
            for _ in range(30):
                alice.client.send_packet(CAROL.public, bytes(10_000))
            await alice.client.ping()
            waiting = sum(map(len, session._outbox._other.frames))
            largest = max(largest, transport.get_write_buffer_size() + waiting)
        # The high-water mark, the one read that went past it, and the queue.
        assert 64 * 1024 < largest <= 64 * 1024 + 64 * 1024 + 20_000 + 128 * 10_037


@on_both_loops
async def test_reader_that_stopped_is_disconnected() -> None:
    async with (
        running_relay(limits=Limits(write_timeout_s=0.3)) as relay,
        connected_client(relay.node, ALICE) as alice,
        RawClient(relay, receive_buffer=4096) as slow,
    ):
        await slow.log_in(CAROL)
        while not relay.core.counters.write_timeouts:
            for _ in range(30):
                alice.client.send_packet(CAROL.public, bytes(10_000))
            await alice.client.ping()
        await until(lambda: len(relay.core.sessions) == 1)


@on_both_loops
async def test_client_that_is_not_admitted() -> None:
    asked: list[Admission] = []

    async def verify(admission: Admission) -> bool:
        asked.append(admission)
        return admission.key == ALICE.public

    async with running_relay(verify=verify) as relay, connected_client(relay.node, ALICE):
        async with running_client(relay.node, BOB) as bob:
            assert "closed the connection" in (await bob.wait_for(Disconnected)).reason
        assert asked[:2] == [Admission(ALICE.public, "127.0.0.1"), Admission(BOB.public, "127.0.0.1")]
        assert relay.core.counters.logins_refused >= 1


async def test_verification_that_fails_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    async def verify(_: Admission) -> bool:
        raise RuntimeError("broken")

    async with running_relay(verify=verify) as relay, running_client(relay.node, ALICE) as alice:
        await alice.wait_for(Disconnected)
    assert "could not verify a client" in caplog.text


@on_both_loops
async def test_rate_limit_slows_down_and_loses_nothing() -> None:
    limits = Limits(bytes_per_second=200_000, burst_bytes=1)
    async with (
        running_relay(limits=limits) as relay,
        connected_client(relay.node, BOB) as bob,
        RawClient(relay) as alice,
    ):
        await alice.log_in(ALICE)
        loop = asyncio.get_running_loop()
        started = loop.time()
        for _ in range(20):
            await alice.send(frames.send_packet(BOB.public.raw, bytes(10_000)))
        assert len(await bob.wait_for_packets(20)) == 20
        assert loop.time() - started > 0.3


HOSTILE_STREAMS = {
    "noise": random.Random(1).randbytes(5000),
    "TLS to a relay in clear": bytes.fromhex("16030100"),
    "endless head": b"GET /derp HTTP/1.1\r\n" + b"A: b\r\n" * 10_000,
    "no login": encode_request("r", fast_start=True) + frames.send_packet(BOB.public.raw, b"x"),
    "login of noise": encode_request("r", fast_start=True)
    + frames.encode(2, random.Random(2).randbytes(200)),
    "huge login": encode_request("r", fast_start=True) + bytes.fromhex("02ffffffff") + bytes(100_000),
    "huge packet": encode_request("r", fast_start=True) + bytes.fromhex("0400ffffff") + bytes(100_000),
    "post": b"POST /derp HTTP/1.1\r\nHost: r\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n",
}


@pytest.mark.parametrize("stream", HOSTILE_STREAMS.values(), ids=HOSTILE_STREAMS)
async def test_hostile_bytes_disturb_nobody(stream: bytes) -> None:
    async with alice_and_bob() as (relay, alice, bob):
        for _ in range(3):
            async with RawClient(relay) as hostile:
                with suppress(ConnectionError):
                    await hostile.send(stream)
                await hostile.wait_until_closed(0.2)
        alice.send(bob, b"packet")
        assert await bob.wait_for_packets(1) == [b"packet"]
        await until(lambda: len(relay.core.sessions) == 2)


async def test_silent_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("derp.front.HEAD_TIMEOUT_S", 0.1)
    monkeypatch.setattr("derp.session.LOGIN_TIMEOUT_S", 0.1)
    async with running_relay() as relay:
        for stream in (b"", b"GET /derp", encode_request("r", fast_start=True)):
            async with RawClient(relay) as silent:
                await silent.send(stream)
                assert await silent.wait_until_closed()


async def test_accepts_are_limited() -> None:
    limit = TokenBucket(0.001, 2, asyncio.get_running_loop().time())
    async with (
        running_relay(accept_limit=limit) as relay,
        connected_client(relay.node, ALICE),
        connected_client(relay.node, BOB),
        running_client(relay.node, CAROL) as carol,
    ):
        await carol.wait_for(Disconnected)
        assert relay.front.accepts_refused >= 1


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (RelayNode("127.0.0.1", 1, uses_tls=False), "127.0.0.1:1 cannot be reached: Connection refused"),
        (RelayNode("localhost", 1, uses_tls=False, ipv4="none", ipv6="none"), "cannot be reached"),
        (RelayNode("relay.invalid", 1, uses_tls=False), "has no address"),
    ],
)
async def test_relay_that_is_not_there(node: RelayNode, reason: str) -> None:
    async with running_client(node, ALICE) as alice:
        assert reason in (await alice.wait_for(Disconnected)).reason


async def test_something_else_listens_there() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        node = RelayNode("127.0.0.1", server.sockets[0].getsockname()[1], uses_tls=False)
        async with running_client(node, ALICE) as alice:
            assert (
                "answers 404 Not Found, so no relay is there" in (await alice.wait_for(Disconnected)).reason
            )


async def test_untrusted_certificate(certificate: Certificate) -> None:
    async with running_relay(tls=certificate) as relay, running_client(relay.node, ALICE) as alice:
        assert "certificate that is not trusted" in (await alice.wait_for(Disconnected)).reason


async def test_second_relay_of_the_region_is_told_of_the_first() -> None:
    async with running_relay(key=RELAY) as relay:
        dead = RelayNode("127.0.0.1", 1, name="1a", uses_tls=False)

        connected = asyncio.Event()
        client = RelayClient(
            ALICE, [dead, relay.node], lambda event: connected.set() if isinstance(event, Connected) else None
        )
        task = asyncio.create_task(client.run())
        await asyncio.wait_for(connected.wait(), 10)
        (session,) = relay.core.sessions
        assert session.member is not None
        assert not session.member.is_ideal
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
