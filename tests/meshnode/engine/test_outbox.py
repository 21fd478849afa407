"""What leaves in one send."""

from __future__ import annotations

from collections import Counter

from meshnode.dataplane import MAX_UNIT_IPV6, SEAL_BUFFER_SIZE, DropReason, Unit
from meshnode.engine.outbox import BUFFER_SIZE, FLUSH_AT, Outbox
from meshproto.addresses import AddrPort

HERE = (AddrPort("192.0.2.1", 1),)
THERE = (AddrPort("192.0.2.2", 2),)


class FakeUdp:
    def __init__(self) -> None:
        self.sent: list[tuple[bytes, int, AddrPort]] = []
        self.kept: list[memoryview] = []
        self.blocked = False
        self.drops: Counter[DropReason] = Counter()

    def send(self, data: memoryview, stride: int, destination: AddrPort) -> None:
        if self.blocked:
            self.kept.append(data)
        self.sent.append((bytes(data), stride, destination))


def outbox() -> tuple[FakeUdp, Outbox]:
    udp = FakeUdp()
    return udp, Outbox(udp)  # type: ignore[arg-type]


def put(box: Outbox, data: bytes, stride: int, destinations: tuple[AddrPort, ...] = HERE) -> None:
    room = box.room()
    assert len(room) >= SEAL_BUFFER_SIZE
    room[: len(data)] = data
    box.add([Unit(0, len(data), stride)], destinations)


def test_small_packets_of_a_burst_leave_together() -> None:
    udp, box = outbox()
    for letter in b"abc":
        put(box, bytes([letter]) * 96, 96)
    assert udp.sent == []
    box.flush()
    assert udp.sent == [(b"a" * 96 + b"b" * 96 + b"c" * 96, 96, HERE[0])]
    box.flush()
    assert len(udp.sent) == 1


def test_a_shorter_one_ends_the_batch_and_a_longer_one_begins_another() -> None:
    udp, box = outbox()
    for size in (96, 96, 80, 80, 112):
        put(box, bytes(size), size)
    box.flush()
    assert [(len(data), stride) for data, stride, _ in udp.sent] == [(272, 96), (80, 80), (112, 112)]


def test_a_batch_goes_to_one_place() -> None:
    udp, box = outbox()
    for destinations in (HERE, THERE, THERE, HERE + THERE):
        put(box, b"x", 1, destinations)
    box.flush()
    assert [(len(data), to) for data, _, to in udp.sent] == [
        (1, HERE[0]),
        (2, THERE[0]),
        (1, HERE[0]),
        (1, THERE[0]),
    ]


def test_no_batch_of_more_than_64() -> None:
    udp, box = outbox()
    for _ in range(70):
        put(box, bytes(32), 32)
    box.flush()
    assert [len(data) // 32 for data, _, _ in udp.sent] == [64, 6]


def test_units_that_are_large_already_do_not_wait() -> None:
    udp, box = outbox()
    put(box, bytes(FLUSH_AT), 1024)
    assert len(udp.sent) == 1


def test_no_batch_exceeds_a_unit() -> None:
    udp, box = outbox()
    put(box, bytes(9000), 9000)
    put(box, bytes(9000 * 7), 9000)
    box.flush()
    assert [len(data) for data, _, _ in udp.sent] == [9000, 63000]
    assert all(len(data) <= MAX_UNIT_IPV6 for data, _, _ in udp.sent)


def test_several_units_of_one_superpacket() -> None:
    udp, box = outbox()
    room = box.room()
    room[:5] = b"aabbc"
    box.add([Unit(0, 4, 2), Unit(4, 1, 2)], HERE)
    box.flush()
    assert udp.sent == [(b"aabbc", 2, HERE[0])]


def test_without_destination_it_is_counted() -> None:
    udp, box = outbox()
    put(box, bytes(100), 40, ())
    box.flush()
    assert udp.sent == []
    assert udp.drops == {DropReason.NO_DESTINATION: 3}


def test_what_waits_for_a_full_socket_is_not_overwritten() -> None:
    udp, box = outbox()
    udp.blocked = True
    put(box, b"first", 5)
    box.flush()
    assert bytes(box.room()[:5]) != b"first"
    udp.blocked = False
    box.flush()  # the socket has sent what waited
    assert bytes(udp.kept[0]) == b"first"
    assert bytes(box.room()[:5]) == b"first"


def test_the_room_never_runs_out() -> None:
    udp, box = outbox()
    for number in range(BUFFER_SIZE // 1000 * 2):
        put(box, bytes(1000), 1000, HERE if number % 2 else THERE)
    box.flush()
    assert sum(len(data) for data, _, _ in udp.sent) == BUFFER_SIZE // 1000 * 2 * 1000
