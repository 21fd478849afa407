"""Two devices, a clock that jumps, weather, and an eavesdropper who counts what crosses the wire."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode.dataplane import DropReason
from meshnode.wireguard import (
    HandshakeCompleted,
    HandshakeGivenUp,
    HandshakeTimedOut,
    PeerHeardFrom,
    SessionExpired,
)
from tests.meshnode.wireguard.simulation import Weather, World, connected, key, pair

PSK = bytes(range(32))
HOUR = 3600.0


def every(interval: float, duration: float, start: float = 0.0) -> list[float]:
    return [start + interval * number for number in range(int(duration / interval))]


class TestFirstContact:
    @pytest.mark.parametrize("psk", [None, PSK])
    def test_first_packet_arrives(self, psk: bytes | None) -> None:
        world, a, b = pair(psks=(psk, psk))
        assert not a.send(b, 7)
        world.run(1.0)
        assert b.received == [7]
        # One initiation, one response, and the staged packet itself is the confirmation: no keepalive.
        assert world.wire.seen == {"initiation": 1, "response": 1, "data": 1}
        assert a.happened(HandshakeCompleted) == [HandshakeCompleted(b.public, True)]
        assert b.happened(HandshakeCompleted) == [HandshakeCompleted(a.public, False)]

    def test_initiator_confirms_at_once_when_nothing_waits(self) -> None:
        world, a, b = pair()
        a.device.initiate(b.public, world.now)
        a.settle()
        world.run(1.0)
        assert world.wire.seen == {"initiation": 1, "response": 1, "keepalive": 1}
        assert b.happened(HandshakeCompleted)

    def test_staged_packets_leave_in_order(self) -> None:
        world, a, b = pair()
        for number in range(20):
            a.send(b, number)
        world.run(1.0)
        assert b.received == list(range(20))
        assert world.wire.seen["initiation"] == 1

    def test_responder_waits_for_proof(self) -> None:
        """Before the initiator used the new key, the responder has nothing to send with."""
        world, a, b = pair()
        a.device.initiate(b.public, world.now)
        a.settle()
        world.run(0.015)  # the initiation arrived, the response is under way
        assert world.wire.seen == {"initiation": 1, "response": 1}
        assert not b.send(a, 1)
        world.run(0.014)
        assert a.received == []
        world.run(0.1)
        assert a.received == [1]
        assert world.wire.seen["initiation"] == 1

    def test_responder_keeps_the_old_key_until_proof(self) -> None:
        world, a, b = connected()
        world.run(10.0)
        a.device.initiate(b.public, world.now)
        a.settle()
        world.run(0.015)
        assert world.wire.seen["response"] == 2
        assert b.send(a, 3)
        world.run(1.0)
        assert a.received == [2, 3]

    def test_simultaneous_initiation_converges_at_once(self) -> None:
        world, a, b = pair()
        a.send(b, 1)
        b.send(a, 2)
        world.run(1.0)
        assert (a.received, b.received) == ([2], [1])
        assert world.wire.seen["initiation"] == 2
        a.send(b, 3)
        b.send(a, 4)
        world.run(1.0)
        assert (a.received, b.received) == ([2, 4], [1, 3])

    def test_after_a_crossing_one_renews(self) -> None:
        world, a, b = pair()
        a.send(b, 0)
        b.send(a, 0)
        world.run(1.0)
        sent = world.traffic(a, b, every(0.5, 600))
        world.traffic(b, a, every(0.5, 600))
        world.run(601.0)
        assert b.received == [0, *sent]
        assert world.wire.seen["initiation"] == 2 + 4  # not two at every renewal

    @pytest.mark.parametrize("seed", range(5))
    def test_crossing_in_reordering_weather(self, seed: int) -> None:
        world, a, b = pair(seed, Weather(delay=(0.001, 0.2), duplicate=0.3))
        a.send(b, 1)
        b.send(a, 2)
        world.run(12.0)
        a.send(b, 3)
        b.send(a, 4)
        world.run(1.0)
        assert a.received == [2, 4]
        assert b.received == [1, 3]


class TestSilence:
    def test_wrong_psk_is_silence_and_retries(self) -> None:
        world, a, b = pair(psks=(PSK, None))
        a.send(b, 1)
        world.run(30.0)
        assert b.received == []
        times = world.wire.times("a: initiation")
        assert len(times) >= 5
        assert all(5.0 <= later - earlier <= 5.34 for earlier, later in itertools.pairwise(times))
        assert world.wire.seen["response"] == len(times)  # the responder cannot tell
        assert a.device.drops[DropReason.INVALID_HANDSHAKE] == len(times)

    def test_unknown_peer_is_silence(self) -> None:
        world, a, b = pair()
        b.configs.clear()
        b.apply()
        a.send(b, 1)
        world.run(20.0)
        assert set(world.wire.seen) == {"initiation"}
        assert b.device.drops[DropReason.UNKNOWN_PEER] == world.wire.seen["initiation"]

    def test_wrong_key_is_silence(self) -> None:
        """A names b by a key that b does not have: mac1 fails before anything costs."""
        world = World()
        a = world.node("a", key(1), "100.64.0.1")
        b = world.node("b", key(2), "100.64.0.2")
        stranger = world.node("c", key(3), "100.64.0.3")
        a.peer_with(stranger)
        b.peer_with(a)
        world.by_key[stranger.public] = b
        a.send(stranger, 1)
        world.run(20.0)
        assert set(world.wire.seen) == {"initiation"}
        assert b.device.drops == {DropReason.INVALID_MAC1: world.wire.seen["initiation"]}

    def test_given_up_after_twenty_sends(self) -> None:
        world, a, b = pair()
        b.configs.clear()
        b.apply()
        a.send(b, 1)
        world.run(300.0)
        assert len(world.wire.times("a: initiation")) == 20
        assert 95.0 < world.wire.times("a: initiation")[-1] < 19 * 5.34
        assert a.happened(HandshakeGivenUp) == [HandshakeGivenUp(b.public)]
        assert a.happened(HandshakeTimedOut) == [HandshakeTimedOut(b.public, n) for n in range(1, 20)]
        assert a.device.drops[DropReason.HANDSHAKE_GIVEN_UP] == 1
        assert a.device.stats(b.public).staged_packets == 0
        # New traffic tries again, and from the start.
        a.send(b, 2)
        world.run(300.0)
        assert len(world.wire.times("a: initiation")) == 40

    def test_a_persistent_keepalive_never_gives_up_for_good(self) -> None:
        world, a, b = pair(keepalives=(25, 0))
        b.muted = True
        world.run(600.0)
        assert len(a.happened(HandshakeGivenUp)) >= 3
        b.muted = False
        world.run(30.0)
        assert a.happened(HandshakeCompleted)

    def test_new_traffic_restarts_the_count(self) -> None:
        world, a, b = pair()
        b.configs.clear()
        b.apply()
        world.traffic(a, b, every(40.0, 240.0))
        world.run(250.0)
        assert not a.happened(HandshakeGivenUp)
        world.run(100.0)
        assert a.happened(HandshakeGivenUp)

    def test_constant_traffic_does_not_hide_that_nobody_answers(self) -> None:
        """The paths must learn of every timeout, or a dead one is never left."""
        world, a, b = pair()
        b.muted = True
        world.traffic(a, b, every(0.1, 60.0))
        world.run(60.0)
        sent = world.wire.seen["initiation"]
        assert sent >= 11
        assert a.happened(HandshakeTimedOut) == [HandshakeTimedOut(b.public, 1)] * (sent - 1)

    def test_every_initiation_is_new(self) -> None:
        world, a, b = pair()
        b.configs.clear()
        b.apply()
        a.send(b, 1)
        world.run(100.0)
        initiations = world.wire.datagrams("a: initiation")
        assert len({datagram[4:8] for datagram in initiations}) == len(initiations)
        assert len({datagram[8:40] for datagram in initiations}) == len(initiations)

    def test_an_initiation_that_had_to_wait_waits_for_a_response_too(self) -> None:
        """We answered, nobody confirmed, and we have something to say: still five seconds between ours."""
        world, a, b = pair()
        b.device.initiate(a.public, world.now)
        b.settle()
        b.muted = True
        world.run(0.1)
        assert not a.send(b, 1)
        world.run(2.9)
        b.muted = False
        b.device.initiate(a.public, world.now)
        b.settle()
        b.muted = True
        world.run(10.0)
        assert world.wire.times("a: response") == pytest.approx([0.01, 3.01])
        assert 8.01 <= world.wire.times("a: initiation")[0] <= 8.35

    def test_a_dead_peer_is_noticed(self) -> None:
        """Data without any answer for 15 s: an initiation, retried; and the path is doubted."""
        world, a, b = connected()
        world.run(20.0)
        b.muted = True
        start = world.now
        a.send(b, 3)
        world.run(16.0)
        (when,) = [time for time in world.wire.times("a: initiation") if time > start]
        assert 15.0 <= when - start <= 15.34
        assert a.happened(HandshakeTimedOut) == [HandshakeTimedOut(b.public, 0)]

    def test_response_lost_packet_waits_for_the_retry(self) -> None:
        world, a, b = pair()
        b.muted = True
        a.send(b, 1)
        world.run(1.0)
        b.muted = False
        world.run(6.0)
        assert b.received == [1]

    def test_restart_of_the_peer(self) -> None:
        """The peer lost its keys: our data is unknown to it, its data after a new handshake is not."""
        world, a, b = connected()
        world.run(10.0)
        reborn = world.node("b2", b.private, b.address)
        reborn.peer_with(a)
        a.send(reborn, 3)
        world.run(1.0)
        assert reborn.device.drops == {DropReason.UNKNOWN_RECEIVER_INDEX: 1}
        reborn.send(a, 4)
        world.run(1.0)
        assert a.received == [2, 4]
        a.send(reborn, 5)
        world.run(1.0)
        assert reborn.received == [5]


class TestKeepalive:
    def test_data_is_answered_after_ten_seconds(self) -> None:
        world, a, b = connected()
        world.run(30.0)
        before, start = world.wire.seen["keepalive"], world.now
        a.send(b, 3)
        world.run(9.9)
        assert world.wire.seen["keepalive"] == before
        world.run(10.0)
        assert world.wire.seen["keepalive"] == before + 1
        (when,) = [time for time in world.wire.times("b: keepalive") if time > start]
        assert when == pytest.approx(start + 0.01 + 10.0)

    def test_keepalives_are_not_answered(self) -> None:
        """Two idle peers do not ping each other for ever."""
        world, _, _ = connected()
        world.run(20.0)
        seen = dict(world.wire.seen)
        world.run(100.0)
        assert world.wire.seen == seen

    def test_counts_from_the_data_packet(self) -> None:
        """Not from the last packet sent: sending in between disarms, and the next data arms anew."""
        world, a, b = connected()
        world.run(30.0)
        start = world.now
        a.send(b, 3)
        world.run(6.0)
        b.send(a, 4)
        world.run(3.0)
        a.send(b, 5)
        world.run(20.0)
        (when,) = [time for time in world.wire.times("b: keepalive") if time > start]
        assert when == pytest.approx(start + 9.0 + 0.01 + 10.0)

    def test_more_data_gets_another(self) -> None:
        world, a, b = connected()
        world.run(30.0)
        start = world.now
        a.send(b, 3)
        world.run(5.0)
        a.send(b, 4)
        world.run(40.0)
        times = [time - start for time in world.wire.times("b: keepalive") if time > start]
        assert times == pytest.approx([10.01, 20.01])

    def test_both_stay_quiet_while_data_flows_both_ways(self) -> None:
        world, a, b = connected()
        before = world.wire.seen["keepalive"]
        world.traffic(a, b, every(3.0, 90.0))
        world.traffic(b, a, every(3.0, 90.0, 1.0))
        world.run(90.0)
        assert world.wire.seen["keepalive"] == before

    def test_persistent_only_when_idle(self) -> None:
        world, a, b = connected(keepalives=(25, 0))
        world.traffic(a, b, every(5.0, 50.0))
        world.traffic(b, a, every(5.0, 50.0, 1.0))
        before = world.wire.seen["keepalive"]
        world.run(50.0)
        assert world.wire.seen["keepalive"] == before
        start = world.now
        world.run(10.0 + 25.5)
        quiet = [time for time in world.wire.times("a: keepalive") if time > start + 11.0]
        assert len(quiet) == 1

    def test_persistent_interval(self) -> None:
        world, _, _ = connected(keepalives=(25, 0))
        world.run(20.0)
        world.run(75.0)
        times = world.wire.times("a: keepalive")[-3:]
        intervals = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert intervals == pytest.approx([25.0, 25.0])

    def test_turning_it_on_sends_at_once(self) -> None:
        world, a, b = connected()
        world.run(20.0)
        before = world.wire.seen["keepalive"]
        a.peer_with(b, keepalive=25)
        assert world.wire.seen["keepalive"] == before + 1
        a.peer_with(b, keepalive=0)
        world.run(60.0)
        assert world.wire.seen["keepalive"] == before + 1

    def test_persistent_starts_a_handshake_and_keeps_it_fresh(self) -> None:
        world, a, b = pair(keepalives=(25, 0))
        world.run(1000.0)
        assert b.happened(HandshakeCompleted)
        assert not a.happened(SessionExpired)
        assert 6 <= world.wire.seen["initiation"] <= 9
        assert a.device.stats(b.public).has_session


class TestRenewal:
    def test_by_the_initiator_after_two_minutes(self) -> None:
        world, a, b = connected()
        world.traffic(a, b, every(1.0, 130.0))
        world.traffic(b, a, every(1.0, 130.0))
        world.run(140.0)
        times = world.wire.times("a: initiation")
        assert len(times) == 2
        assert 120.0 <= times[1] - times[0] <= 121.1
        assert not world.wire.times("b: initiation")

    def test_never_by_the_responder(self) -> None:
        """The initiator is idle but for its keepalives; the responder talks."""
        world, a, b = connected()
        world.traffic(b, a, every(1.0, 400.0), first=10)
        world.run(401.0)
        assert not world.wire.times("b: initiation")
        assert a.received == [2, *range(10, 410)]

    def test_on_receive_before_it_is_too_late(self) -> None:
        """The initiator sends nothing at all after two minutes: at 165 s receiving is reason enough."""
        world, a, b = connected()
        world.run(162.0)
        assert world.wire.seen["initiation"] == 1
        b.send(a, 3)  # the keepalive that answers it would be sent at 173 s
        world.run(1.0)
        assert world.wire.seen["initiation"] == 1
        world.run(2.0)
        b.send(a, 4)
        world.run(1.0)
        assert world.wire.seen["initiation"] == 2
        assert world.wire.times("a: initiation")[1] == pytest.approx(166.0, abs=0.1)

    def test_on_receive_only_once(self) -> None:
        """What arrives later does not restart the attempt that is being retried."""
        world, a, b = connected()
        world.run(165.0)
        a.muted = True
        world.traffic(b, a, every(1.0, 13.0))
        world.run(13.0)
        assert a.happened(HandshakeTimedOut) == [HandshakeTimedOut(b.public, n) for n in (1, 2)]

    def test_hard_stop_after_three_minutes(self) -> None:
        world, a, b = connected()
        world.run(179.9)
        assert a.device.stats(b.public).has_session is False  # its key was born at 0.02
        assert a.happened(SessionExpired) == [SessionExpired(b.public)]
        before = world.wire.seen["initiation"]
        assert not a.send(b, 3)
        world.run(1.0)
        assert world.wire.seen["initiation"] == before + 1
        assert b.received == [1, 3]

    def test_an_expired_key_opens_nothing_even_when_the_timer_is_late(self) -> None:
        world, a, b = connected()
        b.send(a, 3)
        late = world.wire.datagrams("b: data")[-1]
        world.run(0.5)
        world.now += 200.0  # nobody called handle_timeout
        received = a.device.decapsulate(memoryview(late), len(late), b.source, a._out, world.now)
        assert received.units == []
        assert a.device.drops[DropReason.UNKNOWN_RECEIVER_INDEX] == 1

    def test_an_expired_key_seals_nothing_even_when_the_timer_is_late(self) -> None:
        world, a, b = connected()
        world.now += 200.0
        seen = world.wire.seen["data"]
        assert not a.send(b, 3)
        assert world.wire.seen["data"] == seen

    def test_all_is_wiped_after_nine_minutes(self) -> None:
        world, a, b = connected()
        world.run(541.0)
        peer = a.device._peers[b.public]
        assert list(peer.slots) == []
        assert len(a.device._context.indices) == len(a.device._context.sessions) == 0
        assert a.device.next_timeout() is None

    def test_an_attempt_under_way_survives_the_wiping(self) -> None:
        world, a, b = connected()
        world.run(537.0)
        world.weather.delay = (1.5, 1.5)
        a.send(b, 3)
        world.run(4.6)  # past 540 s, before the retransmission at 543 s
        assert world.wire.seen["initiation"] == 2
        assert b.received == [1, 3]

    @pytest.mark.parametrize("mtu", [1280, 1420])
    def test_an_hour_on_a_perfect_link_loses_nothing(self, mtu: int) -> None:
        world, a, b = connected(mtu=mtu)
        from_a = world.traffic(a, b, every(0.74, HOUR), first=100)
        from_b = world.traffic(b, a, every(1.06, HOUR), first=100)
        for number in range(500):
            payload = 8 + number * (mtu - 28) // 499
            world.after(number * 7.2, partial(a.send, b, 10**6 + number, payload))
        world.run(HOUR + 1.0)
        assert [number for number in b.received if 100 <= number < 10**6] == from_a
        assert [number for number in a.received if number >= 100] == from_b
        assert sum(number >= 10**6 for number in b.received) == 500
        assert a.device.drops == b.device.drops == {}
        # One handshake every two minutes, each complete, all by the same side.
        assert 29 <= world.wire.seen["initiation"] == world.wire.seen["response"] <= 31
        assert not world.wire.times("b: initiation")
        assert len(world.wire.indices) == 2 * world.wire.seen["initiation"]
        assert all(length % 16 == 0 or length == mtu for length in world.wire.sealed_lengths)
        assert mtu in world.wire.sealed_lengths
        assert not a.happened(SessionExpired)

    def test_an_idle_hour_is_silent(self) -> None:
        world, a, _ = connected()
        world.run(20.0)
        seen = dict(world.wire.seen)
        world.run(HOUR)
        assert world.wire.seen == seen
        assert a.device.next_timeout() is None


class TestRoaming:
    def test_follows_authenticated_datagrams(self) -> None:
        world, a, b = connected()
        a.events.clear()
        elsewhere = ("198.51.100.7", 1234)
        b.send(a, 3)
        datagram = world.wire.datagrams("b: data")[-1]
        a.receive(datagram, elsewhere)
        assert a.happened(PeerHeardFrom) == [PeerHeardFrom(b.public, elsewhere)]
        a.events.clear()
        a.receive(datagram, ("198.51.100.8", 1))  # a replay
        forged = datagram[:-1] + bytes([datagram[-1] ^ 1])
        a.receive(forged, ("198.51.100.9", 1))
        assert a.events == []
        assert a.device.drops == {DropReason.REPLAYED_COUNTER: 1, DropReason.INVALID_TAG: 1}

    def test_on_keepalives_and_handshakes(self) -> None:
        world, a, b = connected()
        for source in (("198.51.100.1", 1), ("198.51.100.2", 2)):
            world.by_source[source] = b
        b.source = ("198.51.100.1", 1)
        a.send(b, 3)
        world.run(12.0)
        assert world.wire.times("b: keepalive")
        assert a.happened(PeerHeardFrom)[-1] == PeerHeardFrom(b.public, b.source)
        b.source = ("198.51.100.2", 2)
        b.device.initiate(a.public, world.now)
        b.settle()
        world.run(0.015)  # its initiation, nothing else
        assert a.happened(PeerHeardFrom)[-1] == PeerHeardFrom(b.public, b.source)

    def test_reported_once_a_second_not_per_batch(self) -> None:
        world, a, b = connected()
        a.events.clear()
        world.traffic(b, a, every(0.01, 10.0))
        world.run(10.1)
        assert 9 <= len(a.happened(PeerHeardFrom)) <= 11

    def test_reported_at_once_after_a_timeout(self) -> None:
        """The path was doubted, wrongly: data goes on coming over it while a renewal is not answered."""
        world, a, b = connected()
        a.peer_with(b, psk=PSK)  # so that it will not be
        world.traffic(a, b, every(0.1, 140.0))
        world.traffic(b, a, every(0.1, 140.0))
        world.run(124.0)
        while not a.happened(HandshakeTimedOut):
            world.run(0.01)
        assert world.now < 127.0
        world.run(0.12)
        assert PeerHeardFrom(b.public, b.source) in a.events[a.events.index(HandshakeTimedOut(b.public, 1)) :]

    def test_reported_again_after_a_timeout(self) -> None:
        world, a, b = connected()
        world.run(20.0)
        b.muted = True
        a.send(b, 3)
        world.run(15.4)
        b.muted = False
        a.events.clear()
        world.run(6.0)
        assert PeerHeardFrom(b.public, b.source) in a.events


class TestWeather:
    @settings(max_examples=25, deadline=None)
    @given(
        seed=st.integers(0, 2**32),
        loss=st.sampled_from([0.0, 0.1, 0.3, 0.5]),
        duplicate=st.sampled_from([0.0, 0.2]),
        slowest=st.sampled_from([0.01, 0.5, 3.0]),
    )
    def test_terrible_then_fine(self, seed: int, loss: float, duplicate: float, slowest: float) -> None:
        world, a, b = pair(seed, Weather(loss, duplicate, (0.001, slowest)))
        from_a = world.traffic(a, b, every(1.7, 400.0))
        from_b = world.traffic(b, a, every(2.3, 400.0))
        world.run(400.0 + slowest)
        for node, sent in ((b, from_a), (a, from_b)):
            assert len(set(node.received)) == len(node.received), "delivered twice"
            assert set(node.received) <= set(sent)
        for name in ("a", "b"):
            assert all(wait >= 5.0 - 1e-9 for wait in world.wire.waits(name))
        world.weather = Weather()
        world.run(12.0)  # what was being retried is answered now
        a.send(b, 10**6)
        b.send(a, 10**6 + 1)
        world.run(12.0)
        assert 10**6 in b.received
        assert 10**6 + 1 in a.received

    @pytest.mark.parametrize("seed", range(3))
    def test_reordering_and_duplicates_lose_nothing(self, seed: int) -> None:
        world, a, b = connected(seed)
        world.weather = Weather(duplicate=0.5, delay=(0.001, 0.3))
        sent = world.traffic(a, b, every(0.05, 300.0), first=10)
        world.traffic(b, a, every(1.0, 300.0))
        world.run(301.0)
        assert sorted(b.received[1:]) == sent
        assert b.device.drops[DropReason.REPLAYED_COUNTER] > 1000
