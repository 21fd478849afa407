"""The compiled kernel against its Python twin: the same input must give the same bytes and the same outcome.

Sound input, nearly sound input and nonsense, over whole conversations: what a batch leaves behind in counters
and windows shows in the next.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.dataplane import RECEIVE_BUFFER_SIZE, SEAL_BUFFER_SIZE, Coalescing, Opened
from meshnode.dataplane.replay import COUNTER_LIMIT
from tests.lacking import lacking
from tests.meshnode.dataplane.kernels import NATIVE, PURE, Kernel
from tests.meshnode.dataplane.packets import ACK, CWR, FIN, PSH, V4, V6, tcp_packet, udp_packet
from tests.meshnode.dataplane.test_segmentation import offload
from tests.meshnode.dataplane.test_tables import ADDRESSES, COUNTERS, OPERATIONS

ROOT = Path(__file__).parents[3]


def could_be_built() -> bool:
    """Whether cargo and the crates are here, and nobody asked to do without."""
    if os.environ.get("MESHNODE_PURE") or shutil.which("cargo") is None:
        return False
    words = ["cargo", "tree", "--locked", "--offline"]
    return subprocess.run(words, cwd=ROOT / "native", capture_output=True, check=False).returncode == 0


if NATIVE is None:
    missing = "meshnode._native is not there: nothing to compare"
    if could_be_built():
        lacking(f"{missing}; `make setup` builds it")
    pytest.skip(missing, allow_module_level=True)

KEYS = (bytes(range(32)), bytes(range(32, 64)))
NEWER_KEYS = (bytes(range(64, 96)), bytes(range(96, 128)))
INDICES = (0x11223344, 0x55667788)
PEERS = (1, 2)

TWINS: tuple[Kernel, Kernel] = (PURE, NATIVE)


def outcome(work: Callable[[], object]) -> object:
    """What it returned, or the type of what it raised."""
    try:
        return work()
    except Exception as error:
        return type(error)


class End:
    """The tables and the sessions of one receiver, in one implementation, and the sender that it hears."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.senders = [
            kernel.Session(keys[0], keys[1], 7, index)
            for keys, index in zip((KEYS, NEWER_KEYS), INDICES, strict=True)
        ]
        self.receivers = [
            kernel.Session(keys[1], keys[0], index, 7)
            for keys, index in zip((KEYS, NEWER_KEYS), INDICES, strict=True)
        ]
        self.sessions = kernel.SessionTable()
        for index, session, peer in zip(INDICES, self.receivers, PEERS, strict=True):
            self.sessions.set(index, session, peer)
        self.allowed_ips = kernel.AllowedIPs()
        for prefix, peer in (("0.0.0.0/0", 1), ("::/0", 1), ("10.9.0.0/16", 2), ("fd09::/16", 2)):
            self.allowed_ips.insert(ipaddress.ip_network(prefix), peer)

    def seal(self, sender: int, read: bytes, mtu: int, max_unit: int) -> tuple[object, bytes]:
        out = bytearray(SEAL_BUFFER_SIZE)
        session = self.senders[sender]
        units = outcome(
            lambda: self.kernel.seal_superpacket(session, memoryview(read), memoryview(out), mtu, max_unit)
        )
        length = units[-1].offset + units[-1].length if isinstance(units, list) and units else 0
        return units, bytes(out[:length])

    def open(self, datagrams: bytes, stride: int, coalescing: Coalescing) -> tuple[object, ...]:
        """Units with their bytes, and all the rest of `Opened` with the sessions by their number."""
        out = bytearray(len(datagrams))
        opened: Opened = self.kernel.open_batch(
            self.sessions, self.allowed_ips, memoryview(datagrams), stride, memoryview(out), coalescing
        )
        activity = [one._replace(session=self.receivers.index(one.session)) for one in opened.activity]
        written = [bytes(out[offset : offset + length]) for offset, length in opened.units]
        return opened.units, written, activity, opened.other, opened.drops


def both(work: Callable[[Kernel], object]) -> Any:
    """The outcome of both, if it is one."""
    expected, found = (work(kernel) for kernel in TWINS)
    assert found == expected
    return expected


# --- what goes in ---

ENDS = st.sampled_from([V4, V6, (bytes([10, 9, 0, 1]), V4[1]), (bytes([0xFD, 9]) + bytes(14), V6[1])])
OPTIONS = st.sampled_from([b"", b"", b"\x01" * 12, b"\x01" * 40])
TCP_PACKETS = st.builds(
    lambda addresses, size, step, flags, port, options, acknowledgement: tcp_packet(
        bytes([step]) * size,
        addresses=addresses,
        sequence=2**32 - 40 + 10 * step,
        flags=flags,
        ports=(port, 80),
        options=options,
        acknowledgement=acknowledgement,
    ),
    ENDS,
    st.sampled_from([0, 10, 10, 10, 20, 30]),
    st.integers(0, 8),
    st.sampled_from([ACK] * 5 + [ACK | PSH, ACK | FIN, ACK | CWR]),
    st.integers(1, 2),
    OPTIONS,
    st.sampled_from([1, 1, 1, 2]),
)
UDP_PACKETS = st.builds(
    lambda addresses, payload, port: udp_packet(payload, ports=(port, 53), addresses=addresses),
    ENDS,
    st.binary(max_size=12),
    st.integers(1, 2),
)
CHANGES = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 255)), max_size=2)


def changed(packet: bytes, changes: list[tuple[int, int]]) -> bytes:
    """With some bytes set to something else."""
    damaged = bytearray(packet)
    for position, value in changes:
        if damaged:
            damaged[position % len(damaged)] = value
    return bytes(damaged)


PACKETS = (
    TCP_PACKETS
    | UDP_PACKETS
    | st.builds(changed, TCP_PACKETS | UDP_PACKETS, CHANGES)
    | st.builds(lambda first, rest: bytes([first]) + rest, st.integers(0, 255), st.binary(max_size=80))
    | st.just(b"")
)


def superpacket(
    payload: int, gso_size: int, is_ipv6: bool, is_udp: bool, flags: int, options: bytes
) -> bytes:
    """A sound read of the tunnel device."""
    addresses = V6 if is_ipv6 else V4
    start = 40 if is_ipv6 else 20
    body = bytes(k % 251 for k in range(payload))
    if is_udp:
        return offload(5, gso_size, start, 6) + udp_packet(body, addresses=addresses)
    packet = tcp_packet(body, addresses=addresses, flags=flags, options=options, sequence=2**32 - 2000)
    return offload(4 if is_ipv6 else 1, gso_size, start, 16) + packet


SUPERPACKETS = st.builds(
    superpacket,
    st.integers(0, 3000),
    st.integers(1, 1400),
    st.booleans(),
    st.booleans(),
    st.sampled_from([ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR]),
    OPTIONS,
)
HEADERS = st.builds(
    lambda *fields: struct.pack("=BBHHHH", *fields),
    st.integers(0, 3),
    st.sampled_from([0, 0, 1, 2, 3, 4, 5, 0x81, 0x84, 0x85, 255]),
    st.integers(0, 100),
    st.sampled_from([0, 1, 7, 100, 1400, 65535]),
    st.sampled_from([0, 20, 24, 40, 48, 60, 65535]),
    st.sampled_from([0, 6, 16, 17, 65535]),
)
READS = (
    SUPERPACKETS
    | st.builds(changed, SUPERPACKETS, CHANGES)
    | st.builds(lambda header, packet: header + packet, HEADERS, PACKETS)
    | st.builds(lambda start, field, packet: offload(0, 0, start, field) + packet, st.sampled_from([20, 40]),
                st.sampled_from([6, 16]), PACKETS)
    | st.binary(max_size=60)
)  # fmt: skip
MTUS = st.sampled_from([0, 1, 17, 576, 1280, 1280, 1420, 9000, 65535])
MAX_UNITS = st.sampled_from([0, 100, 3000, 65473, 65493, 10**6])


# --- sealing ---


@given(st.lists(st.tuples(READS, st.integers(0, 1), MTUS, MAX_UNITS), max_size=5))
def test_reads_are_sealed_alike(reads: list[tuple[bytes, int, int, int]]) -> None:
    ends = [End(kernel) for kernel in TWINS]
    for read, sender, mtu, max_unit in reads:
        expected, found = (end.seal(sender, read, mtu, max_unit) for end in ends)
        assert found == expected
        assert [end.senders[sender].send_counter for end in ends].count(
            ends[0].senders[sender].send_counter
        ) == 2


@pytest.mark.parametrize("size", [65535, 65536, 65575, 66000])
@pytest.mark.parametrize("gso_size", [1, 48, 1240, 65535])
@pytest.mark.parametrize("is_ipv6", [False, True])
def test_the_largest_reads_are_sealed_alike(size: int, gso_size: int, is_ipv6: bool) -> None:
    read = superpacket(100, gso_size, is_ipv6, False, ACK, b"")
    read = read.ljust(size + 10, b"x")
    ends = [End(kernel) for kernel in TWINS]
    assert ends[1].seal(0, read, 1280, 65493) == ends[0].seal(0, read, 1280, 65493)


@given(READS, st.integers(0, 200))
def test_an_output_that_may_be_too_small(read: bytes, room: int) -> None:
    def seal(kernel: Kernel) -> object:
        session = kernel.Session(*KEYS, 1, 2)
        out = memoryview(bytearray(room))
        return kernel.seal_superpacket(session, memoryview(read), out, 1280, 65493), session.send_counter

    both(seal)


@given(PACKETS, MTUS)
def test_single_packets_are_sealed_alike(packet: bytes, mtu: int) -> None:
    both(lambda kernel: kernel.seal_packet(kernel.Session(*KEYS, 1, 2), packet, mtu))


@given(st.integers(0, 70000), st.integers(0, 70000))
def test_padding(length: int, mtu: int) -> None:
    both(lambda kernel: kernel.padding(length, mtu))


@given(st.integers(COUNTER_LIMIT - 3, COUNTER_LIMIT + 3), st.integers(0, 5), st.booleans())
def test_counters_end_alike(counter: int, count: int, is_wiped: bool) -> None:
    def reserve(kernel: Kernel) -> object:
        session = kernel.Session(*KEYS, 1, 2)
        session.send_counter = counter
        if is_wiped:
            session.wipe()
        before = session.is_spent
        return before, outcome(lambda: session.reserve(count)), session.send_counter, session.is_spent

    both(reserve)


@given(READS)
def test_segments(read: bytes) -> None:
    both(lambda kernel: outcome(lambda: kernel.segments(read)))


# --- opening ---

# How a packet gets into a batch: sealed by one of the two peers, then maybe damaged or repeated.
SEALED = st.tuples(
    PACKETS, st.integers(0, 1), st.sampled_from(["sound"] * 6 + ["damaged", "twice", "replayed"])
)
FOREIGN = st.binary(max_size=60) | st.builds(
    lambda kind, index, rest: struct.pack("<II", kind, index) + rest,
    st.sampled_from([1, 2, 4, 4, 0x01000004]),
    st.sampled_from([*INDICES, 9]),
    st.binary(max_size=60),
)


class Sender:
    """Makes batches with the Python twin's cipher."""

    def __init__(self) -> None:
        self.sessions = End(PURE).senders
        self.old: list[bytes] = []

    def batch(self, parts: list[Any], draw: Callable[..., Any]) -> tuple[bytes, int]:
        """Datagrams of one stride, but for the last."""
        sealed = []
        sizes = [len(part[0]) for part in parts if isinstance(part, tuple)]
        size = max(sizes, default=0)
        for part in parts:
            if isinstance(part, bytes):
                sealed.append(part.ljust(size + 32, b"\0")[: size + 32])
                continue
            packet, who, fate = part
            datagram = PURE.seal_packet(self.sessions[who], packet.ljust(size, b"\0"), size or 1)
            if fate == "replayed" and self.old:
                datagram = draw(st.sampled_from(self.old))
                if len(datagram) != size + 32:
                    continue
            self.old.append(datagram)
            if fate == "damaged":
                datagram = changed(datagram, draw(CHANGES))
            sealed += [datagram] * (2 if fate == "twice" else 1)
        return b"".join(sealed), size + 32


BOTH = Coalescing.TCP | Coalescing.UDP
COALESCING = st.sampled_from([Coalescing.NONE, Coalescing.TCP, Coalescing.UDP, BOTH, BOTH])


@settings(max_examples=300)
@given(st.lists(st.lists(SEALED | FOREIGN, min_size=1, max_size=14), max_size=3), COALESCING, st.data())
def test_batches_are_opened_alike(
    batches: list[list[Any]], coalescing: Coalescing, data: st.DataObject
) -> None:
    sender = Sender()
    ends = [End(kernel) for kernel in TWINS]
    for parts in batches:
        datagrams, stride = sender.batch(parts, data.draw)
        datagrams += data.draw(st.sampled_from([b"", b"", b"\x04\0\0\0", b"\x04\0\0\0" + bytes(30)]))
        if data.draw(st.integers(0, 20)) == 0:
            who = data.draw(st.integers(0, 1))
            for end in ends:
                end.receivers[who].wipe()
        expected, found = (end.open(datagrams, stride, coalescing) for end in ends)
        assert found == expected


@given(st.permutations(range(24)), st.integers(0, 2), st.booleans(), COALESCING)
def test_a_reordered_stream_is_opened_alike(
    order: list[int], gaps: int, is_ipv6: bool, coalescing: Coalescing
) -> None:
    """Mostly in order, so that long groups form, and pieces of them."""
    moved = sorted(range(24), key=lambda k: k + (order[k] % 4) * gaps)
    addresses = V6 if is_ipv6 else V4
    inner = [tcp_packet(bytes([k]) * 40, sequence=40 * k, addresses=addresses) for k in range(24)]
    session = End(PURE).senders[0]
    sealed = [PURE.seal_packet(session, inner[k], 0) for k in moved]
    ends = [End(kernel) for kernel in TWINS]
    expected, found = (end.open(b"".join(sealed), len(sealed[0]), coalescing) for end in ends)
    assert found == expected


@given(st.binary(max_size=400), st.integers(-2, 120), COALESCING)
def test_any_datagrams_are_opened_alike(datagrams: bytes, stride: int, coalescing: Coalescing) -> None:
    both(lambda kernel: End(kernel).open(datagrams, stride, coalescing))


@given(st.lists(PACKETS.filter(bool), max_size=12), COALESCING)
def test_coalescing(inner: list[bytes], coalescing: Coalescing) -> None:
    whole = [packet.ljust(1, b"\0") for packet in inner]
    both(lambda kernel: kernel.coalesce(whole, coalescing))


def test_a_whole_receive_is_opened_alike() -> None:
    read = offload(1, 1240, 20, 16) + tcp_packet(bytes(k % 253 for k in range(1240 * 49)))
    units, sealed = End(PURE).seal(0, read, 1280, 65493)
    assert len(sealed) <= RECEIVE_BUFFER_SIZE
    opened = both(lambda kernel: End(kernel).open(sealed, units[0].stride, Coalescing.TCP))  # type: ignore[index]
    assert len(opened[0]) == 1


def test_errors() -> None:
    datagram = PURE.seal_packet(End(PURE).senders[0], b"", 0)

    def too_small(kernel: Kernel) -> object:
        end = End(kernel)
        with pytest.raises(ValueError, match="the output has 20 bytes, the datagrams 32"):
            kernel.open_batch(
                end.sessions, end.allowed_ips, memoryview(datagram), 32, memoryview(bytearray(20))
            )
        with pytest.raises(ValueError, match="32 bytes"):
            kernel.Session(b"short", KEYS[0], 1, 2)
        return None

    both(too_small)


# --- tables ---


@given(OPERATIONS, st.lists(ADDRESSES | st.binary(max_size=17), min_size=1))
def test_allowed_ips(operations: list[tuple[object, ...]], addresses: list[bytes]) -> None:
    def look_up(kernel: Kernel) -> object:
        table = kernel.AllowedIPs()
        found = []
        for name, *arguments in operations:
            getattr(table, str(name))(*arguments)
            found.append([table.lookup(address) for address in addresses])
        return found, [table.prefixes_of(peer) for peer in range(4)]

    both(look_up)


@given(READS)
def test_route(read: bytes) -> None:
    both(lambda kernel: kernel.route(End(kernel).allowed_ips, memoryview(read)))


@given(COUNTERS)
def test_replay_window(counters: list[int]) -> None:
    def accept(kernel: Kernel) -> object:
        window = kernel.ReplayWindow()
        return [window.accept(counter) for counter in counters]

    both(accept)


@given(st.binary(max_size=300))
def test_checksums(data: bytes) -> None:
    both(lambda kernel: (kernel.ones_complement_sum(data), kernel.internet_checksum(data)))


def test_names_and_repr() -> None:
    both(lambda kernel: repr(kernel.Session(*KEYS, 1, 2)))
    both(lambda kernel: sorted(name for name in dir(kernel.AllowedIPs) if not name.startswith("_")))
