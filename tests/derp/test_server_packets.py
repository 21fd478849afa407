"""The relay's core: packets of clients, what they may not send, and those who do not read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derp import frames
from derp.client_core import (
    PeerGone,
    PongReceived,
)
from derp.drops import DropReason, Kind
from derp.frames import FrameType, PeerGoneReason
from derp.server_core import Limits
from tests.derp.keys import ALICE, BOB, CAROL
from tests.derp.relay_sim import DISCO, RelaySim


class TestPackets:
    def test_both_ways(self) -> None:
        sim = RelaySim()
        alice, bob = sim.log_in(ALICE), sim.log_in(BOB)
        sim.send(alice, BOB, b"one", b"", b"two")
        sim.send(bob, ALICE, DISCO)
        assert bob.take_packets() == [(ALICE.public, b"one"), (ALICE.public, b""), (ALICE.public, b"two")]
        assert alice.take_packets() == [(BOB.public, DISCO)]
        counters = sim.core.counters
        assert (counters.packets_received_other, counters.packets_received_disco) == (3, 1)
        assert counters.packets_sent == 4

    def test_to_oneself(self) -> None:
        sim = RelaySim()
        alice = sim.log_in(ALICE)
        sim.send(alice, ALICE, b"packet")
        assert alice.take_packets() == [(ALICE.public, b"packet")]

    def test_largest_packet(self) -> None:
        sim = RelaySim()
        alice, bob = sim.log_in(ALICE), sim.log_in(BOB)
        sim.send(alice, BOB, bytes(65536))
        assert bob.take_packets() == [(ALICE.public, bytes(65536))]
        sim.say(alice, frames.send_packet(BOB.public.raw, bytes(65537)))
        assert "0x04" in alice.closed
        assert not bob.closed

    @pytest.mark.parametrize(
        "stream",
        [
            frames.encode(FrameType.SEND_PACKET, bytes(31)),
            frames.encode(FrameType.NOTE_PREFERRED, b""),
            frames.encode(FrameType.NOTE_PREFERRED, b"12"),
            frames.encode(FrameType.PING, bytes(7)),
            frames.encode(FrameType.PING, bytes(1001)),
            frames.WATCH_CONNS,
            frames.encode(FrameType.WATCH_CONNS, b"1"),
            frames.close_peer(BOB.public.raw),
            frames.forward_packet(ALICE.public.raw, BOB.public.raw, b"packet"),
        ],
    )
    def test_what_costs_a_client_its_connection(self, stream: bytes) -> None:
        sim = RelaySim()
        alice, bob = sim.log_in(ALICE), sim.log_in(BOB)
        sim.say(alice, stream)
        assert alice.closed
        assert not bob.closed
        assert bob.take_events() == []

    def test_unknown_frames_are_passed_over(self) -> None:
        sim = RelaySim()
        alice, bob = sim.log_in(ALICE), sim.log_in(BOB)
        sim.say(alice, frames.encode(0x66, bytes(100_000)) + frames.send_packet(BOB.public.raw, b"packet"))
        assert bob.take_packets() == [(ALICE.public, b"packet")]
        assert sim.core.counters.unknown_frames == 1

    def test_ping(self) -> None:
        sim = RelaySim()
        alice = sim.log_in(ALICE)
        alice.core.ping(b"abcdefgh")
        sim.settle()
        assert alice.take_events() == [PongReceived(b"abcdefgh")]
        sim.say(alice, frames.encode(FrameType.PING, b"abcdefgh" + bytes(900)))
        assert alice.take_events() == [PongReceived(b"abcdefgh")]


class TestSlowReaders:
    def test_it_loses_its_own_packets_and_nobody_elses(self) -> None:
        sim = RelaySim(limits=Limits(queue_packets=4))
        alice, slow, carol = sim.log_in(ALICE), sim.log_in(BOB), sim.log_in(CAROL)
        sim.stop_reading(slow)
        for number in range(10):
            sim.send(alice, BOB, b"%d" % number)
            sim.send(alice, CAROL, b"%d" % number)
        assert [packet for _, packet in carol.take_packets()] == [b"%d" % number for number in range(10)]
        sim.start_reading(slow)
        assert [packet for _, packet in slow.take_packets()] == [b"6", b"7", b"8", b"9"]
        assert sim.core.counters.packets_dropped == {(DropReason.QUEUE_HEAD, Kind.OTHER): 6}

    def test_it_is_disconnected_when_it_takes_nothing(self) -> None:
        sim = RelaySim()
        alice, stuck = sim.log_in(ALICE), sim.log_in(BOB)
        sim.send(stuck, ALICE, b"packet")
        alice.take_packets()
        sim.stop_reading(stuck)
        sim.send(alice, BOB, b"lost")
        sim.advance(9.9)
        assert stuck.is_open
        sim.advance(0.2)
        assert stuck.closed == "takes nothing for 10 s"
        assert alice.take_events() == [PeerGone(BOB.public, PeerGoneReason.DISCONNECTED)]
        assert sim.core.counters.write_timeouts == 1
        assert sim.core.counters.packets_dropped[DropReason.GONE_DISCONNECTED, Kind.OTHER] == 1

    def test_output_is_marked_ready_once(self) -> None:
        sim = RelaySim()
        alice, bob = sim.log_in(ALICE), sim.log_in(BOB)
        packet = frames.send_packet(BOB.public.raw, b"packet")
        alice.session.receive_data(packet * 5, sim.now)
        assert sim.core.take_ready() == [bob.session]
        assert sim.core.take_ready() == []
        assert bob.session.take_output(sim.now) == frames.recv_packet(ALICE.public.raw, b"packet") * 5
        alice.session.receive_data(packet, sim.now)
        assert sim.core.take_ready() == [bob.session]


@given(st.lists(st.binary(max_size=80), max_size=8))
def test_any_bytes_from_a_client_hurt_nobody_else(stream: list[bytes]) -> None:
    sim = RelaySim()
    hostile, alice, bob = sim.log_in(CAROL), sim.log_in(ALICE), sim.log_in(BOB)
    for data in stream:
        if not hostile.closed:
            sim.say(hostile, data)
    alice.take_events(), bob.take_events()
    sim.send(alice, BOB, b"packet")
    assert bob.take_packets() == [(ALICE.public, b"packet")]
