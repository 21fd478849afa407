"""Superpackets cut as the RFCs and the kernel want, and reads that a hostile or broken device might give."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.dataplane.segmentation import MalformedSuperpacket
from tests.meshnode.dataplane import packets
from tests.meshnode.dataplane.kernels import Kernel
from tests.meshnode.dataplane.packets import ACK, CWR, FIN, PSH, V4, V6, parse, slow_sum

NEEDS_CSUM = 1


def offload(gso_type: int, gso_size: int, start: int, field: int, *, flags: int = NEEDS_CSUM) -> bytes:
    return struct.pack("=BBHHHH", flags, gso_type, 0, gso_size, start, field)


def tcp_superpacket(payload: bytes, gso_size: int, *, is_ipv6: bool, **fields: int | bytes) -> bytes:
    addresses = V6 if is_ipv6 else V4
    packet = packets.tcp_packet(payload, addresses=addresses, **fields)  # type: ignore[arg-type]
    return offload(4 if is_ipv6 else 1, gso_size, 40 if is_ipv6 else 20, 16) + packet


OPTIONS = st.sampled_from([b"", bytes([1, 1, 8, 10]) + bytes(range(8)), b"\x01" * 40])


@given(
    payload=st.binary(max_size=700),
    gso_size=st.integers(1, 300),
    is_ipv6=st.booleans(),
    sequence=st.integers(0, 2**32 - 1),
    identification=st.integers(0, 65535),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR, ACK | CWR | PSH]),
    options=OPTIONS,
)
def test_tcp(
    kernel: Kernel,
    payload: bytes,
    gso_size: int,
    is_ipv6: bool,
    sequence: int,
    identification: int,
    flags: int,
    options: bytes,
) -> None:
    read = tcp_superpacket(
        payload,
        gso_size,
        is_ipv6=is_ipv6,
        sequence=sequence,
        identification=identification,
        flags=flags,
        options=options,
    )
    segments = kernel.segments(read)
    parsed = [parse(segment) for segment in segments]
    assert b"".join(one.payload for one in parsed) == payload
    assert all(len(one.payload) == gso_size for one in parsed[:-1])
    last = len(parsed) - 1
    for k, one in enumerate(parsed):
        assert one.sequence == (sequence + k * gso_size) % 2**32
        early = 0 if k == last else FIN | PSH
        assert one.flags == flags & ~early & ~(CWR if k else 0)
        if not is_ipv6:
            assert int.from_bytes(segments[k][4:6], "big") == (identification + k) % 65536


@given(payload=st.binary(max_size=700), gso_size=st.integers(1, 300), is_ipv6=st.booleans())
def test_udp(kernel: Kernel, payload: bytes, gso_size: int, is_ipv6: bool) -> None:
    packet = packets.udp_packet(payload, addresses=V6 if is_ipv6 else V4)
    segments = kernel.segments(offload(5, gso_size, 40 if is_ipv6 else 20, 6) + packet)
    parsed = [parse(segment) for segment in segments]
    assert b"".join(one.payload for one in parsed) == payload
    assert all(len(one.payload) == gso_size for one in parsed[:-1])


def test_ip_options_and_extension_headers_are_copied(kernel: Kernel) -> None:
    tcp = packets.tcp_packet(bytes(range(200)))[20:]
    ipv4 = struct.pack(">BBHHHBBH4s4s", 0x46, 0, 0, 5, 0, 64, 6, 0, *V4) + b"\x01\x01\x01\x00" + tcp
    segments = kernel.segments(offload(1, 100, 24, 16) + ipv4)
    assert [len(segment) for segment in segments] == [144, 144]
    for segment in segments:
        assert slow_sum(segment[:24]) == 0xFFFF
        pseudo = packets.pseudo_header(*V4, 6, len(segment) - 24)
        assert slow_sum(pseudo + segment[24:]) == 0xFFFF

    ipv6 = struct.pack(">IHBB16s16s", 6 << 28, 0, 0, 64, *V6) + bytes([6, 0, 1, 4, 0, 0, 0, 0]) + tcp
    for segment in kernel.segments(offload(4, 100, 48, 16) + ipv6):
        assert int.from_bytes(segment[4:6], "big") == len(segment) - 40
        pseudo = packets.pseudo_header(*V6, 6, len(segment) - 48)
        assert slow_sum(pseudo + segment[48:]) == 0xFFFF


@given(payload=st.binary(max_size=200), is_ipv6=st.booleans(), is_udp=st.booleans())
def test_a_partial_checksum_is_completed(kernel: Kernel, payload: bytes, is_ipv6: bool, is_udp: bool) -> None:
    addresses = V6 if is_ipv6 else V4
    make = packets.udp_packet if is_udp else packets.tcp_packet
    packet = bytearray(make(payload, addresses=addresses))
    start, field, protocol = 40 if is_ipv6 else 20, 6 if is_udp else 16, 17 if is_udp else 6
    partial = slow_sum(packets.pseudo_header(*addresses, protocol, len(packet) - start))
    packet[start + field : start + field + 2] = partial.to_bytes(2, "big")
    (segment,) = kernel.segments(offload(0, 0, start, field) + packet)
    assert segment == make(payload, addresses=addresses)


def test_udp_checksum_zero_is_written_as_ones(kernel: Kernel) -> None:
    """RFC 768: on the wire zero means that there is none."""
    for number in range(65536):
        packet = bytearray(packets.udp_packet(number.to_bytes(2, "big")))
        if packet[26:28] == b"\xff\xff":
            break
    packet[26:28] = slow_sum(packets.pseudo_header(*V4, 17, 10)).to_bytes(2, "big")
    for read in (offload(0, 0, 20, 6) + packet, offload(5, 100, 20, 6) + packet):
        (segment,) = kernel.segments(read)
        assert segment[26:28] == b"\xff\xff"


def test_a_complete_packet_is_left_alone(kernel: Kernel) -> None:
    packet = packets.tcp_packet(b"hello")
    assert kernel.segments(bytes(10) + packet) == [packet]
    assert kernel.segments(offload(0, 0, 20, 16, flags=2) + packet) == [packet]  # DATA_VALID


def test_ecn_bit_of_the_type_is_ignored(kernel: Kernel) -> None:
    read = tcp_superpacket(bytes(200), 100, is_ipv6=False)
    assert kernel.segments(offload(0x81, 100, 20, 16) + read[10:]) == kernel.segments(read)


TCP4 = packets.tcp_packet(bytes(300))
TCP6 = packets.tcp_packet(bytes(300), addresses=V6)
UDP4 = packets.udp_packet(bytes(300))


@pytest.mark.parametrize(
    "read",
    [
        b"",
        bytes(29),
        offload(1, 0, 20, 16) + TCP4,  # no segment size
        offload(1, 100, 20, 16, flags=0) + TCP4,
        offload(1, 100, 20, 6) + TCP4,  # the field of another protocol
        offload(1, 100, 40, 16) + TCP4,
        offload(1, 100, 16, 16) + b"\x44" + TCP4[1:],
        offload(4, 100, 40, 16) + TCP4,  # another version
        offload(1, 100, 20, 16) + TCP6,
        offload(4, 100, 20, 16) + TCP6,
        offload(5, 100, 20, 16) + UDP4,
        offload(3, 100, 20, 6) + UDP4,  # UFO is no more
        offload(9, 100, 20, 6) + UDP4,
        offload(5, 100, 20, 6) + UDP4[:26],
        offload(1, 100, 20, 16) + TCP4[:36],
        offload(1, 100, 20, 16) + TCP4[:32] + b"\x40" + TCP4[33:],  # header of 16 bytes
        offload(1, 100, 20, 16) + TCP4[:32] + b"\xf0" + TCP4[33:60],  # header beyond the end
        offload(0, 0, 20, 400) + TCP4,  # checksum field beyond the end
        offload(0, 0, 65535, 65535) + TCP4,
        offload(1, 100, 20, 16) + b"\x55" + TCP4[1:],
    ],
)
def test_a_header_that_does_not_fit(kernel: Kernel, read: bytes) -> None:
    with pytest.raises(MalformedSuperpacket):
        kernel.segments(read)


@given(st.binary(max_size=200))
def test_any_bytes(kernel: Kernel, read: bytes) -> None:
    with contextlib.suppress(MalformedSuperpacket):
        assert sum(map(len, kernel.segments(read))) >= len(read) - 10


@given(
    st.sampled_from([TCP4, TCP6, UDP4]),
    st.tuples(st.integers(0, 255), st.integers(0, 5) | st.integers(128, 134), *[st.integers(0, 500)] * 4),
    st.integers(0, 340),
    st.binary(max_size=8),
)
def test_nearly_sound_reads(
    kernel: Kernel, packet: bytes, header: tuple[int, ...], position: int, garbage: bytes
) -> None:
    changed = bytearray(packet)
    changed[position : position + len(garbage)] = garbage
    with contextlib.suppress(MalformedSuperpacket):
        kernel.segments(struct.pack("=BBHHHH", *header) + changed)
