"""Packets in a row come as one run, and nothing is lost or made up by that."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derp import frames
from derp.frame_reader import MAX_RUN_BYTES, FrameReader, Packets
from derp.frames import DISCO_MAGIC, Frame, FrameError, FrameType, encode_packets
from meshproto.keys import KEY_SIZE

SEND, FORWARD = int(FrameType.SEND_PACKET), int(FrameType.FORWARD_PACKET)
ANA, BEN = bytes([1]) * KEY_SIZE, bytes([2]) * KEY_SIZE
DATA = bytes.fromhex("04000000")  # how every WireGuard message with data begins
LIMITS = {int(kind): 200_000 for kind in FrameType}
KEYS = {SEND: KEY_SIZE, FORWARD: 2 * KEY_SIZE}


def reader() -> FrameReader:
    return FrameReader(LIMITS, packet_keys=KEYS)


def sent(*packets: bytes, to: bytes = ANA) -> bytes:
    return b"".join(frames.send_packet(to, packet) for packet in packets)


def datagram(size: int) -> bytes:
    return DATA + random.Random(size).randbytes(size - len(DATA))


def runs_of(stream: bytes) -> list[list[bytes]]:
    found = []
    for frame in reader().receive_data(stream):
        assert isinstance(frame, Packets)
        found.append(frame.packets)
    return found


def test_datagrams_of_one_node_are_a_run() -> None:
    packets = [datagram(1280)] * 20
    assert reader().receive_data(sent(*packets)) == [Packets(SEND, ANA, packets)]


def test_the_last_may_be_shorter_and_ends_the_run() -> None:
    long, short = datagram(1280), datagram(100)
    assert runs_of(sent(long, long, short, long, short)) == [[long, long, short], [long, short]]
    assert runs_of(sent(short, long, long)) == [[short], [long, long]]


def test_another_node_ends_the_run() -> None:
    stream = sent(datagram(100)) + sent(datagram(100), to=BEN) + sent(datagram(50))
    assert reader().receive_data(stream) == [
        Packets(SEND, ANA, [datagram(100)]),
        Packets(SEND, BEN, [datagram(100)]),
        Packets(SEND, ANA, [datagram(50)]),
    ]


def test_disco_is_alone() -> None:
    disco = DISCO_MAGIC + bytes(94)
    assert runs_of(sent(disco, disco)) == [[disco], [disco]]
    for size in (100, 90):
        assert runs_of(sent(datagram(100), DISCO_MAGIC + bytes(size - 6))) == [
            [datagram(100)],
            [DISCO_MAGIC + bytes(size - 6)],
        ]


def test_tiny_packets_are_alone() -> None:
    assert runs_of(sent(b"", b"", b"abc", b"abc")) == [[b""], [b""], [b"abc"], [b"abc"]]
    assert runs_of(sent(b"abcd", b"abc")) == [[b"abcd"], [b"abc"]]


def test_a_frame_that_is_not_all_there_is_not_in_the_run() -> None:
    stream = sent(*[datagram(1000)] * 3)
    cutter = reader()
    assert cutter.receive_data(stream[:-1]) == [Packets(SEND, ANA, [datagram(1000)] * 2)]
    assert cutter.receive_data(stream[-1:]) == [Packets(SEND, ANA, [datagram(1000)])]


def test_a_run_is_bounded() -> None:
    runs = runs_of(sent(*[datagram(1280)] * 200))
    assert sum(map(len, runs)) == 200
    assert all(sum(37 + len(packet) for packet in run) <= MAX_RUN_BYTES for run in runs)
    assert runs_of(sent(datagram(65536), datagram(65536))) == [[datagram(65536)]] * 2


@pytest.mark.parametrize("kind", [SEND, FORWARD])
def test_keys_cut_short(kind: int) -> None:
    with pytest.raises(FrameError, match="without its keys"):
        reader().receive_data(frames.encode(kind, bytes(KEYS[kind] - 1)))


packet = st.one_of(
    st.sampled_from([datagram(60), datagram(60), datagram(61), datagram(20), DISCO_MAGIC + bytes(60)]),
    st.binary(max_size=8),
)
packet_frame = st.builds(
    lambda kind, keys, packet: frames.encode(kind, keys[: KEYS[kind]] + packet),
    st.sampled_from([SEND, FORWARD]),
    st.sampled_from([ANA + BEN, BEN + ANA]),
    packet,
)


def flat(received: list[Frame | Packets]) -> list[Frame]:
    """Frame by frame."""
    plain: list[Frame] = []
    for frame in received:
        if isinstance(frame, Packets):
            plain += [(frame.kind, frame.keys + packet) for packet in frame.packets]
        else:
            plain.append(frame)
    return plain


@given(st.lists(st.one_of(packet_frame, st.just(frames.KEEP_ALIVE)), max_size=30), st.data())
def test_any_frames_in_any_pieces(encoded: list[bytes], data: st.DataObject) -> None:
    cutter = reader()
    received: list[Frame | Packets] = []
    stream = b"".join(encoded)
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        received += cutter.receive_data(stream[:cut])
        stream = stream[cut:]
    assert flat(received) == [(frame[0], frame[5:]) for frame in encoded]
    for run in received:
        if isinstance(run, Packets):
            first = run.packets[0]
            assert len({len(packet) for packet in run.packets[:-1]} | {len(first)}) == 1
            assert len(run.packets[-1]) <= len(first)
            assert len(run.packets) == 1 or len({packet[:4] for packet in run.packets}) == 1
            again = encode_packets(run.kind, run.keys, [memoryview(packet) for packet in run.packets])
            assert reader().receive_data(again) == [run]
