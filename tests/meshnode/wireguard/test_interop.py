"""The device against wireguard-go: its bytes, its timers, its cookies. We have a socket, no tunnel device."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshnode import dataplane
from meshnode.dataplane import DropReason
from meshnode.wireguard import DEFAULT, Device, Event, HandshakeCompleted, PeerConfig, Timings, messages
from meshproto.keys import NodePrivate
from tests.meshnode.wireguard import forging
from tests.meshnode.wireguard.simulation import key, network
from tests.netlab.host import Host
from tests.netlab.lab import Lab
from tests.netlab.waiting import wait_for
from tests.netlab.wireguard_go import WireGuardGo

pytestmark = pytest.mark.interop

OURS, THEIRS = "10.77.0.1", "10.77.0.2"
PSK = bytes(range(32))
FAST = Timings(rekey_after_time=1.0, rekey_timeout=0.3)
CLONE_NEWNET = 0x40000000
ECHO_REQUEST, ECHO_REPLY = 8, 0


def socket_in(host: Host) -> socket.socket:
    """A UDP socket of this process that lives in the host's namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with (
        Path("/proc/thread-self/ns/net").open() as here,
        Path(f"/run/netns/{host.namespace}").open() as there,
    ):
        assert libc.setns(there.fileno(), CLONE_NEWNET) == 0
        try:
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        finally:
            assert libc.setns(here.fileno(), CLONE_NEWNET) == 0


def echo(kind: int, source: str, destination: str, number: int, payload: bytes = b"mesh" * 14) -> bytes:
    """One TUN read with an ICMP echo message."""
    icmp = struct.pack("!BBHHH", kind, 0, 0, 7, number) + payload
    total = sum(struct.unpack(f"!{len(icmp) // 2}H", icmp))
    total = (total & 0xFFFF) + (total >> 16)
    icmp = icmp[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + icmp[4:]
    header = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0))
    header += socket.inet_aton(source) + socket.inet_aton(destination)
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header[10:12] = struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)
    return bytes(10) + bytes(header) + icmp


class Us:
    """The smallest shell around a device. Answers echo requests; keeps the numbers of echo replies."""

    def __init__(self, host: Host, private: NodePrivate, timings: Timings) -> None:
        self.socket = socket_in(host)
        self.socket.bind(("127.0.0.1", 0))
        self.device = Device(private, entropy=os.urandom, wall=time.time, mtu=1420, timings=timings)
        self.theirs = ("127.0.0.1", 51820)
        self.replies: list[int] = []
        self.events: list[Event] = []
        self.cookie_replies = 0
        self._out = memoryview(bytearray(dataplane.SEAL_BUFFER_SIZE))

    def send(self, packet: bytes) -> None:
        sealed = self.device.encapsulate(memoryview(packet), self._out, time.monotonic())
        for unit in sealed.units if sealed else ():
            self.socket.sendto(self._out[unit.offset : unit.offset + unit.length], self.theirs)
        self.settle()

    def ping(self, number: int) -> None:
        self.send(echo(ECHO_REQUEST, OURS, THEIRS, number))

    def settle(self) -> None:
        now = time.monotonic()
        while (due := self.device.next_timeout()) is not None and due <= now:
            self.device.handle_timeout(now)
        self.events += self.device.take_events()
        for outgoing in self.device.take_datagrams():
            self.socket.sendto(outgoing.datagram, self.theirs)

    def run_until(self, done: Callable[[], bool], limit: float) -> bool:
        """Serve the socket until `done`, or for `limit` seconds."""
        deadline = time.monotonic() + limit
        while not done() and time.monotonic() < deadline:
            self.settle()
            if select.select([self.socket], [], [], 0.01)[0]:
                self._receive(*self.socket.recvfrom(65536))
        return done()

    def _receive(self, datagram: bytes, source: tuple[str, int]) -> None:
        self.cookie_replies += messages.message_type(datagram) == messages.COOKIE_REPLY
        received = self.device.decapsulate(
            memoryview(datagram), len(datagram), source, self._out, time.monotonic()
        )
        for packet in [bytes(self._out[offset : offset + length]) for offset, length in received.units]:
            kind, number = packet[30], int.from_bytes(packet[36:38], "big")
            if kind == ECHO_REPLY:
                self.replies.append(number)
            elif kind == ECHO_REQUEST:
                reply = bytearray(packet)
                reply[22:26], reply[26:30] = packet[26:30], packet[22:26]
                reply[30] = ECHO_REPLY
                checksum = int.from_bytes(packet[32:34], "big") + 0x0800
                reply[32:34] = ((checksum & 0xFFFF) + (checksum >> 16)).to_bytes(2, "big")
                self.send(bytes(reply))

    def handshakes(self) -> int:
        return sum(isinstance(event, HandshakeCompleted) for event in self.events)


class Pair:
    """wireguard-go in a host, us beside it."""

    def __init__(self, host: Host, private: NodePrivate) -> None:
        self.host = host
        self.private = private
        self.sockets: list[socket.socket] = []
        self.go = WireGuardGo(host, base64.b64encode(key(60).raw).decode())
        self.go.start([f"{THEIRS}/24"])

    def us(
        self, *, psk: bytes | None = None, their_psk: bytes | None = None, timings: Timings = DEFAULT
    ) -> Us:
        us = Us(self.host, self.private, timings)
        self.sockets.append(us.socket)
        self.go.set_peer(
            self.private.public.base64(),
            [f"{OURS}/32"],
            endpoint=f"127.0.0.1:{us.socket.getsockname()[1]}",
            preshared_key=base64.b64encode(their_psk).decode() if their_psk else None,
        )
        us.device.set_peers(
            [PeerConfig(key(60).public, frozenset({network(f"{THEIRS}/32")}), psk)], time.monotonic()
        )
        return us

    def close(self) -> None:
        for ours in self.sockets:
            ours.close()
        self.go.kill()


@pytest.fixture
def both() -> Iterator[Pair]:
    with Lab("wg") as lab:
        pair = Pair(lab.host("go"), key(61))
        with contextlib.closing(pair):
            yield pair


@pytest.mark.parametrize("psk", [None, PSK])
def test_we_initiate(both: Pair, psk: bytes | None) -> None:
    us = both.us(psk=psk, their_psk=psk)
    us.ping(1)
    assert us.run_until(lambda: us.replies == [1], 5.0)
    assert both.go.peer(both.private.public.base64()).latest_handshake > 0
    assert us.handshakes() == 1


def test_they_initiate(both: Pair) -> None:
    us = both.us()
    ping = both.host.popen("ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", OURS)
    assert us.run_until(lambda: ping.returncode is not None, 10.0)
    assert ping.returncode == 0
    assert us.events[0] != us.events[-1]
    assert us.handshakes() == 1


def test_wrong_psk_is_silence(both: Pair) -> None:
    us = both.us(psk=PSK, their_psk=None, timings=FAST)
    us.ping(1)
    assert not us.run_until(lambda: bool(us.replies), 2.0)
    assert us.device.drops[DropReason.INVALID_HANDSHAKE] >= 3


def test_no_packet_is_lost_across_renewals(both: Pair) -> None:
    """Ours every second here, five times, with a ping every 10 ms."""
    us = both.us(timings=FAST)
    for number in range(600):
        us.ping(number)
        us.run_until(lambda: False, 0.01)
    us.run_until(lambda: len(us.replies) == 600, 2.0)
    assert us.replies == list(range(600))
    assert us.handshakes() >= 5


def test_their_cookies(both: Pair) -> None:
    """Flooded, wireguard-go asks us for a cookie and answers the initiation that has it."""
    us = both.us(timings=FAST)
    flooder = socket_in(both.host)
    garbage = [forging.garbage_initiation(key(60).public) for _ in range(4000)]

    def flooded() -> bool:
        for message in garbage[::4]:
            flooder.sendto(message, us.theirs)
        us.device.initiate(key(60).public, time.monotonic())
        us.run_until(lambda: False, 0.3)
        return us.cookie_replies > 0

    with flooder:
        wait_for(flooded, 20, what="a cookie reply")
        us.ping(1)
        assert us.run_until(lambda: us.replies == [1], 10.0)
    assert us.device.drops[DropReason.INVALID_COOKIE] == 0


def test_our_cookies(both: Pair) -> None:
    """Flooded, we ask wireguard-go for a cookie; its retry has it and is answered while the flood goes on."""
    us = both.us()
    garbage = b"".join(forging.garbage_initiation(us.device.public_key) for _ in range(100))
    ping = both.host.popen("ping", "-n", "-c", "1", "-W", "9", OURS)

    def flood_and_see() -> bool:
        us.settle()
        us.device.decapsulate(memoryview(garbage), 148, ("192.0.2.1", 1), us._out, time.monotonic())
        us.device.take_datagrams()  # what the flooder would get
        us.device.handle_timeout(time.monotonic())
        return ping.returncode is not None

    assert us.run_until(flood_and_see, 12.0)
    assert ping.returncode == 0
    assert us.device.drops[DropReason.UNDER_LOAD] > 100
