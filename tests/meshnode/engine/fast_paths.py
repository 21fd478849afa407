"""The fast path between stand-ins: a tunnel that is a socket pair, and peers on the loopback interface."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from meshnode import dataplane
from meshnode.dataplane import (
    MAX_UNIT_IPV6,
    RECEIVE_BUFFER_SIZE,
    AllowedIPs,
    Coalescing,
    DropReason,
    Gate,
    Heard,
    Sent,
    Session,
    SessionTable,
    SocketAddress,
    Unsent,
)
from meshnode.engine.fast_path import PureFastPath
from meshproto.primitives import blake2s_mac
from tests.meshnode.dataplane.kernels import cut
from tests.meshnode.dataplane.packets import udp_packet
from tests.meshnode.engine.fakes import FakeTunDevice

try:
    from meshnode._native import FastPath as NativeFastPath
except ImportError:
    NativeFastPath = None

FAST_PATHS: list[Any] = [PureFastPath, NativeFastPath] if NativeFastPath else [PureFastPath]

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104

MAC1_KEY = bytes(range(32))
MTU = 1280
FOR_EVER = float("inf")
US = bytes([10, 0, 0, 1])
INSIDE = {1: bytes([10, 0, 0, 2]), 2: bytes([10, 9, 0, 2])}
"""The tunnel address of each peer."""
PREFIXES = {1: ("10.0.0.0/24", "fd00::/64"), 2: ("10.9.0.0/16",)}
NOWHERE: SocketAddress = ("255.255.255.255", 9, 0)
"""Where a socket without SO_BROADCAST may not send to."""


OTHER = b"\xff" * 40
"""A datagram that is not WireGuard's."""

NUMBER = 7
"""What the caller knows the socket by."""


class Wire(NamedTuple):
    """One receive of a peer."""

    data: bytes
    stride: int


Messages = list[tuple[bytes, SocketAddress]]


@dataclass(frozen=True)
class Outcome:
    """All that a turn was, whether it is told at once or when asked for."""

    undecided: bytes | None = None
    unsent: list[Unsent] = field(default_factory=list)
    admitted: Messages = field(default_factory=list)
    cookies_wanted: Messages = field(default_factory=list)
    other: Messages = field(default_factory=list)
    unwritten: list[bytes] = field(default_factory=list)
    is_tun_gone: bool = False
    sent: list[Sent] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    drops: dict[DropReason, int] = field(default_factory=dict)


def loopback(family: int = socket.AF_INET, *, gro: bool = True) -> socket.socket:
    """A bound, non-blocking socket."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    if gro:
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    return sock


def address_of(sock: socket.socket) -> SocketAddress:
    host, port = sock.getsockname()[:2]
    return (host, port, 0)


class Far:
    """A peer: its end of the session, and its socket."""

    def __init__(self, peer: int, family: int = socket.AF_INET, *, gro: bool = True) -> None:
        self.peer = peer
        keys = bytes([peer]) * 32, bytes([100 + peer]) * 32
        self.ours = Session(keys[0], keys[1], 10 + peer, 20 + peer)
        """The session of the side under test."""
        self.theirs = Session(keys[1], keys[0], 20 + peer, 10 + peer)
        self.sessions = SessionTable()
        self.sessions.set(20 + peer, self.theirs, 0)
        self.allowed_ips = AllowedIPs()
        for prefix in ("0.0.0.0/0", "::/0"):
            self.allowed_ips.insert(ipaddress.ip_network(prefix), 0)
        self.sock = loopback(family, gro=gro)
        self.address = address_of(self.sock)

    def seal(self, packets: Sequence[bytes]) -> list[bytes]:
        """One datagram for each packet."""
        return [dataplane.seal_packet(self.theirs, packet, MTU) for packet in packets]

    def send(self, datagrams: Sequence[bytes], to: socket.socket) -> None:
        """In one batch: all but the last must be of one size."""
        destination = to.getsockname()
        if len(datagrams) == 1:
            self.sock.sendto(datagrams[0], destination)
        else:
            stride = len(datagrams[0]).to_bytes(2, "little")
            self.sock.sendmsg([b"".join(datagrams)], [(SOL_UDP, UDP_SEGMENT, stride)], 0, destination)

    def receives(self) -> list[Wire]:
        """What came since the last call, as it came."""
        return list(_receives(self.sock))

    def opened(self, receives: Sequence[Wire]) -> list[bytes]:
        """The packets in them. Raises AssertionError when one of the datagrams is not sound."""
        packets = []
        for data, stride in receives:
            out = memoryview(bytearray(len(data)))
            batch = dataplane.open_batch(
                self.sessions, self.allowed_ips, memoryview(data), stride, out, Coalescing.NONE
            )
            assert not batch.drops
            assert not batch.other
            packets += [bytes(out[start + 10 : start + size]) for start, size in batch.units]
        return packets

    def packets(self) -> list[bytes]:
        """The packets that came since the last call."""
        return self.opened(self.receives())


def _receives(sock: socket.socket) -> Iterator[Wire]:
    while True:
        try:
            data, ancillary, _, _ = sock.recvmsg(RECEIVE_BUFFER_SIZE, 128)
        except BlockingIOError:
            return
        strides = [int.from_bytes(value, "little") for _, kind, value in ancillary if kind == UDP_GRO]
        yield Wire(data, strides[0] if strides else len(data))


class Near:
    """The side under test, with two peers."""

    def __init__(self, make: Any, family: int = socket.AF_INET, *, gro: bool = True) -> None:
        self.tun = FakeTunDevice()
        self.sock = loopback(family)
        self.fars = {peer: Far(peer, family, gro=gro) for peer in PREFIXES}
        self.sessions = SessionTable()
        self.allowed_ips = AllowedIPs()
        for peer, far in self.fars.items():
            self.sessions.set(10 + peer, far.ours, peer)
            for prefix in PREFIXES[peer]:
                self.allowed_ips.insert(ipaddress.ip_network(prefix), peer)
        self.gate = Gate(MAC1_KEY)
        self.gate.set_room(64)
        self.path = self.path_over(make, self.tun.device.fd)

    def path_over(self, make: Any, tun: int) -> Any:
        """One more fast path of the same node."""
        return make(tun, self.sessions, self.allowed_ips, self.gate, MTU, MAX_UNIT_IPV6, Coalescing.NONE)

    def merge(self, coalescing: Coalescing) -> None:
        """What the tunnel takes merged from now on."""
        self.path.set_tunnel(self.gate, MTU, MAX_UNIT_IPV6, coalescing)

    def decide(self, *peers: int, to: SocketAddress | None = None, until: float = FOR_EVER) -> None:
        """Tell the fast path how to reach these peers, by default as it should be."""
        for peer in peers:
            far = self.fars[peer]
            self.path.set_flow(peer, far.ours, self.sock, to or far.address, until)

    def turn(self, *, udp: bool = True, tun: bool = True, now: float = 0.0) -> Outcome:
        turn = self.path.turn(self.sock if udp else None, NUMBER, tun, now)
        told = Outcome() if turn is None else Outcome(*turn)
        sent, heard, drops = self.path.take_moved()
        return replace(told, sent=sent, heard=heard, drops=drops)

    def give(self, *packets: bytes) -> None:
        """Put each packet into the tunnel."""
        for packet in packets:
            self.tun.give(bytes(10) + packet)

    def written(self) -> list[bytes]:
        """The packets that the tunnel got since the last call."""
        return [packet for unit in self.tun.written() for packet in cut(unit)]

    def close(self) -> None:
        self.tun.close()
        for sock in (self.sock, *(far.sock for far in self.fars.values())):
            sock.close()


def outgoing(peer: int, payload: bytes) -> bytes:
    """A packet from us to the network of `peer`."""
    return udp_packet(payload, addresses=(US, INSIDE[peer]))


def incoming(peer: int, payload: bytes) -> bytes:
    """A packet from the network of `peer` to us."""
    return udp_packet(payload, addresses=(INSIDE[peer], US))


def handshake(kind: int = 1, mac1_key: bytes = MAC1_KEY) -> bytes:
    """An initiation or a response with a valid mac1 and no mac2."""
    body = bytes([kind, 0, 0, 0]) + bytes({1: 148, 2: 92}[kind] - 36)
    return body + blake2s_mac(mac1_key, body) + bytes(16)


def datagram_size(packet: bytes) -> int:
    """Of what carries it."""
    return len(packet) + -len(packet) % 16 + 32
