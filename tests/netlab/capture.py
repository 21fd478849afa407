"""Recording packets with tcpdump, and reading the UDP datagrams back out of the recording."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.netlab.processes import Process
from tests.netlab.waiting import wait_for

# The pcap savefile format: a 24-byte file header, then a 16-byte header before each packet.
FILE_HEADER = struct.Struct("=IHHiIII")
PACKET_HEADER = struct.Struct("=IIII")
MAGIC_MICROSECONDS = 0xA1B2C3D4
LINKTYPE_ETHERNET = 1
LINKTYPE_RAW = 101

TCP_SYN = 0x02
ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_IPV6 = 0x86DD
TCP = 6
UDP = 17


@dataclass(frozen=True)
class UdpDatagram:
    """One UDP datagram as it was seen on the wire; ends are (address, port)."""

    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes


class Capture:
    """A running tcpdump, recording from the constructor's return on; as a context manager, until its end."""

    def __init__(self, process: Process, path: Path) -> None:
        self._process = process
        self.path = path
        wait_for(lambda: "listening on" in process.output(), 10, what="tcpdump's start")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the recording; everything seen until now is in the file."""
        if self._process.running:
            self._process.interrupt()

    def packets(self) -> list[bytes]:
        """The recorded IP packets, link-layer header taken off; packets of other protocols left out."""
        return list(_ip_packets(self.path.read_bytes()))

    def udp_datagrams(self) -> list[UdpDatagram]:
        """The recorded UDP datagrams in order. Fragments after the first and IPv6 extensions are left out."""
        return [datagram for packet in self.packets() if (datagram := _udp(packet)) is not None]

    def tcp_streams(self, port: int) -> list[bytes]:
        """What was sent to this port over IPv4, one for each connection, put together in order.

        Raises ValueError if a part of one is missing.
        """
        segments: dict[tuple[bytes, int], dict[int, bytes]] = {}
        starts: dict[tuple[bytes, int], int] = {}
        for packet in self.packets():
            if packet[0] >> 4 != 4 or packet[9] != TCP:
                continue
            tcp = packet[(packet[0] & 0x0F) * 4 : int.from_bytes(packet[2:4], "big")]
            source, destination, sequence = struct.unpack_from("!HHI", tcp)
            connection = packet[12:16], source
            if destination != port:
                continue
            if tcp[13] & TCP_SYN:
                starts[connection] = sequence + 1
            elif data := tcp[(tcp[12] >> 4) * 4 :]:
                segments.setdefault(connection, {})[sequence] = data
        return [_put_together(segments.get(connection, {}), at) for connection, at in starts.items()]


def _put_together(segments: dict[int, bytes], at: int) -> bytes:
    """Segments by their sequence number, some of them sent twice; `at` is the first one's."""
    stream = b""
    for sequence, data in sorted(segments.items()):
        known = at + len(stream) - sequence
        if known < 0:
            raise ValueError(f"{-known} bytes are missing")
        stream += data[known:]
    return stream


def _ip_packets(recording: bytes) -> Iterator[bytes]:
    magic, *_, linktype = FILE_HEADER.unpack_from(recording)
    if magic != MAGIC_MICROSECONDS or linktype not in (LINKTYPE_ETHERNET, LINKTYPE_RAW):
        raise ValueError(f"not a recording this reads: magic {magic:#x}, link type {linktype}")
    offset = FILE_HEADER.size
    while offset + PACKET_HEADER.size <= len(recording):
        _, _, captured, _ = PACKET_HEADER.unpack_from(recording, offset)
        offset += PACKET_HEADER.size
        frame = recording[offset : offset + captured]
        offset += captured
        if linktype == LINKTYPE_RAW:
            yield frame
        elif int.from_bytes(frame[12:14], "big") in (ETHERTYPE_IPV4, ETHERTYPE_IPV6):
            yield frame[14:]


def _udp(packet: bytes) -> UdpDatagram | None:
    if packet[0] >> 4 == 4:
        header, protocol = (packet[0] & 0x0F) * 4, packet[9]
        later_fragment = int.from_bytes(packet[6:8], "big") & 0x1FFF
        if later_fragment:
            return None
        source, destination = packet[12:16], packet[16:20]
    else:
        header, protocol = 40, packet[6]
        source, destination = packet[8:24], packet[24:40]
    if protocol != UDP:
        return None
    source_port, destination_port, length = struct.unpack_from("!HHH", packet, header)
    payload = packet[header + 8 : header + max(length, 8)] if length else packet[header + 8 :]
    return UdpDatagram(
        (str(ipaddress.ip_address(source)), source_port),
        (str(ipaddress.ip_address(destination)), destination_port),
        payload,
    )
