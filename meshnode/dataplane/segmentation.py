"""From one TUN read to the IP packets it stands for: checksums completed, superpackets cut.

Per segment k of payload size g:

    IPv4   total length; identification + k; header checksum
    IPv6   payload length
    TCP    sequence + k * g; FIN and PSH on the last only; CWR on the first only; checksum
    UDP    length; checksum, 0 written as 0xffff

Everything else is copied from the superpacket's headers (reference §5.4, §5.5).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from meshnode.dataplane import virtio
from meshnode.dataplane.checksum import complement, congruent_sum

__all__ = ["MalformedSuperpacket", "Superpacket"]

_IPV4_VARYING: Final = struct.Struct(
    ">HH4sH"
)  # at 2: total length, identification, fragment to protocol, checksum
_TCP_VARYING: Final = struct.Struct(">I8sH")  # at 4: sequence, acknowledgement to window, checksum
_UDP_VARYING: Final = struct.Struct(">HH")  # at 4: length, checksum
_U16: Final = struct.Struct(">H")

_WriteIP: TypeAlias = Callable[[memoryview, int, int], None]  # (segment, k, size)
_WriteTransport: TypeAlias = Callable[[memoryview, int, int, int], None]  # (segment, k, size, payload sum)


class MalformedSuperpacket(ValueError):
    """The offload header does not fit the packet behind it."""


class Superpacket:
    """One TUN read, understood. Raises MalformedSuperpacket and nothing else, whatever the bytes.

    It stands for `count` packets of `segment_size` bytes, the last of `last_size`.
    """

    __slots__ = (
        "_csum_field",
        "_csum_start",
        "_gso_size",
        "_header_size",
        "_packet",
        "_protocol",
        "count",
        "last_size",
        "segment_size",
    )

    def __init__(self, read: memoryview) -> None:
        if len(read) < virtio.HEADER_SIZE + 20:
            raise MalformedSuperpacket("too short for an IP packet")
        flags, gso_type, _, gso_size, csum_start, csum_offset = virtio.HEADER.unpack_from(read)
        self._packet = packet = read[virtio.HEADER_SIZE :]
        self._csum_start = csum_start
        self._csum_field = csum_start + csum_offset if flags & virtio.NEEDS_CSUM else 0
        if flags & virtio.NEEDS_CSUM and self._csum_field + 2 > len(packet):
            raise MalformedSuperpacket("checksum field outside the packet")
        gso_type &= ~virtio.GSO_ECN
        if gso_type == virtio.GSO_NONE:
            self._protocol = 0
            self.count = 1
            self.segment_size = self.last_size = len(packet)
            return
        self._protocol = virtio.UDP if gso_type == virtio.GSO_UDP_L4 else virtio.TCP
        self._header_size = _header_size(packet, gso_type, csum_start, csum_offset)
        if not gso_size or not flags & virtio.NEEDS_CSUM:
            raise MalformedSuperpacket("a superpacket without segment size or without checksum start")
        self._gso_size = gso_size
        payload = len(packet) - self._header_size
        self.count = max(1, -(-payload // gso_size))
        self.segment_size = self._header_size + min(gso_size, payload)
        if self.segment_size - (40 if packet[0] >> 4 == 6 else 0) > 0xFFFF:
            raise MalformedSuperpacket("a segment longer than its length field can say")
        self.last_size = len(packet) - (self.count - 1) * gso_size

    def segments(self, padded_size: int, padded_last_size: int) -> Iterator[memoryview]:
        """The packets, each with zeroes up to the given size. Each is valid until the next is asked for."""
        room = memoryview(bytearray(max(padded_size, padded_last_size)))
        if not self._protocol:
            self._complete(room)
            yield room
            return
        packet, header_size, gso_size = self._packet, self._header_size, self._gso_size
        header = bytes(packet[:header_size])
        write_ip = self._ip_writer(header)
        write_transport = (
            self._tcp_writer(header) if self._protocol == virtio.TCP else self._udp_writer(header)
        )
        room[:header_size] = header
        last = self.count - 1
        segment, size = room[:padded_size], self.segment_size
        for k in range(self.count):
            if k == last:
                segment, size = room[:padded_last_size], self.last_size
                segment[size:] = bytes(padded_last_size - size)
            start = header_size + k * gso_size
            payload = packet[start : start + gso_size]
            segment[header_size:size] = payload
            write_ip(segment, k, size)
            write_transport(segment, k, size, congruent_sum(payload))
            yield segment

    def _complete(self, room: memoryview) -> None:
        """One packet; its transport checksum still lacks everything but the pseudo-header."""
        packet = self._packet
        room[: len(packet)] = packet
        if self._csum_field:
            checksum = complement(congruent_sum(packet[self._csum_start :]) or 65535)
            if self._csum_field - self._csum_start == virtio.UDP_CSUM_OFFSET:
                checksum = checksum or 0xFFFF  # on the wire 0 means "none" (RFC 768)
            _U16.pack_into(room, self._csum_field, checksum)

    def _ip_writer(self, header: bytes) -> _WriteIP:
        if header[0] >> 4 == 6:

            def write_ipv6(segment: memoryview, _: int, size: int) -> None:
                _U16.pack_into(segment, 4, size - 40)

            return write_ipv6

        first_id = header[4] << 8 | header[5]
        fixed = header[6:10]
        base = congruent_sum(header[:2] + fixed + header[12 : self._csum_start])

        def write_ipv4(segment: memoryview, k: int, size: int) -> None:
            identification = first_id + k & 0xFFFF
            checksum = complement(base + size + identification)
            _IPV4_VARYING.pack_into(segment, 2, size, identification, fixed, checksum)

        return write_ipv4

    def _tcp_writer(self, header: bytes) -> _WriteTransport:
        start = self._csum_start
        sequence = int.from_bytes(header[start + 4 : start + 8], "big")
        gso_size, last = self._gso_size, self.count - 1
        at_first, between, at_last = self._tcp_flags(header[start + 8 : start + 16])
        base = self._pseudo_sum(header) + congruent_sum(header[start : start + 4] + header[start + 18 :])
        field = start + 4

        def write_tcp(segment: memoryview, k: int, size: int, payload_sum: int) -> None:
            fixed, fixed_sum = at_last if k == last else between if k else at_first
            number = sequence + k * gso_size & 0xFFFFFFFF
            checksum = complement(payload_sum + base + fixed_sum + number + size - start)
            _TCP_VARYING.pack_into(segment, field, number, fixed, checksum)

        return write_tcp

    def _tcp_flags(self, fixed: bytes) -> tuple[tuple[bytes, int], ...]:
        """Acknowledgement to window for the first, the middle and the last segment, each with its sum."""
        flags = fixed[5]
        early = flags & ~(virtio.TCP_FIN | virtio.TCP_PSH)
        last = flags & ~virtio.TCP_CWR if self.count > 1 else flags
        variants = (early, early & ~virtio.TCP_CWR, last)
        return tuple(
            (variant, congruent_sum(variant))
            for variant in (fixed[:5] + bytes([flags]) + fixed[6:] for flags in variants)
        )

    def _udp_writer(self, header: bytes) -> _WriteTransport:
        start = self._csum_start
        base = self._pseudo_sum(header) + congruent_sum(header[start : start + 4])
        field = start + 4

        def write_udp(segment: memoryview, _: int, size: int, payload_sum: int) -> None:
            length = size - start
            checksum = complement(payload_sum + base + length + length)
            _UDP_VARYING.pack_into(segment, field, length, checksum or 0xFFFF)

        return write_udp

    def _pseudo_sum(self, header: bytes) -> int:
        """Addresses and protocol; the length differs per segment."""
        return congruent_sum(header[8:40] if header[0] >> 4 == 6 else header[12:20]) + self._protocol


def _header_size(packet: memoryview, gso_type: int, csum_start: int, csum_offset: int) -> int:
    """Bytes before the payload, computed: hdr_len is a hint that may cover the whole first segment."""
    version = packet[0] >> 4
    if version == 4:
        ip_fits = gso_type != virtio.GSO_TCPV6 and csum_start == (packet[0] & 15) * 4 >= 20
    else:
        ip_fits = version == 6 and gso_type != virtio.GSO_TCPV4 and csum_start >= 40
    if not ip_fits:
        raise MalformedSuperpacket("the IP header does not fit the offload type")
    if gso_type == virtio.GSO_UDP_L4:
        size, field = csum_start + virtio.UDP_HEADER_SIZE, virtio.UDP_CSUM_OFFSET
    elif gso_type in (virtio.GSO_TCPV4, virtio.GSO_TCPV6) and csum_start + 20 <= len(packet):
        size, field = csum_start + (packet[csum_start + 12] >> 4) * 4, virtio.TCP_CSUM_OFFSET
    else:
        raise MalformedSuperpacket("unknown offload type or no room for a TCP header")
    if csum_offset != field or not size <= len(packet) or size < csum_start + 8:
        raise MalformedSuperpacket("the transport header does not fit the packet")
    if gso_type != virtio.GSO_UDP_L4 and size < csum_start + 20:
        raise MalformedSuperpacket("TCP header shorter than 20 bytes")
    return size
