"""Merging: what may join what, and that the stack behind the tunnel sees the same packets in order."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.dataplane import Coalescing
from meshnode.dataplane.segmentation import Superpacket
from tests.meshnode.dataplane.kernels import Kernel, cut
from tests.meshnode.dataplane.packets import ACK, FIN, PSH, V4, V6, Parsed, parse, tcp_packet, udp_packet

SYN = 0x02
ECE = 0x40


def counts(units: Sequence[bytes]) -> list[int]:
    return [Superpacket(memoryview(unit)).count for unit in units]


def stream(*sizes: int, sequence: int = 1000, last: int = ACK | PSH) -> list[bytes]:
    """Consecutive TCP segments of one flow."""
    made = []
    for number, size in enumerate(sizes):
        flags = last if number == len(sizes) - 1 else ACK
        payload = bytes([number]) * size
        made.append(tcp_packet(payload, sequence=sequence, flags=flags, identification=number))
        sequence += size
    return made


def test_a_stream_becomes_one_unit(kernel: Kernel) -> None:
    inner = stream(100, 100, 100, 40)
    (unit,) = kernel.coalesce(inner)
    assert cut(unit) == inner


def test_one_packet_stays_as_it_is(kernel: Kernel) -> None:
    for packet in (stream(100)[0], udp_packet(b"x"), b"\x45" + bytes(19)):
        assert kernel.coalesce([packet]) == [bytes(10) + packet]


def test_switched_off(kernel: Kernel) -> None:
    tcp, udp = stream(10, 10), [udp_packet(b"a"), udp_packet(b"b")]
    assert len(kernel.coalesce(tcp + udp, Coalescing.NONE)) == 4
    assert counts(kernel.coalesce(tcp + udp, Coalescing.TCP)) == [2, 1, 1]
    assert counts(kernel.coalesce(tcp + udp, Coalescing.UDP)) == [1, 1, 2]


@pytest.mark.parametrize(
    ("inner", "expected"),
    [
        pytest.param(stream(100, 40, 100), [2, 1], id="a short one closes the group"),
        pytest.param(stream(40, 100), [1, 1], id="nothing larger is appended"),
        pytest.param(stream(10, 10, last=ACK) + stream(10, sequence=2000), [2, 1], id="gap in the sequence"),
        pytest.param(stream(10, 10) + stream(10, sequence=1020), [2, 1], id="PSH closes the group"),
        pytest.param(stream(10, 10)[::-1], [2], id="prepended to the PSH"),
        pytest.param(
            stream(10, sequence=1010, last=ACK) + stream(10, sequence=1000), [1, 1], id="PSH is not prepended"
        ),
        pytest.param(stream(10, 10, last=ACK)[::-1], [2], id="prepended"),
        pytest.param(stream(20, 10, last=ACK)[::-1], [2], id="a larger one is prepended to a single one"),
        pytest.param([stream(20, 10, 10, last=ACK)[k] for k in (1, 2, 0)], [2, 1], id="but not to a group"),
        pytest.param(
            [*stream(10, last=ACK), tcp_packet(b"x" * 10, sequence=1010, acknowledgement=78)],
            [1, 1],
            id="another acknowledgement",
        ),
        pytest.param(
            [*stream(10, last=ACK), tcp_packet(b"x" * 10, sequence=1010, window=9)], [2], id="another window"
        ),
        pytest.param(
            [*stream(10, last=ACK), tcp_packet(b"x" * 10, sequence=1010, options=b"\x01" * 4)],
            [1, 1],
            id="other options",
        ),
        pytest.param(
            [*stream(10, last=ACK), tcp_packet(b"x" * 10, sequence=1010, flags=ACK | FIN)], [1, 1], id="FIN"
        ),
        pytest.param(
            [*stream(10, last=ACK), tcp_packet(b"x" * 10, sequence=1010, flags=ACK | ECE)], [1, 1], id="ECE"
        ),
        pytest.param(
            [tcp_packet(b"", sequence=1000), tcp_packet(b"", sequence=1000)], [1, 1], id="no payload"
        ),
        pytest.param(
            [tcp_packet(b"x", flags=SYN), tcp_packet(b"y", sequence=1, flags=SYN)], [1, 1], id="SYN"
        ),
        pytest.param([udp_packet(b"ab"), udp_packet(b"cd"), udp_packet(b"e")], [3], id="datagrams"),
        pytest.param([udp_packet(b"a"), udp_packet(b"cd")], [1, 1], id="a larger datagram"),
        pytest.param([udp_packet(b""), udp_packet(b"")], [1, 1], id="empty datagrams"),
        pytest.param([udp_packet(b"ab")] * 70, [64, 6], id="no more than 64 datagrams"),
        pytest.param([udp_packet(b"a"), udp_packet(b"b", ports=(1, 2))], [1, 1], id="other ports"),
        pytest.param([udp_packet(b"a"), udp_packet(b"b", addresses=(V4[0], V4[0]))], [1, 1], id="addresses"),
    ],
)
def test_what_may_join(kernel: Kernel, inner: list[bytes], expected: list[int]) -> None:
    units = kernel.coalesce(inner)
    assert counts(units) == expected


def changed(packet: bytes, position: int, value: int) -> bytes:
    """An IPv4 packet with one byte of its IP header set, the header checksum made good again."""
    header = bytearray(packet[:20])
    old = int.from_bytes(header[position & ~1 : (position & ~1) + 2], "big")
    header[position] = value
    new = int.from_bytes(header[position & ~1 : (position & ~1) + 2], "big")
    checksum = (~int.from_bytes(header[10:12], "big") & 0xFFFF) + (~old & 0xFFFF) + new
    while checksum > 0xFFFF:
        checksum = (checksum & 0xFFFF) + (checksum >> 16)
    header[10:12] = (~checksum & 0xFFFF).to_bytes(2, "big")
    return bytes(header) + packet[20:]


@pytest.mark.parametrize(
    ("position", "value"),
    [(1, 4), (6, 0x00), (6, 0xC0), (6, 0x20), (7, 1), (8, 63)],
    ids=["TOS", "no DF", "reserved bit", "more fragments", "fragment offset", "TTL"],
)
def test_ip_fields_that_must_agree(kernel: Kernel, position: int, value: int) -> None:
    first, second = stream(10, 10, last=ACK)
    other = changed(second, position, value)
    assert kernel.coalesce([first, other]) == [bytes(10) + first, bytes(10) + other]


@pytest.mark.parametrize(
    ("word", "expected"),
    [(0x60000001, [2]), (0x60100000, [1, 1])],
    ids=["flow label may differ", "traffic class may not"],
)
def test_ipv6_first_word(kernel: Kernel, word: int, expected: list[int]) -> None:
    first = tcp_packet(b"a" * 10, addresses=V6)
    second = tcp_packet(b"b" * 10, addresses=V6, sequence=10)
    assert counts(kernel.coalesce([first, word.to_bytes(4, "big") + second[4:]])) == expected


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("byte", [10, 37, 45], ids=["IP checksum", "TCP checksum", "payload"])
def test_a_corrupt_packet_stays_alone_and_as_it_is(kernel: Kernel, position: int, byte: int) -> None:
    """A merge would replace its checksum, and so make it look sound."""
    inner = stream(10, 10, 10, last=ACK)
    bad = bytearray(inner[position])
    bad[byte] ^= 0x10
    inner[position] = bytes(bad)
    units = kernel.coalesce(inner)
    assert bytes(10) + bad in units
    assert [packet for unit in units for packet in cut(unit)] == inner


def test_udp_without_checksum(kernel: Kernel) -> None:
    """RFC 768 permits none in IPv4, RFC 8200 does not in IPv6."""
    for addresses, expected in ((V4, [2]), (V6, [1, 1])):
        start = 40 if addresses is V6 else 20
        inner = []
        for payload in (b"ab", b"cd"):
            packet = bytearray(udp_packet(payload, addresses=addresses))
            packet[start + 6 : start + 8] = bytes(2)
            inner.append(bytes(packet))
        assert counts(kernel.coalesce(inner)) == expected


def test_udp_length_that_is_not_the_ip_length(kernel: Kernel) -> None:
    packet = bytearray(udp_packet(b"abcd"))
    packet[25] -= 2
    assert counts(kernel.coalesce([udp_packet(b"abcd"), bytes(packet)])) == [1, 1]
    assert counts(kernel.coalesce([bytes(packet), udp_packet(b"abcd")])) == [1, 1]


def test_no_unit_is_longer_than_a_length_field(kernel: Kernel) -> None:
    inner = stream(*[1400] * 60, last=ACK)
    units = kernel.coalesce(inner)
    assert [len(unit) - 10 - 40 for unit in units] == [46 * 1400, 14 * 1400]
    assert [packet for unit in units for packet in cut(unit)] == inner


def test_interleaved_flows(kernel: Kernel) -> None:
    tcp, other = stream(10, 10, 10), [udp_packet(bytes([k])) for k in range(3)]
    units = kernel.coalesce([packet for pair in zip(tcp, other, strict=True) for packet in pair])
    assert [cut(unit) for unit in units] == [
        tcp,
        [udp_packet(bytes([k]), identification=k) for k in range(3)],
    ]


def test_what_ends_a_flow_is_not_overtaken(kernel: Kernel) -> None:
    """A segment after the FIN or the pure acknowledgement of its flow must not slip in before it."""
    first, second = stream(10, 10, last=ACK)
    for between in (tcp_packet(b"", sequence=1010, flags=ACK | FIN), tcp_packet(b"", sequence=1010)):
        assert kernel.coalesce([first, between, second]) == [bytes(10) + p for p in (first, between, second)]
    fragment = changed(first, 6, 0x20)
    assert counts(kernel.coalesce([first, fragment, second])) == [1, 1, 1]


# --- properties ---

SIZES = st.integers(0, 60)
TCP_PACKETS = st.builds(
    lambda size, sequence, flags, port, is_ipv6, acknowledgement: tcp_packet(
        bytes([sequence & 255]) * size,
        sequence=sequence,
        flags=flags,
        ports=(port, 80),
        addresses=V6 if is_ipv6 else V4,
        acknowledgement=acknowledgement,
    ),
    st.sampled_from([0, 10, 20]),
    st.integers(0, 8).map(lambda step: (2**32 - 40 + 10 * step) % 2**32),
    st.sampled_from([ACK] * 4 + [ACK | PSH, ACK | FIN]),
    st.integers(1, 2),
    st.booleans(),
    st.sampled_from([1, 1, 1, 2]),
)
UDP_PACKETS = st.builds(
    lambda payload, port, is_ipv6: udp_packet(payload, ports=(port, 53), addresses=V6 if is_ipv6 else V4),
    st.binary(max_size=3),
    st.integers(1, 2),
    st.booleans(),
)


def delivered(inner: Sequence[bytes]) -> dict[object, list[Parsed]]:
    """Per flow, in order. PSH only says when to wake the reader: it moves to the end of a merged group."""
    flows: dict[object, list[Parsed]] = {}
    for packet in inner:
        one = parse(packet)
        flows.setdefault(one.flow, []).append(Parsed(one.flow, one.sequence, one.flags & ~PSH, one.payload))
    return flows


@given(st.lists(TCP_PACKETS | UDP_PACKETS, max_size=12))
def test_the_stack_sees_the_same_packets(kernel: Kernel, inner: list[bytes]) -> None:
    units = kernel.coalesce(inner)
    after = delivered([packet for unit in units for packet in cut(unit)])
    before = delivered(inner)
    assert after.keys() == before.keys()
    for flow, packets in before.items():
        if packets[0].flow[0] == 17:
            assert after[flow] == packets
        else:
            assert sorted(map(repr, after[flow])) == sorted(map(repr, packets))


@given(st.integers(1, 1400), st.integers(1, 40), st.integers(0, 1399), st.booleans(), st.booleans())
def test_segmentation_then_coalescing_is_the_identity(
    kernel: Kernel, gso_size: int, full: int, tail: int, is_ipv6: bool, is_udp: bool
) -> None:
    tail %= gso_size
    full = min(full, 60000 // gso_size, 63)
    payload = bytes(k % 251 for k in range(gso_size * full + tail))
    inner = []
    for start in range(0, len(payload), gso_size):
        part = payload[start : start + gso_size]
        addresses = V6 if is_ipv6 else V4
        identification = start // gso_size
        inner.append(
            udp_packet(part, addresses=addresses, identification=identification)
            if is_udp
            else tcp_packet(part, addresses=addresses, sequence=start, identification=identification)
        )
    (unit,) = kernel.coalesce(inner)
    assert cut(unit) == inner


@given(st.lists(st.binary(min_size=1, max_size=70), max_size=6), st.integers(0, 255))
def test_any_bytes(kernel: Kernel, parts: list[bytes], first: int) -> None:
    """The packets that come here passed the length check only."""
    inner = [bytes([first]) + part[1:] for part in parts]
    assert sum(len(unit) - 10 for unit in kernel.coalesce(inner)) <= sum(map(len, inner))


@given(
    st.lists(TCP_PACKETS | UDP_PACKETS, min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 60), st.integers(0, 255)), max_size=4),
)
def test_nearly_sound_packets(
    kernel: Kernel, inner: list[bytes], changes: list[tuple[int, int, int]]
) -> None:
    """Whatever is wrong with a packet, its bytes come out as they went in."""
    damaged = [bytearray(packet) for packet in inner]
    touched = set()
    for index, position, value in changes:
        packet = damaged[index % len(damaged)]
        packet[position % len(packet)] = value
        touched.add(index % len(damaged))
    units = kernel.coalesce([bytes(packet) for packet in damaged])
    alone = {unit[10:] for unit in units if unit[:10] == bytes(10)}
    whole = {part for unit in units if unit[:10] != bytes(10) for part in map(payload_of, cut(unit))}
    for index in touched:
        result = bytes(damaged[index])
        assert result in alone or payload_of(result) in whole


def payload_of(packet: bytes) -> bytes:
    """From the transport's ports on, without the fields that a merge rewrites or takes from the first."""
    start = 40 if packet[0] >> 4 == 6 else 20
    is_tcp = packet[6 if start == 40 else 9] == 6
    return packet[start : start + 4] + (packet[start + 20 :] if is_tcp else packet[start + 8 :])
