"""The device as its owner sees it: configuration, batches, cryptokey routing, statistics."""

from __future__ import annotations

import dataclasses
import gc
import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshnode import dataplane
from meshnode.dataplane import DropReason
from meshnode.wireguard import Device, HandshakeCompleted, Kind, PeerConfig, Timings, messages, tai64n
from meshnode.wireguard.peer import Peer
from meshproto.keys import NodePublic
from tests.meshnode.wireguard import forging
from tests.meshnode.wireguard.simulation import (
    EPOCH,
    Node,
    World,
    connected,
    key,
    network,
    packet,
    pair,
)

PSK, OTHER_PSK = bytes(range(32)), bytes(range(32, 64))


def device(number: int = 1, **options: object) -> Device:
    return Device(key(number), entropy=random.Random(number).randbytes, wall=lambda: EPOCH, **options)  # type: ignore[arg-type]


def out() -> memoryview:
    return memoryview(bytearray(dataplane.SEAL_BUFFER_SIZE))


class TestConfiguration:
    def test_refuses_a_peer_named_twice_and_changes_nothing(self) -> None:
        tested = device()
        tested.set_peers([PeerConfig(key(2).public)], 0.0)
        with pytest.raises(ValueError, match="twice"):
            tested.set_peers([PeerConfig(key(3).public), PeerConfig(key(3).public)], 0.0)
        assert tested.peers == (key(2).public,)

    def test_leaves_itself_out(self) -> None:
        tested = device()
        tested.set_peers([PeerConfig(key(1).public), PeerConfig(key(2).public)], 0.0)
        assert tested.peers == (key(2).public,)

    @pytest.mark.parametrize("bad", [{"preshared_key": b"short"}, {"persistent_keepalive": -1}])
    def test_impossible_values(self, bad: dict[str, object]) -> None:
        with pytest.raises(ValueError):
            PeerConfig(key(2).public, **bad)  # type: ignore[arg-type]

    def test_unknown_peers_are_a_mistake(self) -> None:
        with pytest.raises(KeyError):
            device().stats(key(2).public)
        with pytest.raises(KeyError):
            device().initiate(key(2).public, 0.0)

    def test_secrets_do_not_show(self) -> None:
        config = PeerConfig(key(2).public, preshared_key=PSK)
        assert PSK.hex() not in repr(config)
        assert repr(PSK) not in repr(config)

    def test_setting_the_same_again_changes_nothing(self) -> None:
        world, a, _ = connected(keepalives=(25, 0))
        before = forging.fingerprint(a.device)
        a.device.set_peers(list(a.configs.values()), world.now)
        assert forging.fingerprint(a.device) == before

    def test_a_peer_that_stays_keeps_its_session(self) -> None:
        world, a, b = connected()
        a.configs[key(9).public] = PeerConfig(key(9).public, frozenset({network("10.9.0.0/16")}))
        a.apply()
        assert a.send(b, 3)
        del a.configs[key(9).public]
        a.apply()
        assert a.send(b, 4)
        world.run(1.0)
        assert b.received == [1, 3, 4]
        assert world.wire.seen["initiation"] == 1

    def test_a_changed_psk_applies_to_the_next_handshake_only(self) -> None:
        world, a, b = connected(psks=(PSK, PSK))
        a.peer_with(b, psk=OTHER_PSK)
        assert a.send(b, 3)
        world.run(1.0)
        assert b.received == [1, 3]
        world.run(200.0)
        a.send(b, 4)
        world.run(7.0)
        assert b.received == [1, 3]
        b.peer_with(a, psk=OTHER_PSK)
        world.run(7.0)
        assert b.received == [1, 3, 4]

    def test_removal_forgets_at_once(self) -> None:
        world, a, b = connected()
        b.send(a, 3)
        sealed = world.wire.datagrams("b: data")[-1]
        session = a.device._peers[b.public].slots.current
        assert session
        a.configs.clear()
        a.apply()
        world.run(1.0)
        assert a.received == [2]
        assert a.device.drops == {DropReason.UNKNOWN_RECEIVER_INDEX: 1}
        assert not a.send(b, 4)
        assert a.device.drops[DropReason.NO_PEER_FOR_DESTINATION] == 1
        with pytest.raises(dataplane.SessionSpent):
            dataplane.seal_packet(session.session, b"", 1280)
        assert len(a.device._context.indices) == len(a.device._context.sessions) == 0
        assert a.device.next_timeout() is None
        # Added again it is a new peer, which also forgot the old timestamps.
        a.peer_with(b)
        a.receive(sealed, b.source)
        assert a.received == [2]

    def test_removal_counts_what_waited(self) -> None:
        _world, a, b = pair()
        a.muted = True
        for number in range(3):
            a.send(b, number)
        a.configs.clear()
        a.apply()
        assert a.device.drops == {DropReason.PEER_REMOVED: 3}

    def test_another_private_key(self) -> None:
        """What is under way arrives; sending needs a new handshake, under the new identity."""
        world, a, b = connected()
        b.send(a, 3)
        old, new = a.private, key(50)
        a.device.set_private_key(new)
        world.run(0.5)
        assert a.received == [2, 3]
        assert a.device.public_key == new.public
        assert not a.send(b, 4)
        world.run(1.0)
        assert b.device.drops[DropReason.UNKNOWN_PEER] == 1
        world.by_key[new.public] = a
        b.configs = {new.public: dataclasses.replace(b.configs[old.public], public_key=new.public)}
        b.apply()
        world.run(7.0)
        assert b.received == [1, 4]

    def test_another_private_key_during_an_attempt(self) -> None:
        """What waits does not wait for the retransmission of an initiation that nobody can answer."""
        world, a, b = pair()
        a.muted = True
        a.send(b, 1)
        world.run(1.0)
        a.muted = False
        new = key(50)
        a.device.set_private_key(new)
        world.by_key[new.public] = a
        b.configs = {new.public: dataclasses.replace(b.configs[a.public], public_key=new.public)}
        b.apply()
        a.settle()
        world.run(1.0)
        assert b.received == [1]

    def test_the_same_private_key_again(self) -> None:
        _, a, b = connected()
        a.device.set_private_key(key(1))
        assert a.send(b, 3)

    def test_our_new_key_is_no_peer(self) -> None:
        tested = device()
        tested.set_peers([PeerConfig(key(2).public)], 0.0)
        tested.set_private_key(key(2))
        assert tested.peers == ()

    def test_a_weak_peer_key_hurts_nobody(self) -> None:
        """A low-order point: no handshake can succeed with it, and none leaves."""
        tested = device()
        weak = NodePublic(bytes(32))
        tested.set_peers([PeerConfig(weak, frozenset({network("10.0.0.0/8")}))], 0.0)
        assert tested.encapsulate(memoryview(packet("100.64.0.1", "10.0.0.1")), out(), 0.0) is None
        tested.handle_timeout(0.0)
        assert tested.take_datagrams() == []
        assert len(tested._context.indices) == 0


class TestCryptokeyRouting:
    def three(self) -> tuple[World, Node, Node, Node]:
        world = World()
        a, b, c = (world.node(name, key(n), f"100.64.0.{n}") for n, name in ((1, "a"), (2, "b"), (3, "c")))
        for one, other in ((a, b), (a, c), (b, a), (c, a)):
            one.peer_with(other)
        return world, a, b, c

    def test_no_peer_for_destination(self) -> None:
        _, a, _, _ = self.three()
        a.send("192.168.0.1")
        assert a.device.drops == {DropReason.NO_PEER_FOR_DESTINATION: 1}

    @pytest.mark.parametrize("junk", [b"", bytes(9), bytes(10), bytes(40), bytes(10) + b"\xf0" + bytes(40)])
    def test_what_is_no_packet(self, junk: bytes) -> None:
        assert device().encapsulate(memoryview(junk), out(), 0.0) is None

    def test_a_wide_prefix_does_not_admit_anothers_narrow_one(self) -> None:
        world, a, b, c = self.three()
        a.peer_with(b, "10.0.0.0/8")
        a.peer_with(c, "10.1.0.0/16")
        b.address = "10.2.0.1"
        b.send(a, 1)
        world.run(1.0)
        assert a.received == [1]
        b.address = "10.1.0.1"
        b.send(a, 2)
        world.run(1.0)
        assert a.received == [1]
        assert a.device.drops == {DropReason.SOURCE_NOT_ALLOWED: 1}

    def test_the_later_claim_wins_and_a_prefix_moves(self) -> None:
        world, a, b, c = self.three()
        a.peer_with(b, "10.0.0.0/8")
        a.peer_with(c, "10.0.0.0/8")
        a.send("10.0.0.1", 1)
        world.run(1.0)
        assert (b.received, c.received) == ([], [1])
        a.peer_with(c)  # c gives it up: it is b's
        a.send("10.0.0.1", 2)
        world.run(1.0)
        assert (b.received, c.received) == ([2], [1])
        a.peer_with(b)
        a.send("10.0.0.1", 3)
        assert a.device.drops[DropReason.NO_PEER_FOR_DESTINATION] == 1

    @settings(max_examples=50, deadline=None)
    @given(
        st.lists(
            st.dictionaries(
                st.integers(2, 5),
                st.frozensets(st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "0.0.0.0/0"])),
                max_size=4,
            ),
            max_size=6,
        )
    )
    def test_routing_is_a_function_of_the_last_configuration(
        self, configurations: list[dict[int, frozenset[str]]]
    ) -> None:
        """However it came to be, as if it had been the first."""
        changed, fresh = device(), device()
        peers: list[PeerConfig] = []
        for configuration in configurations:
            peers = [
                PeerConfig(key(number).public, frozenset(map(network, prefixes)))
                for number, prefixes in configuration.items()
            ]
            changed.set_peers(peers, 0.0)
        fresh.set_peers(peers, 0.0)
        for address in ("10.0.0.1", "10.1.0.1", "10.1.2.3", "9.9.9.9"):
            assert self.owner(changed, address) == self.owner(fresh, address)

    def owner(self, tested: Device, address: str) -> NodePublic | None:
        found = dataplane.route(tested._allowed_ips, memoryview(packet("100.64.0.1", address)))
        return tested._by_id[found].public_key if found != dataplane.NO_PEER else None


class TestBatches:
    def test_mixed_unit(self) -> None:
        """Data, a handshake, a stranger's data and a foreign datagram in one receive; each costs itself."""
        world, a, b = connected()
        b.muted = True
        size = messages.INITIATION_SIZE
        b.send(a, 3, size - 32 - 20 - 4)  # as long as an initiation: padded to 112, so 144
        data = world.wire.datagrams("b: data")[-1]
        initiation = forging.initiation(b.private, a.public)[: len(data)]
        stun = b"\0\1\0\0\x21\x12\xa4\x42".ljust(len(data), b"\0")
        unknown = b"\4\0\0\0" + bytes(len(data) - 4)
        unit = b"".join([stun, data, initiation, unknown, data, stun[:30]])
        a.receive(unit, b.source, stride=len(data))
        assert a.received == [2, 3]
        assert a.foreign == [stun, stun[:30]]
        assert a.device.drops == {
            DropReason.INVALID_LENGTH: 1,
            DropReason.UNKNOWN_RECEIVER_INDEX: 1,
            DropReason.REPLAYED_COUNTER: 1,
        }

    def test_handshakes_in_one_unit(self) -> None:
        world, a, b = pair()
        stamp = tai64n.encode(1_800_000_000, 0)
        good = forging.initiation(b.private, a.public, timestamp=stamp)
        unit = forging.garbage_initiation(a.public) + good + good
        a.receive(unit, b.source, stride=messages.INITIATION_SIZE)
        assert world.wire.seen == {"response": 1}
        assert a.device.drops == {DropReason.INVALID_HANDSHAKE: 1, DropReason.REPLAYED_TIMESTAMP: 1}

    def test_oversized_datagram(self) -> None:
        _, a, b = connected()
        a.receive(b"\4\0\0\0" + bytes(65531), b.source)
        a.receive(b"\1\0\0\0" + bytes(65531), b.source)
        assert a.device.drops == {DropReason.UNKNOWN_RECEIVER_INDEX: 1, DropReason.INVALID_LENGTH: 1}

    @given(st.binary(max_size=400), st.integers(1, 200))
    def test_any_bytes(self, junk: bytes, stride: int) -> None:
        tested = device()
        tested.set_peers([PeerConfig(key(2).public)], 0.0)
        tested.decapsulate(memoryview(junk), stride, ("192.0.2.1", 1), out(), 0.0)
        tested.handle_timeout(0.0)
        assert tested.take_datagrams() == []
        assert tested.take_events() == []

    def test_a_superpacket_that_waits_leaves_as_datagrams(self) -> None:
        """What was staged is cut, padded and numbered like what was not."""
        world, a, b = pair()
        header = bytearray(packet(a.address, b.address)[:30])
        header[0:10] = bytes([1, 5, 28, 0]) + (400).to_bytes(2, "little") + bytes([20, 0, 6, 0])  # USO, 400
        payload = bytes(range(256)) * 4
        header[12:14] = (20 + 8 + len(payload)).to_bytes(2, "big")
        header[19] = 17
        udp = bytes([0x10, 0, 0x10, 0]) + (8 + len(payload)).to_bytes(2, "big") + bytes(2)
        sealed = a.device.encapsulate(memoryview(bytes(header) + udp + payload), a._out, world.now)
        assert sealed is None
        a.settle()
        world.run(1.0)
        assert len(world.wire.times("a: data")) == 3
        assert b"".join(tunnel[38:] for tunnel in b.tunnel) == payload

    def test_staged_is_bounded(self) -> None:
        world, a, b = pair()
        a.muted = True
        for number in range(200):
            a.send(b, number)
        assert a.device.stats(b.public).staged_packets == 128
        assert a.device.drops == {DropReason.STAGED_QUEUE_FULL: 72}
        a.muted = False
        world.run(7.0)
        assert b.received == list(range(72, 200))


class TestLimits:
    def test_rekey_after_messages(self) -> None:
        world, a, b = connected(timings=Timings(rekey_after_messages=100))
        world.run(10.0)
        for number in range(200):
            a.send(b, 10 + number)
        assert world.wire.seen["initiation"] == 2
        world.run(1.0)
        assert b.received == [1, *range(10, 210)]
        assert len(a.happened(HandshakeCompleted)) == 2

    def test_the_responder_renews_on_messages_too(self) -> None:
        world, a, b = connected(timings=Timings(rekey_after_messages=100))
        world.run(10.0)
        for number in range(200):
            b.send(a, 10 + number)
        assert world.wire.times("b: initiation")

    def test_stop_at_reject_after_messages(self) -> None:
        timings = Timings(rekey_after_messages=2**60, reject_after_messages=50)
        world, a, b = connected(timings=timings)
        world.run(10.0)
        a.muted = True
        sealed = [a.send(b, number) for number in range(60)]
        assert sealed.count(True) == 48  # the confirmation was 0, which `connected` sent as data
        assert not any(sealed[sealed.index(False) :])
        a.muted = False
        world.run(7.0)
        assert b.received[-5:] == [55, 56, 57, 58, 59]

    def test_a_spent_session_stages(self) -> None:
        world, a, b = connected()
        keypair = a.device._peers[b.public].slots.current
        assert keypair
        world.run(20.0)
        keypair.session.send_counter = dataplane.COUNTER_LIMIT - 1
        assert a.send(b, 3)
        assert not a.send(b, 4)
        world.run(1.0)
        assert b.received == [1, 3, 4]

    def test_an_hour_with_everything_fast(self) -> None:
        """All timings a hundredth: 3000 renewals' worth of an hour in thirty-six seconds of traffic."""
        timings = Timings(
            rekey_after_time=1.2,
            reject_after_time=1.8,
            rekey_attempt_time=0.9,
            rekey_timeout=0.05,
            keepalive_timeout=0.1,
            max_jitter=0.003,
            initiation_interval=0.0002,
        )
        world, a, b = connected(timings=timings)
        sent = world.traffic(a, b, [number * 0.01 for number in range(3600)], first=10)
        world.run(37.0)
        assert b.received[1:] == sent
        assert 25 <= world.wire.seen["initiation"] <= 35


class TestClocks:
    def test_wall_clock_goes_back(self) -> None:
        """Renewals go on: the timestamps do not go back with it."""
        world, a, b = connected()
        a.wall_offset = -86400.0
        world.traffic(a, b, range(300), first=10)
        world.run(301.0)
        assert b.received[1:] == list(range(10, 310))
        assert world.wire.seen["initiation"] == world.wire.seen["response"] == 3

    def test_a_long_sleep(self) -> None:
        """The machine slept: everything is due at once, and happens once."""
        world, a, b = connected(keepalives=(25, 0))
        world.now += 100_000.0
        before = world.wire.seen.copy()
        a.settle()
        assert world.wire.seen - before == {"initiation": 1}
        world.run(1.0)
        a.send(b, 3)
        world.run(1.0)
        assert b.received == [1, 3]

    def test_handling_the_same_moment_twice(self) -> None:
        world, a, _ = connected(keepalives=(25, 0))
        world.run(30.0)
        before = forging.fingerprint(a.device)
        a.device.handle_timeout(world.now)
        assert forging.fingerprint(a.device) == before

    def test_next_timeout_is_never_late(self) -> None:
        """Before it, nothing happens; then something does, or it moves on."""
        world, a, b = connected(keepalives=(25, 0))
        a.send(b, 3)
        world.run(2.0)
        for _ in range(40):
            due = a.device.next_timeout()
            assert due is not None
            before = forging.fingerprint(a.device)
            a.device.handle_timeout(due - 1e-6)
            assert forging.fingerprint(a.device) == before
            a.device.handle_timeout(due)
            later = a.device.next_timeout()
            assert later is not None
            assert later > due
            a.device.take_datagrams()

    def test_traffic_does_not_pile_up_deadlines(self) -> None:
        """Data both ways moves deadlines with every packet; neither looks nor entries grow with it."""
        world, a, b = connected()
        looks = 0
        for number in range(2000):
            a.send(b, 10 + number)
            world.run(0.02)
            b.send(a, 10 + number)
            due = a.device.next_timeout()
            assert due is not None
            looks += due <= world.now + 0.03
            world.run(0.03)
            assert len(a.device._schedule) <= 2 + 64
        assert len(a.device._schedule) < 30
        assert looks <= 100 / 10 + 2


class TestPathChange:
    def test_initiates_without_the_usual_wait(self) -> None:
        world, a, b = pair()
        a.muted = True
        a.send(b, 1)
        world.run(1.0)
        a.muted = False
        a.device.initiate(b.public, world.now)
        a.settle()
        world.run(1.0)
        assert b.received == [1]

    def test_is_limited_all_the_same(self) -> None:
        world, a, b = pair()
        a.muted = True
        for _ in range(100):
            a.device.initiate(b.public, world.now)
            a.settle()
            world.run(0.01)
        assert 2 <= world.wire.seen["initiation"] <= 5

    def test_no_timeout_is_reported_for_it(self) -> None:
        world, a, b = pair()
        a.device.initiate(b.public, world.now)
        a.device.initiate(b.public, world.now)
        a.settle()
        world.run(1.0)
        assert [type(event).__name__ for event in a.events] == ["PeerHeardFrom", "HandshakeCompleted"]


class TestStatistics:
    def test_bytes_and_times(self) -> None:
        _world, a, b = connected()
        ours, theirs = a.device.stats(b.public), b.device.stats(a.public)
        # a: initiation and 48 + 32 bytes of data; b: response and as much.
        assert (ours.tx_bytes, ours.rx_bytes) == (148 + 80, 92 + 80)
        assert (theirs.tx_bytes, theirs.rx_bytes) == (92 + 80, 148 + 80)
        assert ours.last_handshake == pytest.approx(0.02)
        assert ours.last_handshake_wall == pytest.approx(EPOCH + 0.02)
        assert theirs.last_handshake == pytest.approx(0.03)
        assert ours.last_sent == pytest.approx(0.02)
        assert ours.last_received == pytest.approx(0.51)
        assert ours.has_session

    def test_of_a_new_peer(self) -> None:
        tested = device()
        tested.set_peers([PeerConfig(key(2).public)], 0.0)
        stats = tested.stats(key(2).public)
        assert (stats.rx_bytes, stats.tx_bytes, stats.last_handshake, stats.has_session) == (
            0,
            0,
            None,
            False,
        )

    def test_kinds_of_datagrams(self) -> None:
        world, a, b = pair()
        a.muted = True
        a.device.encapsulate(memoryview(packet(a.address, b.address)), a._out, world.now)
        (outgoing,) = a.device.take_datagrams()
        assert (outgoing.peer, outgoing.kind, outgoing.reply_to) == (b.public, Kind.HANDSHAKE, None)
        b.device.decapsulate(memoryview(outgoing.datagram), 148, a.source, b._out, world.now)
        b.device.handle_timeout(world.now)
        (response,) = b.device.take_datagrams()
        assert (response.peer, response.kind, response.reply_to) == (a.public, Kind.HANDSHAKE, a.source)
        a.device.decapsulate(memoryview(response.datagram), 92, b.source, a._out, world.now)
        a.device.handle_timeout(world.now)
        (data,) = a.device.take_datagrams()
        assert (data.peer, data.kind, data.reply_to) == (b.public, Kind.DATA, None)


class TestMemory:
    def test_a_removed_peer_is_gone_without_the_collector(self) -> None:
        _, a, _b = connected()
        gc.collect()
        gc.disable()
        try:
            before = self.peers()
            a.configs.clear()
            a.apply()
            assert self.peers() == before - 1
        finally:
            gc.enable()

    def peers(self) -> int:
        return sum(type(tracked) is Peer for tracked in gc.get_objects())

    def test_memory_returns(self) -> None:
        tested = device()
        configs = [
            PeerConfig(
                NodePublic(number.to_bytes(32, "big")), frozenset({network(f"10.0.{number}.0/24")}), None, 25
            )
            for number in range(1, 51)
        ]

        def round_trip() -> None:
            tested.set_peers(configs, 0.0)
            tested.handle_timeout(0.0)
            tested.set_peers([], 0.0)
            tested.take_datagrams()
            tested.take_events()
            assert tested.next_timeout() is None

        tracemalloc.start()
        try:
            for _ in range(3):
                round_trip()
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            for _ in range(5):
                round_trip()
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < 10_000
