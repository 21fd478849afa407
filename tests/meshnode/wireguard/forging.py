"""What an attacker can make, and what a test compares before and after it arrives."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from meshnode.wireguard import Device, cookie, messages, noise, tai64n
from meshnode.wireguard.peer import Peer
from meshnode.wireguard.timers import Timer
from meshproto.keys import NodePrivate, NodePublic
from meshproto.primitives import blake2s_mac

_RNG = random.Random(4)


def with_mac1(message: bytes, receiver: NodePublic) -> bytes:
    """`message` with a correct mac1, which needs only the receiver's public key."""
    body = message[: -messages.MACS_SIZE]
    return body + blake2s_mac(cookie.mac1_key(receiver), body) + messages.NO_MAC2


def initiation(
    private: NodePrivate,
    receiver: NodePublic,
    *,
    timestamp: bytes | None = None,
    index: int = 0x01020304,
    entropy: Callable[[int], bytes] = _RNG.randbytes,
) -> bytes:
    """An authentic initiation of whoever has `private`."""
    message, _ = noise.create_initiation(
        private,
        receiver.raw,
        noise.static_static(private, receiver.raw),
        timestamp or tai64n.encode(1_800_000_000, 0),
        index,
        entropy,
    )
    return with_mac1(message.encode(), receiver)


def garbage_initiation(receiver: NodePublic) -> bytes:
    """Passes mac1 and nothing else, at the price of one X25519 to the receiver."""
    body = messages.INITIATION.to_bytes(4, "little") + _RNG.randbytes(messages.INITIATION_SIZE - 4)
    return with_mac1(body, receiver)


def garbage_response(receiver: NodePublic, index: int) -> bytes:
    body = messages.HandshakeResponse(_RNG.getrandbits(32), index, _RNG.randbytes(32), _RNG.randbytes(16))
    return with_mac1(body.encode(), receiver)


def fingerprint(device: Device) -> Any:
    """All that a message could change, but for the counts of drops."""
    context = device._context
    return (
        len(context.sessions),
        sorted(context.indices._owners),
        list(context.datagrams),
        list(context.events),
        len(device._admission),
        [_peer(peer) for peer in device._peers.values()],
    )


def _peer(peer: Peer) -> Any:
    handshake = peer.handshake
    pending = handshake.pending
    timers = peer.timers
    return (
        peer.stats(),
        pending
        and (
            pending.local_index,
            bytes(pending.chaining_key),
            bytes(pending.hash),
            bytes(pending.ephemeral_private),
        ),
        (handshake._greatest_timestamp, handshake._accepted_at, handshake.last_sent, handshake._stamped),
        (handshake.cookies._cookie, handshake.cookies._last_mac1),
        [
            keypair and (keypair.session.local_index, keypair.session.send_counter, keypair.can_send)
            for keypair in (peer.slots.previous, peer.slots.current, peer.slots.next)
        ],
        [getattr(timers, timer.value) for timer in Timer],
        (timers.attempts, timers._need_another_keepalive, timers.sent_last_minute_handshake),
        peer._source,
    )
