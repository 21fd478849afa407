"""The relay's core: clients that come and go, also twice with one key, and who hears of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from derp.client_core import (
    HealthChanged,
    PacketsReceived,
    PeerGone,
)
from derp.drops import DropReason, Kind
from derp.frames import PeerGoneReason
from derp.registry import DUPLICATE_KEY
from meshproto.keys import NodePrivate
from tests.derp.keys import ALICE, BOB, CAROL
from tests.derp.relay_sim import DISCO, RelaySim


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
            PacketsReceived(ALICE.public, [b"last words"]),
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
