"""What waits for a connection, in which order it goes, and what is dropped when that is too much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from derp import frames
from derp.drops import DropReason, Kind
from derp.outbox import QUEUE_BYTES, Outbox

Dropped = list[tuple[DropReason, Kind, int]]


def outbox(queue_packets: int = 3, *, blocked: bool = False) -> tuple[Outbox, Dropped]:
    dropped: Dropped = []
    box = Outbox(lambda reason, kind, size: dropped.append((reason, kind, size)), queue_packets)
    box.is_writable = not blocked
    return box, dropped


def test_order_is_kept_while_the_socket_takes_everything() -> None:
    box, dropped = outbox()
    for number in range(10):
        box.add_packet(b"p%d" % number, is_disco=number % 2 == 0)
        box.add(b"c%d" % number)
    assert box.take() == b"".join(b"p%dc%d" % (number, number) for number in range(10))
    assert box.take() == b""
    assert dropped == []


def test_oldest_packets_go_first_when_a_queue_is_full() -> None:
    box, dropped = outbox(blocked=True)
    for number in range(5):
        box.add_packet(b"data%d" % number, is_disco=False)
        box.add_packet(b"disco%d" % number, is_disco=True)
    assert box.take() == b"disco2disco3disco4data2data3data4"
    assert (
        dropped
        == [
            (DropReason.QUEUE_HEAD, Kind.OTHER, 5),
            (DropReason.QUEUE_HEAD, Kind.DISCO, 6),
        ]
        * 2
    )


def test_queue_is_bounded_in_bytes_too() -> None:
    box, dropped = outbox(queue_packets=1000, blocked=True)
    size = QUEUE_BYTES // 4
    for number in range(6):
        box.add_packet(bytes([number]) * size, is_disco=False)
    assert len(dropped) == 2
    assert box.take() == b"".join(bytes([number]) * size for number in range(2, 6))


def test_order_of_what_waited() -> None:
    box, _ = outbox(blocked=True)
    box.add_update(b"peer", b"GONE")
    box.add_packet(b"data", is_disco=False)
    box.add_packet(b"disco", is_disco=True)
    box.add_pong(b"pong")
    box.add_pong(b"another")
    box.add(b"info")
    assert box
    assert box.take() == b"infopongdiscodataGONE"
    assert not box


def test_latest_word_on_a_peer_is_the_one_that_is_sent() -> None:
    box, _ = outbox(blocked=True)
    box.add_update(b"a", b"[a there]")
    box.add_update(b"b", b"[b there]")
    box.add_update(b"a", b"[a gone]")
    assert box.take() == b"[b there][a gone]"


def test_keep_alive_is_left_out_when_something_waits_anyway() -> None:
    box, _ = outbox(blocked=True)
    box.add_keep_alive()
    assert not box
    box.is_writable = True
    box.add_keep_alive()
    assert box.take() == frames.KEEP_ALIVE


def test_what_nobody_will_receive_is_counted() -> None:
    box, dropped = outbox(blocked=True)
    box.add_packet(b"data", is_disco=False)
    box.add_packet(b"disco", is_disco=True)
    box.add_update(b"a", b"a")
    box.add_pong(b"pong")
    box.discard()
    assert not box
    assert dropped == [
        (DropReason.GONE_DISCONNECTED, Kind.DISCO, 5),
        (DropReason.GONE_DISCONNECTED, Kind.OTHER, 4),
    ]


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 100_000)), max_size=60), st.integers(1, 8))
def test_memory_of_a_reader_that_stopped_is_bounded(
    packets: list[tuple[bool, int]], queue_packets: int
) -> None:
    box, dropped = outbox(queue_packets, blocked=True)
    for disco, size in packets:
        box.add_packet(bytes(size), disco)
    waiting = box.take()
    assert len(waiting) <= 2 * QUEUE_BYTES
    assert len(waiting) + sum(size for _, _, size in dropped) == sum(size for _, size in packets)
    for kind in Kind:
        of_kind = [size for disco, size in packets if disco == (kind is Kind.DISCO)]
        lost = [size for _, each, size in dropped if each is kind]
        assert lost == of_kind[: len(lost)]  # the oldest, and no others
        assert len(of_kind) - len(lost) <= queue_packets
