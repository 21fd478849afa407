"""Every state of a peer, every message that can arrive: taken, or rejected for a reason without any other
change.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from meshnode.dataplane import DropReason
from meshnode.wireguard import messages, tai64n
from tests.meshnode.wireguard import forging
from tests.meshnode.wireguard.simulation import Node, World, connected, key, pair

Scene = tuple[World, Node, Node]
STRANGER = ("203.0.113.1", 1)


# --- states of `a`, with `b` as its peer ---


def never_spoke() -> Scene:
    return pair()


def initiation_in_flight() -> Scene:
    world, a, b = pair()
    a.muted = b.muted = True
    a.send(b, 1)
    return world, a, b


def initiator() -> Scene:
    return connected()


def responder() -> Scene:
    world, b, a = connected()
    return world, a, b


def responder_unconfirmed() -> Scene:
    world, b, a = pair()
    b.send(a, 1)
    world.run(0.015)
    assert a.device._peers[b.public].slots.next
    return world, a, b


def renewing() -> Scene:
    world, a, b = connected()
    world.run(20.0)
    a.muted = b.muted = True
    a.device.initiate(b.public, world.now)
    a.settle()
    return world, a, b


def renewed_by_peer_unconfirmed() -> Scene:
    world, a, b = connected()
    world.run(20.0)
    b.device.initiate(a.public, world.now)
    b.settle()
    world.run(0.015)
    slots = a.device._peers[b.public].slots
    assert slots.current
    assert slots.next
    return world, a, b


def renewed() -> Scene:
    world, a, b = connected()
    world.run(20.0)
    a.device.initiate(b.public, world.now)
    a.settle()
    world.run(1.0)
    assert a.device._peers[b.public].slots.previous
    return world, a, b


def expired() -> Scene:
    world, a, b = connected()
    world.run(200.0)
    return world, a, b


def given_up() -> Scene:
    world, a, b = pair()
    b.muted = True
    a.send(b, 1)
    world.run(150.0)
    b.muted = False
    return world, a, b


def private_key_changed() -> Scene:
    world, a, b = connected()
    a.device.set_private_key(key(77))
    a.settle()
    return world, a, b


def peer_removed() -> Scene:
    world, a, b = connected()
    a.configs.clear()
    a.apply()
    return world, a, b


STATES: list[Callable[[], Scene]] = [
    never_spoke,
    initiation_in_flight,
    initiator,
    responder,
    responder_unconfirmed,
    renewing,
    renewed_by_peer_unconfirmed,
    renewed,
    expired,
    given_up,
    private_key_changed,
    peer_removed,
]


# --- messages to `a`; None where the state has no such message ---

Message = Callable[[World, Node, Node], bytes | None]


def pending_index(a: Node, b: Node) -> int | None:
    peer = a.device._peers.get(b.public)
    return peer.handshake.pending.local_index if peer and peer.handshake.pending else None


def session_indices(a: Node) -> list[int]:
    return [keypair.session.local_index for peer in a.device._peers.values() for keypair in peer.slots]


def last(world: World, line: str) -> bytes | None:
    found = world.wire.datagrams(line)
    return found[-1] if found else None


def fresh_initiation(world: World, a: Node, b: Node) -> bytes | None:
    return forging.initiation(b.private, a.device.public_key)


def replayed_initiation(world: World, a: Node, b: Node) -> bytes | None:
    return last(world, "b: initiation") or last(world, "a: initiation")


def old_initiation(world: World, a: Node, b: Node) -> bytes | None:
    return forging.initiation(b.private, a.device.public_key, timestamp=tai64n.encode(0, 0))


def initiation_of_a_stranger(world: World, a: Node, b: Node) -> bytes | None:
    return forging.initiation(key(99), a.device.public_key)


def initiation_to_another(world: World, a: Node, b: Node) -> bytes | None:
    return forging.initiation(b.private, key(99).public)


def garbage_initiation(world: World, a: Node, b: Node) -> bytes | None:
    return forging.garbage_initiation(a.device.public_key)


def initiation_with_a_weak_ephemeral(world: World, a: Node, b: Node) -> bytes | None:
    message = messages.HandshakeInitiation(1, bytes(32), bytes(48), bytes(28)).encode()
    return forging.with_mac1(message, a.device.public_key)


def response_that_fits(world: World, a: Node, b: Node) -> bytes | None:
    sent = last(world, "a: initiation")
    if sent is None or pending_index(a, b) is None:
        return None
    b.receive(sent, a.source)
    return last(world, "b: response")


def replayed_response(world: World, a: Node, b: Node) -> bytes | None:
    return last(world, "b: response")


def garbage_response(world: World, a: Node, b: Node) -> bytes | None:
    return forging.garbage_response(a.device.public_key, pending_index(a, b) or 5)


def response_with_a_weak_ephemeral(world: World, a: Node, b: Node) -> bytes | None:
    message = messages.HandshakeResponse(1, pending_index(a, b) or 5, bytes(32), bytes(16)).encode()
    return forging.with_mac1(message, a.device.public_key)


def response_to_a_session(world: World, a: Node, b: Node) -> bytes | None:
    """An index that exists, but names keys and no handshake."""
    indices = session_indices(a)
    return forging.garbage_response(a.device.public_key, indices[0]) if indices else None


def garbage_cookie_reply(world: World, a: Node, b: Node) -> bytes | None:
    return messages.CookieReply(pending_index(a, b) or 5, bytes(24), bytes(32)).encode()


def cookie_reply_to_a_session(world: World, a: Node, b: Node) -> bytes | None:
    indices = session_indices(a)
    return messages.CookieReply(indices[0], bytes(24), bytes(32)).encode() if indices else None


def cookie_reply_that_fits(world: World, a: Node, b: Node) -> bytes | None:
    sent = last(world, "a: initiation")
    if sent is None or pending_index(a, b) is None:
        return None
    return b.device._admission.checker.create_reply(sent, a.source, world.now)


def data(world: World, a: Node, b: Node) -> bytes | None:
    muted, b.muted = b.muted, True
    sealed = b.send(a, 50)
    b.muted = muted
    return last(world, "b: data") if sealed else None


def replayed_data(world: World, a: Node, b: Node) -> bytes | None:
    return last(world, "b: data")


def forged_data(world: World, a: Node, b: Node) -> bytes | None:
    sealed = last(world, "b: data")
    return sealed and sealed[:8] + (2**40).to_bytes(8, "little") + sealed[16:]


def data_for_nobody(world: World, a: Node, b: Node) -> bytes | None:
    return bytes([4, 0, 0, 0, 9, 9, 9, 9]) + bytes(56)


MESSAGES: list[Message] = [
    fresh_initiation,
    replayed_initiation,
    old_initiation,
    initiation_of_a_stranger,
    initiation_to_another,
    garbage_initiation,
    initiation_with_a_weak_ephemeral,
    response_that_fits,
    replayed_response,
    garbage_response,
    response_with_a_weak_ephemeral,
    response_to_a_session,
    garbage_cookie_reply,
    cookie_reply_to_a_session,
    cookie_reply_that_fits,
    data,
    replayed_data,
    forged_data,
    data_for_nobody,
]

NEVER_TAKEN = {
    initiation_of_a_stranger: {DropReason.UNKNOWN_PEER},
    initiation_to_another: {DropReason.INVALID_MAC1},
    garbage_initiation: {DropReason.INVALID_HANDSHAKE},
    initiation_with_a_weak_ephemeral: {DropReason.INVALID_HANDSHAKE},
    garbage_response: {DropReason.INVALID_HANDSHAKE, DropReason.UNKNOWN_RECEIVER_INDEX},
    response_with_a_weak_ephemeral: {DropReason.INVALID_HANDSHAKE, DropReason.UNKNOWN_RECEIVER_INDEX},
    response_to_a_session: {DropReason.UNKNOWN_RECEIVER_INDEX},
    garbage_cookie_reply: {DropReason.INVALID_COOKIE, DropReason.UNKNOWN_RECEIVER_INDEX},
    cookie_reply_to_a_session: {DropReason.INVALID_COOKIE},
    forged_data: {DropReason.INVALID_TAG, DropReason.UNKNOWN_RECEIVER_INDEX},
    data_for_nobody: {DropReason.UNKNOWN_RECEIVER_INDEX},
}


def deliver(a: Node, datagram: bytes, now: float) -> set[DropReason]:
    """Give `datagram` to `a`'s device alone; return why it was dropped, if it was."""
    before = a.device.drops.copy()
    a.device.decapsulate(memoryview(datagram), len(datagram), STRANGER, a._out, now)
    while len(a.device._admission):
        a.device.handle_timeout(now)
    return set(a.device.drops - before)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_any_message_in_any_state(state: Callable[[], Scene], message: Message) -> None:
    world, a, b = state()
    a.device.handle_timeout(world.now)
    datagram = message(world, a, b)
    if datagram is None:
        return
    before = forging.fingerprint(a.device)
    reasons = deliver(a, datagram, world.now)
    assert bool(reasons) == (forging.fingerprint(a.device) == before)
    if message in NEVER_TAKEN:
        assert reasons <= NEVER_TAKEN[message]
        assert reasons
    # Whatever happened, it does not happen twice.
    before = forging.fingerprint(a.device)
    assert deliver(a, datagram, world.now)
    assert forging.fingerprint(a.device) == before


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_an_initiation_is_taken_in_every_state_that_knows_the_peer(state: Callable[[], Scene]) -> None:
    world, a, b = state()
    a.muted = b.muted = True
    world.run(0.02)  # nobody is asked to answer more than fifty a second
    reasons = deliver(a, forging.initiation(b.private, a.device.public_key), world.now)
    assert reasons == ({DropReason.UNKNOWN_PEER} if state is peer_removed else set())


@pytest.mark.parametrize("state", [initiation_in_flight, renewing])
def test_a_response_is_taken_by_a_pending_initiation_only(state: Callable[[], Scene]) -> None:
    world, a, b = state()
    datagram = response_that_fits(world, a, b)
    assert datagram
    # Forgeries before it do not end the handshake.
    for forged in (garbage_response, response_with_a_weak_ephemeral, garbage_cookie_reply):
        assert deliver(a, forged(world, a, b) or b"", world.now)
    assert deliver(a, datagram, world.now) == set()


@pytest.mark.parametrize("length", [0, 1, 3, 4, 31, 63, 65, 91, 93, 147, 149, 1500])
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_lengths(kind: int, length: int) -> None:
    world, a, _ = connected()
    datagram = kind.to_bytes(4, "little").ljust(length, b"\0")[:length]
    before = forging.fingerprint(a.device)
    received = a.device.decapsulate(memoryview(datagram), length, STRANGER, a._out, world.now)
    assert forging.fingerprint(a.device) == before
    if length >= 4:
        assert a.device.drops == {DropReason.INVALID_LENGTH: 1}
    else:
        assert received.other == ([(0, length)] if length else [])


class TestTampering:
    """Every byte of both messages, with the macs left alone, and with mac1 made right again."""

    UNAUTHENTICATED = range(4, 8)  # the sender index: covered by mac1 only, as in every implementation

    def scene(self, kind: int) -> tuple[World, Node, bytes]:
        world, a, b = pair()
        a.muted = b.muted = True
        a.send(b, 1)
        (sent,) = world.wire.datagrams("a: initiation")
        if kind == messages.INITIATION:
            return world, b, sent
        b.receive(sent, a.source)
        return world, a, world.wire.datagrams("b: response")[0]

    @pytest.mark.parametrize("kind", [messages.INITIATION, messages.RESPONSE])
    @pytest.mark.parametrize("mac1_right", [False, True])
    def test_every_byte(self, kind: int, mac1_right: bool) -> None:
        world, receiver, datagram = self.scene(kind)
        before = forging.fingerprint(receiver.device)
        for position in range(len(datagram) - messages.MAC_SIZE):
            if mac1_right and position in self.UNAUTHENTICATED:
                continue
            flipped = bytearray(datagram)
            flipped[position] ^= 1 << position % 8
            message = bytes(flipped)
            if mac1_right and position < len(datagram) - messages.MACS_SIZE:
                message = forging.with_mac1(message, receiver.public)
            if position >= 4:
                assert deliver(receiver, message, world.now), position
            else:  # another type: not ours, or too short for it
                deliver(receiver, message, world.now)
            assert forging.fingerprint(receiver.device) == before, position
        assert deliver(receiver, datagram, world.now) == set()

    @pytest.mark.parametrize("kind", [messages.INITIATION, messages.RESPONSE])
    def test_mac2_is_ignored_while_not_under_load(self, kind: int) -> None:
        world, receiver, datagram = self.scene(kind)
        assert deliver(receiver, datagram[:-1] + b"\1", world.now) == set()

    def test_no_bytes_repeat_across_handshakes(self) -> None:
        """But for the type, and mac2 where there is none."""
        world, a, b = pair()
        b.muted = True
        a.send(b, 1)
        world.run(11.0)
        first, second, *_ = world.wire.datagrams("a: initiation")
        windows = {first[start : start + 8] for start in range(4, 124)}
        assert not windows & {second[start : start + 8] for start in range(4, 124)}
