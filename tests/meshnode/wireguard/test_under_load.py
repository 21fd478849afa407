"""Floods: who must prove their address, what is bounded, and what goes on as if nothing happened."""

from __future__ import annotations

import pytest

from meshnode import dataplane
from meshnode.dataplane import DropReason
from meshnode.wireguard import HandshakeCompleted, Kind, PeerHeardFrom, Source, constants, messages, tai64n
from meshnode.wireguard.source import address_bytes
from meshproto.primitives import blake2s_mac
from tests.meshnode.wireguard import forging
from tests.meshnode.wireguard.simulation import Node, World, connected, key

FLOODER = ("203.0.113.66", 6666)


REPLIES_AT_ONCE = 5
"""What one address is asked for its proof before it has to wait."""


def neighbour(node: Node) -> Source:
    """Another source behind the same address."""
    return (node.source[0], node.source[1] + 1)


def flood(node: Node, count: int, source: Source = FLOODER) -> None:
    """Initiations with a valid mac1 and nothing else, given to the device without letting it work."""
    batch = b"".join(forging.garbage_initiation(node.device.public_key) for _ in range(count))
    node.device.decapsulate(memoryview(batch), messages.INITIATION_SIZE, source, node._out, node.world.now)


def meet() -> tuple[World, Node, Node]:
    """`b` will be flooded; `a` wants to talk to it."""
    world = World()
    a = world.node("a", key(1), "100.64.0.1")
    b = world.node("b", key(2), "100.64.0.2")
    a.peer_with(b)
    b.peer_with(a)
    return world, a, b


def work_off(node: Node) -> int:
    """Let the device work; return how many turns it took."""
    turns = 0
    while len(node.device._admission):
        node.device.handle_timeout(node.world.now)
        turns += 1
    return turns


def test_not_under_load_nobody_is_asked() -> None:
    _, _, b = meet()
    flood(b, constants.UNDER_LOAD_DEPTH)
    assert b.device.take_datagrams() == []
    assert work_off(b) == constants.UNDER_LOAD_DEPTH / constants.HANDSHAKES_PER_TURN
    assert b.device.drops == {DropReason.INVALID_HANDSHAKE: constants.UNDER_LOAD_DEPTH}


def test_strangers_get_a_cookie_reply_smaller_than_their_message() -> None:
    _, _, b = meet()
    flood(b, constants.UNDER_LOAD_DEPTH + 1 + 3)
    replies = b.device.take_datagrams()
    assert len(replies) == 3
    for outgoing in replies:
        assert len(outgoing.datagram) == messages.COOKIE_REPLY_SIZE < messages.RESPONSE_SIZE
        assert (outgoing.peer, outgoing.kind, outgoing.reply_to) == (None, Kind.HANDSHAKE, FLOODER)
    assert b.device.drops[DropReason.UNDER_LOAD] == 3
    assert len(b.device._admission) == constants.UNDER_LOAD_DEPTH + 1  # the first that is asked in vain


def test_next_timeout_has_passed_while_messages_wait() -> None:
    world, _, b = meet()
    flood(b, 20)
    assert b.device.next_timeout() == world.now
    b.device.handle_timeout(world.now)
    assert len(b.device._admission) == 20 - constants.HANDSHAKES_PER_TURN
    assert b.device.next_timeout() == world.now
    work_off(b)
    assert b.device.next_timeout() is None


def test_the_honest_get_through_a_flood_from_elsewhere_at_once() -> None:
    world, a, b = meet()
    flood(b, 200)
    a.send(b, 1)
    for _ in range(20):
        flood(b, 200)
        world.run(0.01)
    assert b.received == [1]
    assert world.wire.seen["cookie reply"] == 0
    (only,) = world.wire.datagrams("a: initiation")
    assert only[-16:] == messages.NO_MAC2
    assert b.device.gate.is_loaded(world.now)


def test_behind_the_address_of_a_flooder_proof_is_needed() -> None:
    """Initiation, cookie reply, and five seconds later an initiation with mac2, which is answered."""
    world, a, b = meet()
    flood(b, constants.UNDER_LOAD_DEPTH + 2, neighbour(a))
    a.send(b, 1)
    world.run(0.015)
    assert world.wire.seen["cookie reply"] == 1
    assert not b.happened(PeerHeardFrom)
    for _ in range(60):
        flood(b, 200)
        flood(b, 2, neighbour(a))
        b.settle()
        world.run(0.1)
    assert b.received == [1]
    assert len(world.wire.times("a: initiation")) == 2
    first, second = world.wire.datagrams("a: initiation")
    assert first[-16:] == messages.NO_MAC2
    assert second[-16:] != messages.NO_MAC2
    assert b.happened(HandshakeCompleted)


def test_an_address_without_proof_has_one_try_in_a_while() -> None:
    world, _, b = meet()
    flood(b, constants.UNDER_LOAD_DEPTH)
    tries = []
    for second in range(11):
        world.now = float(second)
        flood(b, 10)  # nobody works them off: the load goes on
        tries.append(len(b.device._admission) - constants.UNDER_LOAD_DEPTH)
    assert tries == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]


def test_a_cookie_reply_causes_nothing_at_once() -> None:
    world, a, b = meet()
    flood(b, constants.UNDER_LOAD_DEPTH + 1, neighbour(a))
    a.send(b, 1)
    before = forging.fingerprint(a.device)
    world.run(4.0)
    assert world.wire.seen["cookie reply"] == 1
    after = forging.fingerprint(a.device)
    # Only the cookie differs: no timer, no endpoint, no event, nothing sent.
    cookies_before, cookies_after = before[-1][0][3], after[-1][0][3]
    assert cookies_before != cookies_after
    assert [part for part in before[-1][0] if part != cookies_before] == [
        part for part in after[-1][0] if part != cookies_after
    ]
    assert before[:-1] == after[:-1]
    assert not a.happened(PeerHeardFrom)


def test_a_loaded_initiator_asks_the_responder_too() -> None:
    world, a, b = meet()
    a.send(b, 1)
    flood(a, constants.UNDER_LOAD_DEPTH + 1, neighbour(b))
    world.run(0.1)
    assert world.wire.seen["cookie reply"] == 1
    assert not a.happened(HandshakeCompleted)
    world.run(6.0)
    assert b.received == [1]


def test_linger() -> None:
    world, _a, b = meet()
    flood(b, 100)
    work_off(b)
    assert b.device.gate.is_loaded(world.now + 0.99)
    assert not b.device.gate.is_loaded(world.now + 1.0)


def test_proved_sources_are_limited_each() -> None:
    """A cookie does not buy more than twenty a second, and others are not charged for it."""
    world, _, b = meet()
    flood(b, 100)
    b.device.take_datagrams()
    checker = b.device._admission.checker
    taken = 0
    for source in (FLOODER, ("203.0.113.67", 1)):
        for _ in range(20):
            message = forging.garbage_initiation(b.device.public_key)
            cookie = dataplane.cookie(checker._secret, address_bytes(source), source[1])
            proved = message[:-16] + blake2s_mac(cookie, message[:-16])
            b.device.decapsulate(memoryview(proved), len(proved), source, b._out, world.now)
        taken += 5
        assert len(b.device._admission) == constants.UNDER_LOAD_DEPTH + 1 + taken
    assert b.device.drops[DropReason.RATE_LIMITED] == 30
    assert b.device.take_datagrams() == []


def test_one_address_is_answered_at_a_bounded_rate() -> None:
    world, _, b = meet()
    for port in range(40):
        flood(b, 400, (FLOODER[0], port))
    assert len(b.device._admission) == constants.UNDER_LOAD_DEPTH + 1
    assert len(b.device.take_datagrams()) == REPLIES_AT_ONCE
    world.now += 1.5
    flood(b, 400)
    assert len(b.device.take_datagrams()) == 3
    admitted = constants.UNDER_LOAD_DEPTH + 1
    assert b.device.drops == {DropReason.UNDER_LOAD: 41 * 400 - admitted}
    assert len(b.device._admission) == admitted


def test_replies_that_wait_are_bounded() -> None:
    _world, _, b = meet()
    for host in range(constants.MAX_PENDING_COOKIE_REPLIES):
        flood(b, 4, (f"198.51.100.{host}", 1))
    assert len(b.device.take_datagrams()) == constants.MAX_PENDING_COOKIE_REPLIES
    flood(b, 10)
    assert len(b.device.take_datagrams()) == REPLIES_AT_ONCE


def test_full_queue() -> None:
    """From so many addresses that the first try of each fills it."""
    _world, _, b = meet()
    flood(b, constants.UNDER_LOAD_DEPTH)
    for number in range(constants.HANDSHAKE_QUEUE_SIZE - constants.UNDER_LOAD_DEPTH + 1):
        assert not b.device.drops
        flood(b, 1, (f"198.51.{number >> 8}.{number & 255}", 1))
    assert len(b.device._admission) == constants.HANDSHAKE_QUEUE_SIZE
    assert b.device.drops == {DropReason.HANDSHAKE_QUEUE_FULL: 1}


def test_while_data_moves_handshakes_take_turns_with_it() -> None:
    world, a, b = connected()
    a.send(b, 10)
    world.run(0.01)
    flood(b, 20)
    left = []
    for milliseconds in (0, 4, 5, 9, 10, 11):
        b.device.handle_timeout(world.now + milliseconds / 1000)
        left.append(len(b.device._admission))
        if milliseconds < 10:
            assert b.device.next_timeout() == pytest.approx(world.now + 0.005 * (1 + milliseconds // 5))
    assert left == [19, 19, 18, 18, 10, 2]


def test_data_is_not_delayed() -> None:
    """Between two turns of the flood, data passes as ever."""
    world, a, b = connected()
    for number in range(100):
        flood(b, 100)
        a.send(b, 10 + number)
        world.run(0.02)
    assert b.received[1:] == list(range(10, 110))


def test_forged_mac1_costs_nothing_more() -> None:
    world, _a, b = meet()
    message = bytearray(forging.garbage_initiation(b.device.public_key) * 100)
    for position in range(116, len(message), 148):
        message[position] ^= 1
    b.device.decapsulate(memoryview(bytes(message)), 148, FLOODER, b._out, world.now)
    assert b.device.drops == {DropReason.INVALID_MAC1: 100}
    assert b.device.next_timeout() is None
    assert b.device.take_datagrams() == []


def test_fifty_initiations_a_second_and_peer() -> None:
    world, a, b = meet()
    stamps = iter(range(1_800_000_000, 1_900_000_000))
    for _ in range(100):
        message = forging.initiation(a.private, b.public, timestamp=tai64n.encode(next(stamps), 0))
        b.device.decapsulate(memoryview(message), len(message), FLOODER, b._out, world.now)
        b.device.handle_timeout(world.now)
        world.now += 0.01
    answered = len(b.device.take_datagrams())
    assert 48 <= answered <= 50
    assert b.device.drops == {DropReason.RATE_LIMITED: 100 - answered}


@pytest.mark.parametrize("source", [("2001:db8::5", 7), ("fe80::1%eth0", 7), ("derp-3", 7)])
def test_any_kind_of_source(source: Source) -> None:
    _, _, b = meet()
    flood(b, 100, source)
    assert {outgoing.reply_to for outgoing in b.device.take_datagrams()} == {source}
