"""Two engines in one process, over the loopback interface, with stand-ins for the tunnel devices."""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import os
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop

from meshnode.dataplane import DropReason
from meshnode.disco.events import DiscoDrop
from meshnode.engine import Engine, Tun, UdpOptions, UdpSockets
from meshnode.wireguard import Device, Event, HandshakeCompleted, PeerConfig
from meshproto.addresses import AddrPort
from meshproto.keys import NodePrivate
from stun.messages import encode_binding_request
from tests.lacking import lacking
from tests.meshnode.dataplane.kernels import cut
from tests.meshnode.dataplane.packets import ACK, PSH, V6, parse, tcp_packet, udp_packet
from tests.meshnode.dataplane.test_batch import bulk
from tests.meshnode.engine.fakes import FakeTunDevice
from tests.meshnode.engine.plain import plain_paths, plain_peers

ALL_ON = UdpOptions()
CLONE_NEWNET = 0x40000000
PREFIXES = ("10.0.0.1/32", "fd00::1/128"), ("10.0.0.2/32", "fd00::2/128")


class End:
    """One node."""

    def __init__(self, options: UdpOptions) -> None:
        self.kernel = FakeTunDevice()
        self.key = NodePrivate.generate(os.urandom)
        device = Device(self.key, entropy=os.urandom, wall=time.time)
        self.udp = UdpSockets.open(options=options)
        self.events: list[Event] = []
        self.engine = Engine(
            device,
            plain_paths(self.key.public),
            Tun(self.kernel.device),
            self.udp,
            asyncio.get_running_loop(),
        )
        self.engine.on_event = self.events.append

    def know(self, other: End, prefixes: tuple[str, ...], *hosts: str) -> None:
        allowed = frozenset(ipaddress.ip_network(prefix) for prefix in prefixes)
        candidates = [AddrPort(host, other.engine.local_port) for host in hosts]
        public = other.key.public
        self.engine.configure(self.key, [PeerConfig(public, allowed)], plain_peers({public: candidates}))


async def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)


async def written(end: End, count: int) -> list[bytes]:
    """The packets that the kernel of `end` was given, cut as it would."""
    packets: list[bytes] = []

    def enough() -> bool:
        packets.extend(packet for unit in end.kernel.written() for packet in cut(unit))
        return len(packets) >= count

    await until(enough)
    return packets


Test = Callable[[End, End], Awaitable[None]]


def with_two_engines(
    loop: Callable[[], asyncio.AbstractEventLoop], test: Test, options: UdpOptions = ALL_ON
) -> None:
    async def run() -> None:
        ends = End(options), End(options)
        left, right = ends
        left.know(right, PREFIXES[1], "127.0.0.1")
        right.know(left, PREFIXES[0])
        for end in ends:
            end.engine.start()
        try:
            await test(left, right)
        finally:
            for end in ends:
                await end.engine.close()
                end.kernel.kernel.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    main: Coroutine[Any, Any, None] = run()
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main)


LOOPS = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
"""Each test makes its own loop, so it is no coroutine."""
EVERY_OPTION = pytest.mark.parametrize(
    "options",
    [UdpOptions(), UdpOptions(gso=False), UdpOptions(gro=False), UdpOptions(avoid_equal_tail=True)],
    ids=["all", "no-gso", "no-gro", "unequal-tail"],
)


@LOOPS
@EVERY_OPTION
def test_packets_cross_both_ways(loop: Callable[[], asyncio.AbstractEventLoop], options: UdpOptions) -> None:
    async def test(left: End, right: End) -> None:
        there = udp_packet(b"there")
        left.kernel.give(bytes(10) + there)  # staged until the handshake is through
        assert await written(right, 1) == [there]
        back = udp_packet(b"back", addresses=(bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1])))
        right.kernel.give(bytes(10) + back)
        assert await written(left, 1) == [back]
        six = udp_packet(b"six", addresses=V6)
        left.kernel.give(bytes(10) + six)
        assert await written(right, 1) == [six]
        superpacket = bulk(60000, 1240)
        left.kernel.give(superpacket)
        packets = await written(right, 49)
        assert b"".join(parse(packet).payload for packet in packets) == superpacket[50:]
        assert any(isinstance(event, HandshakeCompleted) for event in left.events)
        assert not left.engine.drops
        unequal = right.engine.drops
        assert unequal in ({}, {DropReason.UNKNOWN_DATAGRAM: unequal[DropReason.UNKNOWN_DATAGRAM]})

    with_two_engines(loop, test, options)


@LOOPS
def test_a_burst_of_small_packets(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test(left: End, right: End) -> None:
        left.kernel.give(bytes(10) + udp_packet(b"first"))
        await written(right, 1)
        acks = [tcp_packet(b"", sequence=k) for k in range(100)]
        for ack in acks:
            left.kernel.give(bytes(10) + ack)
        assert await written(right, 100) == acks

    with_two_engines(loop, test)


@LOOPS
def test_what_is_not_wireguards_goes_elsewhere(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test(left: End, right: End) -> None:
        here = AddrPort("127.0.0.1", left.engine.local_port)
        there = AddrPort("127.0.0.1", right.engine.local_port)
        seen: list[tuple[bytes, AddrPort]] = []
        right.engine.on_stun = lambda datagram, source: seen.append((datagram, source))
        stun = encode_binding_request(bytes(12))
        assert left.engine.send_stun(stun, there)
        stranger = b"TS\xf0\x9f\x92\xac" + os.urandom(32 + 24 + 16)
        left.udp.send(memoryview(stranger), len(stranger), there)
        right.udp.send(memoryview(bytes(20)), 20, here)
        await until(lambda: seen and left.engine.drops and right.engine.paths.drops)
        assert seen == [(stun, here)]
        assert right.engine.paths.drops == {DiscoDrop.UNKNOWN_SENDER: 1}
        assert right.engine.drops == {}
        assert left.engine.drops == {DropReason.UNKNOWN_DATAGRAM: 1}

    with_two_engines(loop, test)


def in_a_slow_network(test: Callable[[], None]) -> None:
    """Run `test` where the loopback interface sends 20 Mbit/s, so that sockets become full."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            slow_network()
            test()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)  # with it, its network namespace goes
    thread.start()
    thread.join()
    for error in errors:
        raise error


def slow_network() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        lacking(f"a network namespace: {os.strerror(ctypes.get_errno())}")
    for command in ("ip link set lo up", "tc qdisc add dev lo root tbf rate 20mbit burst 64kb limit 16mb"):
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        if done.returncode:
            lacking(f"{command}: {done.stderr}")


@LOOPS
@pytest.mark.parametrize(
    "options", [UdpOptions(), UdpOptions(gso=False), UdpOptions(avoid_equal_tail=True)], ids=lambda _: ""
)
def test_a_full_socket_stops_the_tunnel_until_it_is_writable(
    loop: Callable[[], asyncio.AbstractEventLoop], options: UdpOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the fast path, and where every packet goes through the device."""

    async def test(left: End, right: End) -> None:
        left.kernel.give(bytes(10) + udp_packet(b"first"))
        await written(right, 1)
        pauses = 0
        pause = left.engine._pause_tun

        def paused() -> None:
            nonlocal pauses
            pauses += 1
            pause()

        monkeypatch.setattr(left.engine, "_pause_tun", paused)
        left.udp.sockets[0].raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        payload = [bytes([k]) * 1000 for k in range(200)]
        for k, part in enumerate(payload):
            left.kernel.give(bytes(10) + tcp_packet(part, sequence=k * 1000, flags=ACK | PSH))
        packets = [parse(packet) for packet in await written(right, len(payload))]
        assert [packet.payload for packet in packets] == payload
        assert [packet.sequence for packet in packets] == list(range(0, 200_000, 1000))
        assert pauses
        assert not left.udp.sockets[0].is_blocked
        assert not left.engine.drops

    in_a_slow_network(lambda: with_two_engines(loop, test, options))


@LOOPS
def test_a_peer_that_nobody_knows_how_to_reach(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test(left: End, right: End) -> None:
        back = udp_packet(b"back", addresses=(bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1])))
        right.kernel.give(bytes(10) + back)
        await until(lambda: right.engine.drops)
        assert right.engine.drops == {DropReason.NO_DESTINATION: 1}  # its initiation
        left.kernel.give(bytes(10) + udp_packet(b"hello"))
        assert await written(right, 1)
        assert right.engine.paths.confirmed(left.key.public) == AddrPort("127.0.0.1", left.engine.local_port)
        assert await written(left, 1) == [back]

    with_two_engines(loop, test)


@LOOPS
def test_a_removed_peer(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test(left: End, right: End) -> None:
        left.kernel.give(bytes(10) + udp_packet(b"first"))
        await written(right, 1)
        left.engine.configure(left.key, [], [])
        left.kernel.give(bytes(10) + udp_packet(b"second"))
        await until(lambda: left.engine.drops)
        assert left.engine.drops == {DropReason.NO_PEER_FOR_DESTINATION: 1}
        assert left.engine.paths.confirmed(right.key.public) is None

    with_two_engines(loop, test)


def replace_tunnel(end: End, descriptor: int) -> None:
    """Let the tunnel's descriptor be another file."""
    end.engine._pause_tun()
    os.dup2(descriptor, end.kernel.device.fd)
    end.engine._resume_tun()


@LOOPS
def test_a_deleted_interface_ends_reading_only(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test(left: End, right: End) -> None:
        gone: list[bool] = []
        left.engine.on_tun_gone = lambda: gone.append(True)
        reading, writing = os.pipe2(os.O_NONBLOCK)
        os.close(reading)
        replace_tunnel(left, writing)  # readable, because of an error, and then EBADF
        os.close(writing)
        await until(lambda: gone)
        left.engine.initiate(right.key.public)
        await until(lambda: any(isinstance(event, HandshakeCompleted) for event in left.events))
        assert gone == [True]

    with_two_engines(loop, test)


@LOOPS
def test_a_tunnel_that_takes_nothing_is_counted(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test(left: End, right: End) -> None:
        reading, writing = os.pipe2(os.O_NONBLOCK)
        replace_tunnel(right, reading)
        os.close(reading)
        left.kernel.give(bytes(10) + udp_packet(b"lost"))
        await until(lambda: right.engine.drops)
        assert right.engine.drops == {DropReason.TUN_WRITE_FAILED: 1}
        os.close(writing)

    with_two_engines(loop, test)


@LOOPS
def test_a_disco_message_in_the_turn_of_data(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """It makes the engine forget how it sent; what left in the same turn is accounted for all the same."""

    async def test(left: End, right: End) -> None:
        left.kernel.give(bytes(10) + udp_packet(b"first"))
        await written(right, 1)
        left.kernel.give(bytes(10) + udp_packet(b"second"))
        await written(right, 1)
        before = dict(left.engine.sent.packets)
        stranger = b"TS\xf0\x9f\x92\xac" + os.urandom(32 + 24 + 16)
        here = AddrPort("127.0.0.1", left.engine.local_port)
        right.udp.send(memoryview(stranger), len(stranger), here)
        for number in range(3):
            left.kernel.give(bytes(10) + udp_packet(bytes([number])))
        left.engine._on_udp_readable(left.udp.sockets[0])
        assert [parse(packet).payload for packet in await written(right, 3)] == [b"\0", b"\1", b"\2"]
        assert left.engine.paths.drops == {DiscoDrop.UNKNOWN_SENDER: 1}
        assert left.engine.sent.packets["direct_ipv4"] == before["direct_ipv4"] + 3
        assert not left.engine.drops

    with_two_engines(loop, test)


@LOOPS
def test_what_was_moved_is_accounted_for_soon(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def test(left: End, right: End) -> None:
        for number in range(20):
            left.kernel.give(bytes(10) + udp_packet(bytes([number])))
            await written(right, 1)
        await until(lambda: left.engine.sent.packets.get("direct_ipv4", 0) >= 20)
        await until(lambda: right.engine.received.packets.get("direct_ipv4", 0) >= 20)
        sent, received = (
            end.engine.device.stats(other.key.public) for end, other in ((left, right), (right, left))
        )
        assert sent.tx_bytes >= 20 * 64
        assert received.rx_bytes >= 20 * 64

    with_two_engines(loop, test)


def test_another_key_has_another_gate() -> None:
    """Handshakes for the new key are let through on the fast path too."""

    async def test(left: End, right: End) -> None:
        left.kernel.give(bytes(10) + udp_packet(b"first"))
        await written(right, 1)
        right.key = NodePrivate.generate(os.urandom)
        right.know(left, PREFIXES[0])
        await asyncio.sleep(0.02)  # a new peer's first timestamp may be that of the last handshake
        left.know(right, PREFIXES[1], "127.0.0.1")
        left.kernel.give(bytes(10) + udp_packet(b"second"))
        assert await written(right, 1) == [udp_packet(b"second")]
        assert not right.engine.drops

    with_two_engines(asyncio.new_event_loop, test)


@LOOPS
def test_closing_leaves_nothing_open(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    async def test(left: End, right: End) -> None:
        left.kernel.give(bytes(10) + udp_packet(b"first"))
        await written(right, 1)
        await left.engine.close()
        await left.engine.close()
        right.kernel.give(
            bytes(10) + udp_packet(b"x", addresses=(bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1])))
        )
        await asyncio.sleep(0.05)

    before = open_files()
    with_two_engines(loop, test)
    assert open_files() == before
