"""Seal and open as the engine calls them: whole reads, whole receives, and hostile ones."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode import dataplane
from meshnode.dataplane import (
    MAX_UNIT_IPV4,
    MAX_UNIT_IPV6,
    NO_PEER,
    SEAL_BUFFER_SIZE,
    Coalescing,
    DropReason,
    SessionSpent,
    Unit,
)
from meshnode.dataplane.replay import COUNTER_LIMIT
from tests.meshnode.dataplane.kernels import Kernel, cut
from tests.meshnode.dataplane.packets import ACK, PSH, V4, V6, Pair, parse, tcp_packet, udp_packet
from tests.meshnode.dataplane.test_segmentation import offload

INNER = udp_packet(b"hello", addresses=V4)


def seal(
    pair: Pair, read: bytes, *, mtu: int = 1280, max_unit: int = MAX_UNIT_IPV4
) -> tuple[list[Unit], bytes]:
    """The sends that one TUN read becomes at the sender, and their bytes."""
    out = bytearray(SEAL_BUFFER_SIZE)
    units = pair.kernel.seal_superpacket(pair.sender, memoryview(read), memoryview(out), mtu, max_unit)
    return units, bytes(out[: units[-1].offset + units[-1].length]) if units else b""


def datagrams_of(units: list[Unit], out: bytes) -> list[bytes]:
    """What the kernel makes of the GSO sends."""
    return [
        out[start : min(start + unit.stride, unit.offset + unit.length)]
        for unit in units
        for start in range(unit.offset, unit.offset + unit.length, unit.stride)
    ]


def bulk(payload_size: int, gso_size: int, *, is_ipv6: bool = False) -> bytes:
    payload = bytes(k % 253 for k in range(payload_size))
    packet = bytearray(tcp_packet(payload[:10], addresses=V6 if is_ipv6 else V4, flags=ACK | PSH))
    packet[-10:] = payload
    return offload(4 if is_ipv6 else 1, gso_size, 40 if is_ipv6 else 20, 16) + packet


# --- sealing ---


@pytest.mark.parametrize(
    ("mtu", "max_unit", "per_unit"),
    [
        (1280, MAX_UNIT_IPV4, 49),
        (1280, MAX_UNIT_IPV6, 49),
        (1408, MAX_UNIT_IPV4, 45),
        (1420, MAX_UNIT_IPV4, 45),
        (8920, MAX_UNIT_IPV4, 7),
        (576, MAX_UNIT_IPV4, 64),
        (1280, 1000, 1),
    ],
)
def test_units_stay_within_one_gso_send(kernel: Kernel, mtu: int, max_unit: int, per_unit: int) -> None:
    pair = Pair(kernel)
    gso_size = mtu - 40
    read = bulk(64000, gso_size)
    units, out = seal(pair, read, mtu=mtu, max_unit=max_unit)
    assert {unit.stride for unit in units} == {mtu + 32}
    assert all(-(-unit.length // unit.stride) == per_unit for unit in units[:-1])
    assert all(unit.length <= max_unit for unit in units) or per_unit == 1
    assert [unit.offset for unit in units[1:]] == [unit.offset + unit.length for unit in units[:-1]]
    assert pair.sender.send_counter == -(-64000 // gso_size) == len(datagrams_of(units, out))


@pytest.mark.parametrize("is_ipv6", [False, True])
def test_a_bulk_transfer_comes_out_as_it_went_in(kernel: Kernel, is_ipv6: bool) -> None:
    pair = Pair(kernel)
    read = bulk(1240 * 48 + 7, 1240, is_ipv6=is_ipv6)
    (unit,), out = seal(pair, read, mtu=1300)
    (opened,), outcome = pair.open(out, unit.stride)
    assert cut(opened) == cut(read)
    assert opened[1:2] == read[1:2]
    (activity,) = outcome.activity
    assert activity == (1, pair.receiver, 49, 49, len(out), 48 * unit.stride)
    assert not outcome.drops
    assert not outcome.other


@pytest.mark.parametrize("options", [b"", b"\x01" * 12])
@pytest.mark.parametrize("is_ipv6", [False, True])
def test_the_least_mss_fits_the_output(kernel: Kernel, options: bytes, is_ipv6: bool) -> None:
    """More than 1,300 segments, each with its own headers and tag (Linux: TCP_MIN_SND_MSS is 48)."""
    addresses = V6 if is_ipv6 else V4
    start = 40 if is_ipv6 else 20
    payload = bytes(65535 - start - 20 - len(options))
    packet = tcp_packet(b"", addresses=addresses, options=options) + payload
    read = offload(4 if is_ipv6 else 1, 48 - len(options), start, 16) + packet
    units, out = seal(Pair(kernel), read)
    assert len(datagrams_of(units, out)) == -(-len(payload) // (48 - len(options)))
    assert all(unit.length <= 64 * unit.stride for unit in units)


def test_what_does_not_fit_is_not_sealed_at_all(kernel: Kernel) -> None:
    pair = Pair(kernel)
    read = bulk(60000, 1)
    assert seal(pair, read) == ([], b"")
    out = memoryview(bytearray(9999))
    assert kernel.seal_superpacket(pair.sender, memoryview(INNER), out, 1280, 65493) == []
    assert pair.sender.send_counter == 0


def test_sealing_leaves_the_packet_as_it_was(kernel: Kernel) -> None:
    """It may wait in a queue, and it may be read-only."""
    read = bytearray(bulk(5000, 1240))
    before = bytes(read)
    kernel.seal_superpacket(Pair(kernel).sender, memoryview(read), memoryview(bytearray(9999)), 1280, 65493)
    assert read == before


def test_a_spent_session_takes_no_counter(kernel: Kernel) -> None:
    pair = Pair(kernel)
    pair.sender.send_counter = COUNTER_LIMIT - 3
    with pytest.raises(SessionSpent):
        seal(pair, bulk(4000, 1000))
    assert pair.sender.send_counter == COUNTER_LIMIT - 3
    assert seal(pair, bulk(3000, 1000))[0]
    wiped = Pair(kernel)
    wiped.sender.wipe()
    with pytest.raises(SessionSpent):
        seal(wiped, bytes(10) + INNER)


@given(st.integers(0, 3000), st.sampled_from([0, 576, 1280, 1281, 1420, 9000]))
def test_sealed_size(kernel: Kernel, length: int, mtu: int) -> None:
    """A multiple of 16 unless the MTU forbids it, and never beyond the MTU."""
    size = len(kernel.seal_packet(Pair(kernel).sender, bytes(length), mtu)) - 32
    assert length <= size < length + 16
    if not mtu or length <= mtu:
        assert size % 16 == 0 or size == mtu
        assert size <= mtu or not mtu


# --- routing ---


def test_route(kernel: Kernel) -> None:
    table = kernel.AllowedIPs()
    table.insert(ipaddress.ip_network("10.0.0.2/32"), 4)
    table.insert(ipaddress.ip_network("fd00::2/128"), 6)
    assert kernel.route(table, memoryview(bytes(10) + INNER)) == 4
    assert kernel.route(table, memoryview(bytes(10) + udp_packet(b"", addresses=V6))) == 6
    assert kernel.route(table, memoryview(bytes(10) + udp_packet(b"", addresses=(V4[1], V4[0])))) == NO_PEER
    for malformed in (b"", bytes(10), bytes(10) + INNER[:19], bytes(10) + b"\x60" + bytes(38), bytes(60)):
        assert kernel.route(table, memoryview(malformed)) == NO_PEER


# --- opening ---


def test_a_keepalive_is_activity_without_a_unit(kernel: Kernel) -> None:
    pair = Pair(kernel)
    units, opened = pair.open(kernel.seal_packet(pair.sender, b"", 1280), 32)
    assert units == []
    assert opened.activity == [(1, pair.receiver, 1, 0, 32, 0)]


def test_unpadded_and_overpadded_packets(kernel: Kernel) -> None:
    pair = Pair(kernel)
    for surplus in (0, 1, 100):
        datagram = kernel.seal_packet(pair.sender, INNER + b"\xff" * surplus, 1280)
        assert pair.open(datagram, len(datagram))[0] == [bytes(10) + INNER]


def test_a_hostile_segment_is_dropped_alone(kernel: Kernel) -> None:
    """One reason each, in one GRO buffer of equal strides; the sound ones around them are delivered."""
    pair = Pair(kernel)
    good = [tcp_packet(bytes([k]) * 40, sequence=40 * k) for k in range(10)]
    stranger = kernel.Session(bytes(32), bytes(32), 1, 0xDEAD)
    forger = kernel.Session(bytes(32), bytes(32), 1, pair.SEND_INDEX)
    forger.send_counter = 2**40

    def sealed(packet: bytes) -> bytes:
        return kernel.seal_packet(pair.sender, packet, 1280)

    first = sealed(good[0])
    batch = {
        "good": first,
        "replayed": first,
        "unknown index": kernel.seal_packet(stranger, good[1], 1280),
        "forged": kernel.seal_packet(forger, good[1], 1280),
        "good again": sealed(good[1]),
        "version 5": sealed(b"\x55" + bytes(79)),
        "length lies": sealed(b"\x45\0\xff\xff" + bytes(76)),
        "length too short": sealed(b"\x45\0\0\x13" + bytes(76)),
        "reserved bits": b"\x04\0\0\x01" + bytes(len(first) - 4),
        "handshake": b"\x01\0\0\0" + bytes(len(first) - 4),
        "spoofed": sealed(tcp_packet(bytes(40), addresses=(bytes([10, 9, 9, 9]), V4[1]))),
        "still good": sealed(good[2]),
        "short": b"\x04\0\0\0" + bytes(20),
    }
    pair.allowed_ips.insert(ipaddress.ip_network("10.9.9.0/24"), 2)
    units, opened = pair.open(b"".join(batch.values()), len(first))
    assert [packet for unit in units for packet in cut(unit)] == good_with_ids(good[:3])
    assert opened.drops == {
        DropReason.REPLAYED_COUNTER: 1,
        DropReason.UNKNOWN_RECEIVER_INDEX: 1,
        DropReason.INVALID_TAG: 1,
        DropReason.MALFORMED_INNER_PACKET: 3,
        DropReason.SOURCE_NOT_ALLOWED: 1,
        DropReason.TOO_SHORT: 1,
    }
    names = list(batch)
    assert [names[offset // len(first)] for offset, _ in opened.other] == ["reserved bits", "handshake"]
    (activity,) = opened.activity
    assert activity.packets == 7
    assert names[activity.last_offset // len(first)] == "still good"
    # The forged counter did not move the window.
    again = sealed(good[3])
    assert pair.open(again, len(again))[0]


def good_with_ids(packets: list[bytes]) -> list[bytes]:
    """As the kernel numbers the segments of a merged IPv4 packet."""
    return [
        tcp_packet(one.payload, sequence=one.sequence, identification=k)
        for k, one in enumerate(map(parse, packets))
    ]


def test_a_wider_prefix_does_not_admit_a_narrower_ones_source(kernel: Kernel) -> None:
    pair = Pair(kernel)
    pair.allowed_ips.insert(ipaddress.ip_network("10.0.0.1/32"), 2)
    datagram = kernel.seal_packet(pair.sender, INNER, 1280)
    assert pair.open(datagram, len(datagram))[1].drops == {DropReason.SOURCE_NOT_ALLOWED: 1}


def test_ipv6_length_beyond_16_bits(kernel: Kernel) -> None:
    """40 + 65535 must not wrap around to something small."""
    pair = Pair(kernel)
    packet = bytearray(udp_packet(bytes(32), addresses=V6))
    packet[4:6] = b"\xff\xff"
    datagram = kernel.seal_packet(pair.sender, bytes(packet), 1280)
    assert pair.open(datagram, len(datagram))[1].drops == {DropReason.MALFORMED_INNER_PACKET: 1}


def test_a_wiped_session_opens_nothing(kernel: Kernel) -> None:
    pair = Pair(kernel)
    datagram = kernel.seal_packet(pair.sender, INNER, 1280)
    pair.receiver.wipe()
    assert pair.open(datagram, len(datagram))[1].drops == {DropReason.EXPIRED_KEY: 1}


def test_two_sessions_in_one_buffer(kernel: Kernel) -> None:
    """What a receive looks like while a rekey is under way."""
    pair = Pair(kernel)
    newer = kernel.Session(bytes(32), bytes(range(32)), 0x99, 5)
    pair.sessions.set(0x99, newer, 1)
    sender = kernel.Session(bytes(range(32)), bytes(32), 5, 0x99)
    batch = [
        kernel.seal_packet(session, INNER, 1280) for session in (pair.sender, sender, pair.sender, sender)
    ]
    units, opened = pair.open(b"".join(batch), len(batch[0]), Coalescing.NONE)
    assert units == [bytes(10) + INNER] * 4
    size = len(batch[0])
    assert opened.activity == [
        (1, pair.receiver, 2, 2, 2 * size, 2 * size),
        (1, newer, 2, 2, 2 * size, 3 * size),
    ]


@pytest.mark.parametrize("stride", [0, -1, 10**6])
def test_a_stride_that_is_none_means_one_datagram(kernel: Kernel, stride: int) -> None:
    pair = Pair(kernel)
    assert pair.open(kernel.seal_packet(pair.sender, INNER, 1280), stride)[0] == [bytes(10) + INNER]


@pytest.mark.parametrize("buffer", [bytes, bytearray])
def test_datagrams_may_be_opened_in_place_but_the_callers_business_stays(
    kernel: Kernel, buffer: type[bytes] | type[bytearray]
) -> None:
    pair = Pair(kernel)
    batch = [kernel.seal_packet(pair.sender, INNER, 1280) for _ in range(4)]
    size = len(batch[0])
    batch[1] = b"\x01" + batch[1][1:]
    batch[2] = batch[2][:-1] + bytes([batch[2][-1] ^ 1])
    datagrams = buffer(b"".join(batch))
    out = bytearray(len(datagrams))
    opened = kernel.open_batch(
        pair.sessions, pair.allowed_ips, memoryview(datagrams), size, memoryview(out), Coalescing.NONE
    )
    assert [bytes(out[at : at + length]) for at, length in opened.units] == [bytes(10) + INNER] * 2
    assert opened.drops == {DropReason.INVALID_TAG: 1}
    assert opened.other == [(size, size)]
    assert datagrams[size : 2 * size] == batch[1]


def test_an_output_that_is_too_small_is_the_callers_mistake(kernel: Kernel) -> None:
    pair = Pair(kernel)
    datagram = memoryview(kernel.seal_packet(pair.sender, INNER, 1280))
    with pytest.raises(ValueError):
        kernel.open_batch(pair.sessions, pair.allowed_ips, datagram, 99, memoryview(bytearray(20)))


def test_the_largest_datagram(kernel: Kernel) -> None:
    pair = Pair(kernel)
    packet = udp_packet(bytes(65507 - 32 - 28 - 3))
    datagram = kernel.seal_packet(pair.sender, packet, 0)
    assert pair.open(datagram, len(datagram))[0] == [bytes(10) + packet]


@given(st.binary(max_size=300), st.integers(0, 100))
def test_any_datagrams(kernel: Kernel, datagrams: bytes, stride: int) -> None:
    units, opened = Pair(kernel).open(datagrams, stride)
    assert units == []
    assert not opened.activity
    assert len(opened.other) + sum(opened.drops.values()) <= max(1, len(datagrams))


@given(st.lists(st.binary(max_size=100), min_size=1, max_size=5))
def test_any_plaintexts(kernel: Kernel, plaintexts: list[bytes]) -> None:
    """A peer may send us anything under a valid tag."""
    pair = Pair(kernel)
    batch = [kernel.seal_packet(pair.sender, plaintext.ljust(100, b"\0"), 1280) for plaintext in plaintexts]
    units, opened = pair.open(b"".join(batch), len(batch[0]))
    assert opened.activity[0].packets == len(batch)
    assert len(units) + opened.drops.get(DropReason.MALFORMED_INNER_PACKET, 0) <= len(batch)


READS = st.builds(
    lambda size, gso_size, is_ipv6: bulk(size, gso_size, is_ipv6=is_ipv6),
    st.integers(10, 5000),
    st.integers(40, 1240),
    st.booleans(),
) | st.builds(
    lambda payload, is_ipv6: bytes(10) + udp_packet(payload, addresses=V6 if is_ipv6 else V4),
    st.binary(max_size=1200),
    st.booleans(),
)


@settings(deadline=None)
@given(st.lists(READS, min_size=1, max_size=4), st.data())
def test_seal_then_open(kernel: Kernel, reads: list[bytes], data: st.DataObject) -> None:
    """Whatever is read at one end is written at the other, through loss of nothing but what is replayed."""
    pair = Pair(kernel)
    for read in reads:
        units, out = seal(pair, read, max_unit=data.draw(st.sampled_from([3000, MAX_UNIT_IPV4])))
        expected = cut(read)
        for unit in units:
            datagrams = out[unit.offset : unit.offset + unit.length]
            written, opened = pair.open(datagrams, unit.stride)
            packets = [packet for one in written for packet in cut(one)]
            assert list(map(parse, packets)) == list(map(parse, expected[: len(packets)]))
            assert opened.activity[0].packets == len(packets)
            expected = expected[len(packets) :]
            replayed, opened = pair.open(datagrams, unit.stride)
            assert replayed == []
            assert opened.drops == {DropReason.REPLAYED_COUNTER: len(packets)}
        assert expected == []


@given(st.permutations(range(12)), st.data())
def test_reordered_and_damaged_datagrams(kernel: Kernel, order: list[int], data: st.DataObject) -> None:
    pair = Pair(kernel)
    inner = [tcp_packet(bytes([k]) * 40, sequence=40 * k) for k in range(12)]
    sealed = [bytearray(kernel.seal_packet(pair.sender, packet, 1280)) for packet in inner]
    damaged = data.draw(st.sets(st.integers(0, 11)))
    for k in damaged:
        sealed[k][data.draw(st.integers(16, len(sealed[k]) - 1))] ^= 1
    units, opened = pair.open(b"".join(sealed[k] for k in order), len(sealed[0]))
    arrived = [parse(packet).payload[0] for unit in units for packet in cut(unit)]
    assert sorted(arrived) == [k for k in range(12) if k not in damaged]
    assert opened.drops.get(DropReason.INVALID_TAG, 0) == len(damaged)


def test_the_facade_names_everything() -> None:
    assert all(hasattr(dataplane, name) for name in dataplane.__all__)
    assert struct.calcsize("=BBHHHH") == 10
