"""The small parts, each against something obviously right."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.dataplane import Session, Verdict
from meshnode.wireguard import cookie, messages, noise, tai64n
from meshnode.wireguard.constants import DEFAULT
from meshnode.wireguard.handshake import PeerHandshake
from meshnode.wireguard.index_table import IndexTable
from meshnode.wireguard.keypairs import Keypair, KeySlots
from meshnode.wireguard.source import Source
from meshnode.wireguard.staged import StagedPackets
from meshproto.keys import NodePrivate
from tests.meshnode.wireguard import forging
from tests.meshnode.wireguard.simulation import key


class TestTimestamps:
    @given(st.lists(st.floats(0, 2e9), min_size=1, max_size=50))
    def test_never_go_back(self, walls: list[float]) -> None:
        clock = iter(walls)
        source = tai64n.TimestampSource(lambda: next(clock))
        stamps = [source.stamp() for _ in walls]
        assert stamps == sorted(stamps)

    @given(st.lists(st.floats(0, 2e9), min_size=1, max_size=50))
    def test_always_newer_for_one_peer(self, walls: list[float]) -> None:
        """Whatever the wall clock does, also when it stands still, the peer gets no replay."""
        clock = iter(walls)
        source = tai64n.TimestampSource(lambda: next(clock))
        stamps = [b""]
        for _ in walls:
            stamps.append(source.stamp(after=stamps[-1]))
        assert stamps == sorted(set(stamps))
        assert all(stamp[9:] == b"\0\0\0" for stamp in stamps[1:])

    def test_following_carries(self) -> None:
        last_slot = tai64n.encode(5, 999_999_999)
        assert tai64n.following(last_slot) == tai64n.encode(6, 0)
        assert tai64n.following(tai64n.encode(6, 0)) == tai64n.encode(6, 1 << 24)

    def test_a_clock_before_1970(self) -> None:
        assert tai64n.TimestampSource(lambda: -5.0).stamp() == tai64n.encode(0, 0)

    def test_many_peers_share_a_slot(self) -> None:
        """Stamps do not run ahead of the clock because there are many peers."""
        source = tai64n.TimestampSource(lambda: 1e9)
        assert {source.stamp() for _ in range(1000)} == {tai64n.encode(10**9, 0)}


class TestIndexTable:
    def test_random_unique_and_drawn_again_on_collision(self) -> None:
        drawn = iter([b"\1\0\0\0", b"\1\0\0\0", b"\2\0\0\0", b"\1\0\0\0"])
        table: IndexTable[str] = IndexTable(lambda _: next(drawn))
        assert table.allocate("a") == 1
        assert table.allocate("b") == 2
        assert (table.owner(1), table.owner(2), table.owner(3)) == ("a", "b", None)
        table.free(1)
        table.free(1)
        assert table.owner(1) is None
        assert table.allocate("c") == 1
        assert len(table) == 2


class TestStagedPackets:
    def test_oldest_goes_first_by_count(self) -> None:
        staged = StagedPackets(max_packets=3)
        assert [staged.append(bytes([number])) for number in range(5)] == [0, 0, 0, 1, 1]
        assert [staged.take_first()[0] for _ in range(3)] == [2, 3, 4]
        assert staged.size_bytes == len(staged) == 0

    def test_oldest_goes_first_by_bytes(self) -> None:
        staged = StagedPackets(max_bytes=100)
        staged.append(bytes(60))
        staged.append(bytes(30))
        assert staged.append(bytes(70)) == 1
        assert (len(staged), staged.size_bytes) == (2, 100)

    @given(st.lists(st.integers(0, 70_000), max_size=300))
    def test_always_within_bounds(self, sizes: list[int]) -> None:
        staged, dropped = StagedPackets(), 0
        for size in sizes:
            dropped += staged.append(bytes(size))
            assert len(staged) <= 128
            assert staged.size_bytes <= 256 * 1024
        assert staged.clear() == len(sizes) - dropped
        assert staged.size_bytes == 0

    def test_put_back(self) -> None:
        staged = StagedPackets()
        staged.append(b"first")
        staged.append(b"second")
        staged.put_back(staged.take_first())
        assert staged.take_first() == b"first"


class TestKeySlots:
    """The table of reference §3.2."""

    def slots(self) -> tuple[KeySlots, list[Keypair]]:
        discarded: list[Keypair] = []
        return KeySlots(discarded.append), discarded

    def keypair(self, *, is_initiator: bool = True, birth: float = 0.0) -> Keypair:
        session = Session(bytes(32), bytes(32), 1, 2)
        return Keypair(session, is_initiator=is_initiator, birth=birth, timings=DEFAULT)

    def test_initiator(self) -> None:
        slots, discarded = self.slots()
        first, second, third = (self.keypair() for _ in range(3))
        slots.derived_as_initiator(first)
        assert (slots.previous, slots.current, slots.next) == (None, first, None)
        slots.derived_as_initiator(second)
        assert (slots.previous, slots.current, slots.next) == (first, second, None)
        slots.derived_as_initiator(third)
        assert (slots.previous, slots.current, slots.next) == (second, third, None)
        assert discarded == [first]

    def test_responder(self) -> None:
        slots, discarded = self.slots()
        first, second, third = (self.keypair(is_initiator=False) for _ in range(3))
        slots.derived_as_responder(first)
        assert (slots.previous, slots.current, slots.next) == (None, None, first)
        slots.confirm_next()
        assert (slots.previous, slots.current, slots.next) == (None, first, None)
        slots.derived_as_responder(second)
        slots.confirm_next()
        assert (slots.previous, slots.current, slots.next) == (first, second, None)
        slots.derived_as_responder(third)
        assert (slots.previous, slots.current, slots.next) == (None, second, third)
        assert discarded == [first]

    def test_crossing(self) -> None:
        slots, discarded = self.slots()
        old, theirs, ours = self.keypair(), self.keypair(is_initiator=False), self.keypair()
        slots.derived_as_initiator(old)
        slots.derived_as_responder(theirs)
        slots.derived_as_initiator(ours)
        assert (slots.previous, slots.current, slots.next) == (theirs, ours, None)
        assert discarded == [old]

    def test_unconfirmed_next_is_replaced(self) -> None:
        slots, discarded = self.slots()
        first, second = self.keypair(is_initiator=False), self.keypair(is_initiator=False)
        slots.derived_as_responder(first)
        slots.derived_as_responder(second)
        assert slots.next is second
        assert discarded == [first]

    def test_expiry_takes_only_the_old(self) -> None:
        slots, discarded = self.slots()
        old, young = self.keypair(birth=0.0), self.keypair(birth=100.0)
        slots.derived_as_initiator(old)
        slots.derived_as_initiator(young)
        assert slots.first_expiry() == 180.0
        assert not slots.expire(179.9)
        assert list(slots) == [old, young]
        assert not slots.expire(180.0)
        assert list(slots) == [young]
        assert slots.expire(280.0)
        assert discarded == [old, young]
        assert slots.first_expiry() == float("inf")

    @given(st.lists(st.sampled_from(["initiator", "responder", "confirm", "clear"]), max_size=30))
    def test_every_key_is_in_one_slot_or_discarded_once(self, steps: list[str]) -> None:
        slots, discarded = self.slots()
        made = []
        for step in steps:
            if step == "clear":
                slots.clear()
            elif step == "confirm":
                if slots.next is not None:
                    slots.confirm_next()
            else:
                made.append(self.keypair(is_initiator=step == "initiator"))
                getattr(slots, f"derived_as_{step}")(made[-1])
            assert sorted(map(id, [*slots, *discarded])) == sorted(map(id, made))


class TestCookies:
    A, B = key(1), key(2)
    SOURCE = ("192.0.2.1", 1000)

    def pair(self) -> tuple[cookie.CookieGenerator, cookie.CookieChecker]:
        return cookie.CookieGenerator(self.B.public), cookie.CookieChecker(
            self.B.public, random.Random(1).randbytes
        )

    def message(self) -> bytes:
        return forging.initiation(self.A, self.B.public)

    def is_proof(self, checker: cookie.CookieChecker, message: bytes, source: Source, now: float) -> bool:
        """Whether a loaded receiver takes the mac2 of `message`."""
        checker.gate.set_room(0)
        stranger = cookie.CookieGenerator(self.B.public).add_macs(self.message(), now)
        checker.judge(stranger, source, now)  # the first from an address needs no proof
        return checker.judge(message, source, now) is Verdict.ADMIT

    def exchange(self, generator: cookie.CookieGenerator, checker: cookie.CookieChecker, now: float) -> bool:
        message = generator.add_macs(self.message(), now)
        reply = messages.parse_cookie_reply_untrusted(checker.create_reply(message, self.SOURCE, now))
        return generator.consume_reply(reply, now)

    def test_bound_to_address_and_port(self) -> None:
        generator, checker = self.pair()
        assert self.exchange(generator, checker, 0.0)
        message = generator.add_macs(self.message(), 1.0)
        assert self.is_proof(checker, message, self.SOURCE, 1.0)
        assert not self.is_proof(checker, message, (self.SOURCE[0], 1001), 1.0)
        assert not self.is_proof(checker, message, ("192.0.2.2", 1000), 1.0)

    def test_secret_rotates(self) -> None:
        generator, checker = self.pair()
        self.exchange(generator, checker, 0.0)
        assert self.is_proof(checker, generator.add_macs(self.message(), 119.9), self.SOURCE, 119.9)
        message = generator.add_macs(self.message(), 119.9)
        assert not self.is_proof(checker, message, self.SOURCE, 120.0)

    def test_cookie_grows_old(self) -> None:
        generator, checker = self.pair()
        self.exchange(generator, checker, 0.0)
        assert generator.add_macs(self.message(), 119.9)[-16:] != messages.NO_MAC2
        assert generator.add_macs(self.message(), 120.0)[-16:] == messages.NO_MAC2

    def test_one_reply_per_message(self) -> None:
        generator, checker = self.pair()
        message = generator.add_macs(self.message(), 0.0)
        reply = messages.parse_cookie_reply_untrusted(checker.create_reply(message, self.SOURCE, 0.0))
        assert generator.consume_reply(reply, 0.0)
        assert not generator.consume_reply(reply, 0.0)

    def test_reply_is_bound_to_the_message(self) -> None:
        generator, checker = self.pair()
        first = generator.add_macs(self.message(), 0.0)
        generator.add_macs(self.message(), 5.0)
        stale = messages.parse_cookie_reply_untrusted(checker.create_reply(first, self.SOURCE, 5.0))
        assert not generator.consume_reply(stale, 5.0)

    def test_reply_before_any_message(self) -> None:
        generator, checker = self.pair()
        reply = messages.parse_cookie_reply_untrusted(checker.create_reply(self.message(), self.SOURCE, 0.0))
        assert not generator.consume_reply(reply, 0.0)

    @pytest.mark.parametrize("position", range(8, 64))
    def test_a_flipped_reply_is_refused_and_the_true_one_still_taken(self, position: int) -> None:
        generator, checker = self.pair()
        message = generator.add_macs(self.message(), 0.0)
        reply = checker.create_reply(message, self.SOURCE, 0.0)
        flipped = bytearray(reply)
        flipped[position] ^= 0x10
        assert not generator.consume_reply(messages.parse_cookie_reply_untrusted(bytes(flipped)), 0.0)
        assert generator.consume_reply(messages.parse_cookie_reply_untrusted(reply), 0.0)


class TestKeyHygiene:
    def test_pending_handshake_is_overwritten(self) -> None:
        a, b = key(1), key(2)
        _, pending = noise.create_initiation(
            a, b.public.raw, noise.static_static(a, b.public.raw), bytes(12), 1, random.Random(1).randbytes
        )
        pending.wipe()
        assert not any([*pending.ephemeral_private, *pending.chaining_key, *pending.hash])

    def test_a_replaced_handshake_is_overwritten(self) -> None:
        a, b = key(1), key(2)
        handshake = PeerHandshake(a, b.public, None, DEFAULT, random.Random(1).randbytes)
        timestamps = tai64n.TimestampSource(lambda: 1e9)
        handshake.create_initiation(1, timestamps, 0.0)
        first = handshake.pending
        assert first
        handshake.create_initiation(2, timestamps, 5.0)
        assert not any([*first.ephemeral_private, *first.chaining_key, *first.hash])

    def test_consume_response_only_reads(self) -> None:
        a, b = key(1), key(2)
        _, pending = noise.create_initiation(
            a, b.public.raw, noise.static_static(a, b.public.raw), bytes(12), 1, random.Random(1).randbytes
        )
        before = (bytes(pending.chaining_key), bytes(pending.hash), bytes(pending.ephemeral_private))
        response = messages.HandshakeResponse(1, 1, b.public.raw, bytes(16))
        with pytest.raises(noise.InvalidHandshake):
            noise.consume_response(a, pending, None, response)
        assert before == (bytes(pending.chaining_key), bytes(pending.hash), bytes(pending.ephemeral_private))

    def test_private_keys_do_not_show(self) -> None:
        private = NodePrivate(bytes(range(32)))
        assert private.raw.hex() not in repr(private)
