"""The relay's core: who gets what, who hears of whom, and what is not allowed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derp import frames
from derp.client_core import (
    Connected,
    HealthChanged,
    PacketReceived,
    PeerGone,
    PongReceived,
    Restarting,
)
from derp.drops import DropReason, Kind
from derp.frames import FrameType, PeerGoneReason, PeerPresent, PresenceFlag
from derp.login import ClientInfo, ServerInfo, seal_client_info
from derp.registry import DUPLICATE_KEY
from derp.server_core import KEEP_ALIVE_BEHIND_PROXY_S, KEEP_ALIVE_S, Limits
from derp.session import Admission, Arrival, SessionClosed, State
from meshproto.keys import NodePrivate
from tests.derp.keys import ALICE, BOB, CAROL, RELAY, zeros
from tests.derp.relay_sim import DISCO, RelaySim

OTHER_RELAY = NodePrivate(bytes(range(9, 41)))


class TestLogin:
    @pytest.mark.parametrize("fast", [False, True])
    def test_client_is_told_that_it_is_in(self, fast: bool) -> None:
        sim = RelaySim()
        client = sim.connect(ALICE, fast=fast)
        assert client.take_events() == [Connected(RELAY.public, ServerInfo())]
        assert client.session.state is State.ACTIVE
        assert client.session.member is not None
        assert client.session.member.key == ALICE.public.raw

    def test_first_bytes_are_the_server_key(self) -> None:
        sim = RelaySim()
        session = sim.core.connect(Arrival("192.0.2.1", 1), 0.0)
        assert sim.core.take_ready() == [session]
        assert session.take_output(0.0) == frames.server_key(RELAY.public)

    def test_frames_right_behind_the_login(self) -> None:
        """NotePreferred and packets need not wait for ServerInfo."""
        sim = RelaySim()
        bob = sim.log_in(BOB)
        alice = sim.core.connect(Arrival("192.0.2.2", 2), sim.now)
        login = seal_client_info(ClientInfo(), ALICE, RELAY.public, zeros)
        alice.receive_data(
            frames.encode(FrameType.CLIENT_INFO, login)
            + frames.note_preferred(True)
            + frames.send_packet(BOB.public.raw, b"packet"),
            sim.now,
        )
        assert alice.member is not None
        assert alice.member.is_home
        bob.events += bob.core.receive_data(bob.session.take_output(sim.now), sim.now)
        assert bob.take_packets() == [(ALICE.public, b"packet")]

    @pytest.mark.parametrize(
        "stream",
        [
            frames.send_packet(BOB.public.raw, b"packet"),
            frames.ping(bytes(8)),
            frames.encode(FrameType.CLIENT_INFO, b""),
            frames.encode(FrameType.CLIENT_INFO, bytes(56)),
            frames.encode(FrameType.CLIENT_INFO, bytes(20_000)),
        ],
    )
    def test_anything_but_a_login_is_refused(self, stream: bytes) -> None:
        session = RelaySim().core.connect(Arrival("192.0.2.1", 1), 0.0)
        with pytest.raises(SessionClosed):
            session.receive_data(stream, 0.0)

    def test_login_has_a_deadline(self) -> None:
        core = RelaySim().core
        session = core.connect(Arrival("192.0.2.1", 1), 100.0)
        assert session.next_timeout() == 110.0
        session.handle_timeout(109.9, 0)
        with pytest.raises(SessionClosed, match="no login"):
            session.handle_timeout(110.0, 0)
        session.close()
        assert not core.sessions

    def test_second_login_on_a_connection_is_an_unknown_frame(self) -> None:
        sim = RelaySim()
        client = sim.log_in(ALICE)
        sim.say(client, frames.encode(FrameType.CLIENT_INFO, b"again"))
        assert not client.closed
        assert sim.core.counters.unknown_frames == 1


class TestAdmission:
    def test_client_waits_until_it_is_admitted(self) -> None:
        sim = RelaySim(verifies_clients=True)
        client = sim.connect(ALICE, arrival=Arrival("192.0.2.7", 7))
        assert client.session.admission == Admission(ALICE.public, "192.0.2.7")
        assert client.take_events() == []
        assert sim.core.registry.local_keys == 0
        assert client.session.next_timeout() is None
        sim.say(client, frames.ping(b"12345678") + frames.note_preferred(True))
        client.session.admit(sim.now)
        sim.settle()
        assert client.session.state is State.ACTIVE
        assert client.take_events() == [Connected(RELAY.public, ServerInfo()), PongReceived(b"12345678")]

    def test_client_that_left_is_not_admitted(self) -> None:
        sim = RelaySim(verifies_clients=True)
        client = sim.connect(ALICE)
        sim.disconnect(client)
        client.session.admit(sim.now)
        assert sim.core.registry.local_keys == 0

    def test_nonsense_that_waited_is_refused(self) -> None:
        sim = RelaySim(verifies_clients=True)
        client = sim.connect(ALICE)
        sim.say(client, frames.encode(FrameType.PING, b"short"))
        with pytest.raises(SessionClosed, match="ping"):
            client.session.admit(sim.now)

    def test_relays_of_the_region_need_no_admission(self) -> None:
        sim = RelaySim(verifies_clients=True)
        assert sim.mesh_peer(OTHER_RELAY).session.state is State.ACTIVE


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


class TestPeerGone:
    def test_whoever_heard_from_a_peer_hears_that_it_left(self) -> None:
        sim = RelaySim()
        alice, bob, carol = sim.log_in(ALICE), sim.log_in(BOB), sim.log_in(CAROL)
        sim.send(alice, BOB, b"packet", b"packet")
        bob.take_packets()
        sim.disconnect(alice)
        assert bob.take_events() == [PeerGone(ALICE.public, PeerGoneReason.DISCONNECTED)]
        assert carol.take_events() == []
        sim.disconnect(sim.log_in(ALICE))
        assert bob.take_events() == []  # it has not heard from this one

    def test_packets_come_before_the_news(self) -> None:
        sim = RelaySim()
        alice, bob = sim.log_in(ALICE), sim.log_in(BOB)
        sim.stop_reading(bob)
        sim.send(alice, BOB, b"last words")
        sim.disconnect(alice)
        sim.start_reading(bob)
        assert bob.take_events() == [
            PacketReceived(ALICE.public, b"last words"),
            PeerGone(ALICE.public, PeerGoneReason.DISCONNECTED),
        ]

    def test_nothing_is_remembered_of_who_left(self) -> None:
        sim = RelaySim()
        alice, bob = sim.log_in(ALICE), sim.log_in(BOB)
        sim.send(alice, BOB, b"packet")
        sim.send(bob, ALICE, b"packet")
        sim.disconnect(alice)
        sim.disconnect(bob)
        registry = sim.core.registry
        assert not registry._clients
        assert not registry._heard_by
        assert not sim.core.sessions

    def test_absent_peer_is_reported_for_disco_only(self) -> None:
        sim = RelaySim()
        alice = sim.log_in(ALICE)
        sim.send(alice, BOB, b"wireguard")
        assert alice.take_events() == []
        sim.send(alice, BOB, DISCO)
        assert alice.take_events() == [PeerGone(BOB.public, PeerGoneReason.NOT_HERE)]
        dropped = sim.core.counters.packets_dropped
        assert dropped[DropReason.UNKNOWN_DEST, Kind.DISCO] == 1
        assert dropped[DropReason.UNKNOWN_DEST, Kind.OTHER] == 1

    def test_absence_is_not_reported_too_often(self) -> None:
        sim = RelaySim()
        alice = sim.log_in(ALICE)
        for _ in range(10):
            sim.send(alice, BOB, DISCO)
        assert len(alice.take_events()) == 3
        sim.advance(2.0)
        for _ in range(10):
            sim.send(alice, BOB, DISCO)
        assert len(alice.take_events()) == 2


class TestDuplicates:
    def test_newest_gets_the_packets(self) -> None:
        sim = RelaySim()
        bob = sim.log_in(BOB)
        old, new = sim.log_in(ALICE), sim.log_in(ALICE)
        sim.send(bob, ALICE, b"packet")
        assert new.take_packets() == [(BOB.public, b"packet")]
        assert old.take_packets() == []
        assert not old.closed
        assert sim.core.registry.duplicate_keys == 1

    def test_whoever_spoke_last_gets_them(self) -> None:
        sim = RelaySim()
        bob = sim.log_in(BOB)
        old, new = sim.log_in(ALICE), sim.log_in(ALICE)
        sim.send(old, BOB, b"still here")
        sim.send(bob, ALICE, b"packet")
        assert old.take_packets() == [(BOB.public, b"packet")]
        assert new.take_packets() == []

    def test_two_machines_with_one_key_are_told(self) -> None:
        """A machine that came back does not speak on its old connection; two machines do."""
        sim = RelaySim()
        old, new = sim.log_in(ALICE), sim.log_in(ALICE)
        sim.send(new, BOB, b"packet")
        assert new.take_events() == []
        sim.send(old, BOB, b"packet")
        sim.send(new, BOB, b"packet")
        assert old.take_events() == new.take_events() == [HealthChanged(DUPLICATE_KEY)]
        sim.disconnect(old)
        assert new.take_events() == [HealthChanged("")]

    def test_peer_is_gone_with_its_last_connection(self) -> None:
        sim = RelaySim()
        bob = sim.log_in(BOB)
        first, second, third = sim.log_in(ALICE), sim.log_in(ALICE), sim.log_in(ALICE)
        sim.send(third, BOB, b"packet")
        bob.take_packets()
        sim.disconnect(third)
        sim.send(bob, ALICE, b"packet")
        assert second.take_packets() == [(BOB.public, b"packet")]
        sim.disconnect(first)
        sim.send(bob, ALICE, b"packet")
        assert second.take_packets() == [(BOB.public, b"packet")]
        assert bob.take_events() == []
        sim.disconnect(second)
        assert bob.take_events() == [PeerGone(ALICE.public, PeerGoneReason.DISCONNECTED)]


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


class TestTime:
    @pytest.mark.parametrize(
        ("behind_proxy", "period"), [(False, KEEP_ALIVE_S), (True, KEEP_ALIVE_BEHIND_PROXY_S)]
    )
    def test_keep_alive_when_there_is_nothing_else(self, behind_proxy: bool, period: float) -> None:
        sim = RelaySim()
        client = sim.connect(ALICE, arrival=Arrival("192.0.2.1", 1, behind_proxy=behind_proxy))
        sent = sim.core.counters.bytes_sent
        sim.advance(period - 1)
        assert sim.core.counters.bytes_sent == sent
        sim.advance(period + 1)
        assert sim.core.counters.bytes_sent == sent + 2 * len(frames.KEEP_ALIVE)
        assert not client.closed

    def test_rate_limit_makes_the_shell_wait(self) -> None:
        sim = RelaySim(limits=Limits(bytes_per_second=10_000, burst_bytes=1))
        alice, bob = sim.log_in(ALICE), sim.log_in(BOB)
        assert alice.session.read_again_at is None
        sim.send(alice, BOB, bytes(60_000))
        assert alice.session.read_again_at is None  # the largest packet always fits
        sim.send(alice, BOB, bytes(60_000))
        assert alice.session.read_again_at == pytest.approx(sim.now + 5.45, abs=0.05)
        assert len(bob.take_packets()) == 2  # nothing is lost, TCP slows the sender down
        sim.core.set_limits(Limits(), sim.now)
        assert alice.session.read_again_at is None
        sim.send(alice, BOB, bytes(60_000))
        assert alice.session.read_again_at is None

    def test_relays_of_the_region_have_no_rate_limit(self) -> None:
        sim = RelaySim(limits=Limits(bytes_per_second=1))
        relay = sim.mesh_peer(OTHER_RELAY)
        for _ in range(3):
            sim.say(relay, frames.forward_packet(ALICE.public.raw, BOB.public.raw, bytes(60_000)))
        assert relay.session.read_again_at is None

    def test_home_moves(self) -> None:
        sim = RelaySim()
        alice = sim.log_in(ALICE)
        alice.core.note_preferred(True)
        sim.settle()
        counters = sim.core.counters
        assert (counters.home_moves_in, counters.home_moves_out) == (0, 0)  # it has only arrived
        sim.advance(6)
        for is_home in (False, False, True):
            alice.core.note_preferred(is_home)
            sim.settle()
        assert (counters.home_moves_in, counters.home_moves_out) == (1, 1)

    def test_restart_is_announced(self) -> None:
        sim = RelaySim()
        alice = sim.log_in(ALICE)
        sim.core.connect(Arrival("192.0.2.1", 1), sim.now).take_output(sim.now)
        sim.core.take_ready()
        sim.core.announce_restart(0.5, 60)
        assert sim.core.take_ready() == [alice.session]
        events = alice.core.receive_data(alice.session.take_output(sim.now), sim.now)
        assert events == [Restarting(0.5, 60.0)]


class Link:
    """A forwarder that remembers."""

    def __init__(self) -> None:
        self.forwarded: list[tuple[bytes, bytes, bytes]] = []

    def forward(self, source: bytes, destination: bytes, packet: bytes) -> None:
        self.forwarded.append((source, destination, packet))


class TestMesh:
    def test_watcher_hears_of_everyone(self) -> None:
        sim = RelaySim()
        sim.connect(ALICE, arrival=Arrival("2001:db8::1", 5, is_ideal=False)).take_events()
        relay = sim.mesh_peer(OTHER_RELAY)
        relay.core.watch_connections()
        sim.settle()
        present = relay.take_events()
        assert PeerPresent(ALICE.public, "2001:db8::1", 5, PresenceFlag.NOT_IDEAL) in present
        assert PeerPresent(OTHER_RELAY.public, "192.0.2.1", 4000, PresenceFlag.MESH_PEER) in present
        bob = sim.log_in(BOB, ClientInfo(is_prober=True))
        assert relay.take_events() == [PeerPresent(BOB.public, "192.0.2.1", 4000, PresenceFlag.PROBER)]
        duplicate = sim.log_in(BOB)
        assert relay.take_events() == [PeerPresent(BOB.public, "192.0.2.1", 4000, PresenceFlag.REGULAR)]
        sim.disconnect(bob)
        assert relay.take_events() == []
        sim.disconnect(duplicate)
        assert relay.take_events() == [PeerGone(BOB.public, PeerGoneReason.DISCONNECTED)]

    def test_forwarded_packet_arrives(self) -> None:
        sim = RelaySim()
        bob, relay = sim.log_in(BOB), sim.mesh_peer(OTHER_RELAY)
        relay.core.forward_packet(ALICE.public.raw, BOB.public.raw, b"packet", sim.now)
        sim.settle()
        assert bob.take_packets() == [(ALICE.public, b"packet")]
        assert sim.core.counters.packets_forwarded_in == 1

    def test_forwarded_packet_is_not_forwarded_again(self) -> None:
        sim = RelaySim()
        relay, link = sim.mesh_peer(OTHER_RELAY), Link()
        sim.core.registry.add_forwarder(BOB.public, link)
        relay.core.forward_packet(ALICE.public.raw, BOB.public.raw, DISCO, sim.now)
        sim.settle()
        assert link.forwarded == []
        assert relay.take_events() == [PeerGone(BOB.public, PeerGoneReason.NOT_HERE)]
        assert sim.core.counters.packets_dropped == {(DropReason.UNKNOWN_DEST_ON_FWD, Kind.DISCO): 1}

    def test_packet_for_a_client_of_another_relay(self) -> None:
        sim = RelaySim()
        alice, first, second = sim.log_in(ALICE), Link(), Link()
        registry = sim.core.registry
        registry.add_forwarder(BOB.public, first)
        registry.add_forwarder(BOB.public, second)
        registry.add_forwarder(BOB.public, first)
        assert registry.remote_keys == 1
        sim.send(alice, BOB, b"packet")
        registry.remove_forwarder(BOB.public, first)
        registry.remove_forwarder(BOB.public, first)
        sim.send(alice, BOB, b"packet")
        expected = (ALICE.public.raw, BOB.public.raw, b"packet")
        assert (first.forwarded, second.forwarded) == ([expected], [expected])
        assert sim.core.counters.packets_forwarded_out == 2

    def test_own_client_goes_before_another_relay(self) -> None:
        sim = RelaySim()
        alice, bob, link = sim.log_in(ALICE), sim.log_in(BOB), Link()
        sim.core.registry.add_forwarder(BOB.public, link)
        sim.send(alice, BOB, b"packet")
        assert bob.take_packets() == [(ALICE.public, b"packet")]
        sim.disconnect(bob)
        sim.send(alice, BOB, b"packet")
        assert len(link.forwarded) == 1

    def test_peer_is_gone_when_the_whole_region_has_lost_it(self) -> None:
        sim = RelaySim()
        alice, link, relay = sim.log_in(ALICE), Link(), sim.mesh_peer(OTHER_RELAY)
        registry = sim.core.registry
        registry.add_forwarder(BOB.public, link)
        relay.core.forward_packet(BOB.public.raw, ALICE.public.raw, b"packet", sim.now)
        sim.settle()
        alice.take_packets()
        sim.disconnect(sim.log_in(BOB))
        assert alice.take_events() == []
        registry.remove_forwarder(BOB.public, link)
        sim.settle()
        assert alice.take_events() == [PeerGone(BOB.public, PeerGoneReason.DISCONNECTED)]

    def test_close_peer(self) -> None:
        sim = RelaySim()
        first, second, bob = sim.log_in(ALICE), sim.log_in(ALICE), sim.log_in(BOB)
        relay = sim.mesh_peer(OTHER_RELAY)
        relay.core.close_peer(ALICE.public)
        relay.core.close_peer(CAROL.public)
        sim.settle()
        assert first.closed
        assert second.closed
        assert not bob.closed

    @pytest.mark.parametrize(
        "stream",
        [
            frames.encode(FrameType.FORWARD_PACKET, bytes(63)),
            frames.encode(FrameType.FORWARD_PACKET, bytes(64 + 65537)),
            frames.encode(FrameType.CLOSE_PEER, bytes(31)),
            frames.encode(FrameType.CLOSE_PEER, bytes(33)),
            frames.encode(FrameType.WATCH_CONNS, bytes(1)),
        ],
    )
    def test_sizes_are_exact(self, stream: bytes) -> None:
        sim = RelaySim()
        relay = sim.mesh_peer(OTHER_RELAY)
        sim.say(relay, stream)
        assert relay.closed

    def test_wrong_mesh_key_is_no_mesh_key(self) -> None:
        sim = RelaySim()
        client = sim.log_in(ALICE, ClientInfo(mesh_key=bytes(32)))
        sim.say(client, frames.WATCH_CONNS)
        assert "no relay of the region" in client.closed

    def test_without_a_mesh_there_are_no_relays(self) -> None:
        sim = RelaySim(mesh_key=None)
        client = sim.mesh_peer(ALICE)
        sim.say(client, frames.WATCH_CONNS)
        assert client.closed


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


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("connect"), st.integers(0, 3)),
        st.tuples(st.just("disconnect"), st.integers(0, 9)),
        st.tuples(st.just("stop"), st.integers(0, 9)),
        st.tuples(st.just("start"), st.integers(0, 9)),
        st.tuples(st.just("send"), st.integers(0, 9), st.integers(0, 3)),
        st.tuples(st.just("advance"), st.integers(1, 30)),
    ),
    max_size=40,
)
KEYS = [NodePrivate(bytes([number]) * 32) for number in range(1, 5)]


@given(OPERATIONS)
def test_any_coming_and_going(operations: list[tuple[str, int] | tuple[str, int, int]]) -> None:
    """A packet arrives at the connection that spoke last, exactly once, and nothing stays behind."""
    sim = RelaySim()
    for number, operation in enumerate(operations):
        open_clients = [client for client in sim.clients if not client.closed]
        match operation:
            case ("connect", key):
                sim.log_in(KEYS[key])
            case ("advance", seconds):
                sim.advance(seconds)
            case (name, who, *to) if open_clients:
                client = open_clients[who % len(open_clients)]
                if name == "disconnect":
                    sim.disconnect(client)
                elif name == "stop" and client.is_reading:
                    sim.stop_reading(client)
                elif name == "start" and not client.is_reading:
                    sim.start_reading(client)
                elif name == "send":
                    _send_and_check(sim, client.session, KEYS[to[0]], b"%d" % number)
    for client in sim.clients:
        sim.disconnect(client)
    assert not sim.core.sessions
    assert not sim.core.registry._clients
    assert not sim.core.registry._heard_by


def _send_and_check(sim: RelaySim, sender: object, destination: NodePrivate, packet: bytes) -> None:
    source = next(client for client in sim.clients if client.session is sender)
    for client in sim.clients:
        client.take_packets()
    sim.send(source, destination, packet)
    received = [client for client in sim.clients if any(p == packet for _, p in client.take_packets())]
    candidates = [
        client
        for client in sim.clients
        if not client.closed and client.session.member and client.session.member.key == destination.public.raw
    ]
    assert len(received) <= 1
    if candidates and all(client.is_reading for client in candidates):
        assert len(received) == 1
        assert received[0] in candidates
