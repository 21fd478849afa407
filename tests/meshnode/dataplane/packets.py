"""IP packets for tests, made and taken apart without the code under test, and the two ends of a session."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from meshnode.dataplane import Coalescing, Opened
from tests.meshnode.dataplane.kernels import EVERYTHING, PURE, Kernel

TCP = 6
UDP = 17
ACK = 0x10
PSH = 0x08
FIN = 0x01
CWR = 0x80

V4 = (bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]))
V6 = (ipaddress.IPv6Address("fd00::1").packed, ipaddress.IPv6Address("fd00::2").packed)


def slow_sum(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for (word,) in struct.iter_unpack(">H", data + bytes(len(data) & 1)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    return source + destination + struct.pack(">II", length, protocol)


def ip_header(
    addresses: tuple[bytes, bytes], protocol: int, length: int, *, identification: int = 0
) -> bytes:
    """IPv4 or IPv6 by the addresses' size; `length` is that of what follows."""
    source, destination = addresses
    if len(source) == 16:
        return struct.pack(">IHBB", 6 << 28, length, protocol, 64) + source + destination
    fixed = struct.pack(">BBHHHBB", 0x45, 0, 20 + length, identification & 0xFFFF, 0x4000, 64, protocol)
    checksum = 0xFFFF - slow_sum(fixed + bytes(2) + source + destination)
    return fixed + struct.pack(">H", checksum) + source + destination


def tcp_packet(
    payload: bytes,
    *,
    addresses: tuple[bytes, bytes] = V4,
    ports: tuple[int, int] = (1111, 2222),
    sequence: int = 0,
    acknowledgement: int = 77,
    flags: int = ACK,
    options: bytes = b"",
    window: int = 500,
    identification: int = 0,
) -> bytes:
    offset_flags = (20 + len(options)) // 4 << 12 | flags
    before = struct.pack(">HHIIHH", *ports, sequence & 0xFFFFFFFF, acknowledgement, offset_flags, window)
    rest = bytes(2) + options + payload
    length = len(before) + 2 + len(rest)
    pseudo = pseudo_header(*addresses, TCP, length)
    checksum = 0xFFFF - slow_sum(pseudo + before + bytes(2) + rest)
    segment = before + struct.pack(">H", checksum) + rest
    return ip_header(addresses, TCP, length, identification=identification) + segment


def udp_packet(
    payload: bytes,
    *,
    addresses: tuple[bytes, bytes] = V4,
    ports: tuple[int, int] = (1111, 2222),
    identification: int = 0,
) -> bytes:
    length = 8 + len(payload)
    before = struct.pack(">HHH", *ports, length)
    checksum = 0xFFFF - slow_sum(pseudo_header(*addresses, UDP, length) + before + bytes(2) + payload)
    datagram = before + struct.pack(">H", checksum or 0xFFFF) + payload
    return ip_header(addresses, UDP, length, identification=identification) + datagram


@dataclass(frozen=True)
class Parsed:
    """What a receiver's stack would see. Raises AssertionError when a checksum or a length is wrong."""

    flow: tuple[int, bytes, bytes, int, int]
    sequence: int
    flags: int
    payload: bytes


def parse(packet: bytes) -> Parsed:
    if packet[0] >> 4 == 4:
        assert slow_sum(packet[:20]) == 0xFFFF
        assert int.from_bytes(packet[2:4], "big") == len(packet)
        start, source, destination, protocol = 20, packet[12:16], packet[16:20], packet[9]
    else:
        assert int.from_bytes(packet[4:6], "big") + 40 == len(packet)
        start, source, destination, protocol = 40, packet[8:24], packet[24:40], packet[6]
    transport = packet[start:]
    if protocol == TCP or transport[6:8] != bytes(2):
        assert slow_sum(pseudo_header(source, destination, protocol, len(transport)) + transport) == 0xFFFF
    ports = struct.unpack_from(">HH", transport)
    if protocol == UDP:
        assert int.from_bytes(transport[4:6], "big") == len(transport)
        return Parsed((protocol, source, destination, *ports), 0, 0, transport[8:])
    header_size = (transport[12] >> 4) * 4
    sequence = int.from_bytes(transport[4:8], "big")
    return Parsed((protocol, source, destination, *ports), sequence, transport[13], transport[header_size:])


class Pair:
    """The two ends of one session, peer 1 allowed everything."""

    SEND_INDEX = 0x11223344
    KEYS = (bytes(range(32)), bytes(range(32, 64)))

    def __init__(self, kernel: Kernel = PURE) -> None:
        self.kernel = kernel
        self.sender = kernel.Session(self.KEYS[0], self.KEYS[1], 5, self.SEND_INDEX)
        self.receiver = kernel.Session(self.KEYS[1], self.KEYS[0], self.SEND_INDEX, 5)
        self.sessions = kernel.SessionTable()
        self.sessions.set(self.SEND_INDEX, self.receiver, 1)
        self.allowed_ips = kernel.AllowedIPs()
        for prefix in ("0.0.0.0/0", "::/0"):
            self.allowed_ips.insert(ipaddress.ip_network(prefix), 1)

    def open(
        self, datagrams: bytes, stride: int, coalescing: Coalescing = EVERYTHING
    ) -> tuple[list[bytes], Opened]:
        """The units that come out, and the rest."""
        out = bytearray(b"\xee" * len(datagrams))
        opened = self.kernel.open_batch(
            self.sessions, self.allowed_ips, memoryview(datagrams), stride, memoryview(out), coalescing
        )
        return [bytes(out[offset : offset + length]) for offset, length in opened.units], opened
