"""Noise_IKpsk2, the handshake (whitepaper 5.4.2, 5.4.3, 5.4.5; reference §1.4 to 1.6).

    <- s
    ...
    -> e, es, s, ss, {timestamp}
    <- e, ee, se, psk, {}

Functions on values. A `consume_*` function computes into locals and returns what is to be stored, so a
message that fails leaves nothing behind. What lives between two messages is kept in bytearrays and can be
wiped; the copies that the cryptographic libraries make while they compute cannot.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from meshnode.wireguard import constants, tai64n
from meshnode.wireguard.messages import HandshakeInitiation, HandshakeResponse
from meshproto.keys import NodePrivate
from meshproto.primitives import (
    ChaCha20Poly1305,
    InvalidTag,
    WeakPublicKey,
    blake2s,
    clamp,
    hkdf,
    x25519,
    x25519_base,
)

_NONCE: Final = bytes(12)  # every handshake key seals once
_INITIAL_CHAINING_KEY: Final = blake2s(constants.CONSTRUCTION)
_INITIAL_HASH: Final = blake2s(_INITIAL_CHAINING_KEY + constants.IDENTIFIER)
NO_PRESHARED_KEY: Final = bytes(32)


class InvalidHandshake(Exception):
    """The message is not authentic: a tag does not fit, or a key in it is weak."""


class TransportKeys(NamedTuple):
    """The outcome. Each side's `send` is the other's `receive`."""

    send: bytes
    receive: bytes


@dataclass(slots=True)
class InitiatorHandshake:
    """What the initiator keeps between the initiation and the response."""

    local_index: int
    ephemeral_private: bytearray
    chaining_key: bytearray
    hash: bytearray

    def wipe(self) -> None:
        """Overwrite the secrets."""
        for secret in (self.ephemeral_private, self.chaining_key, self.hash):
            secret[:] = bytes(len(secret))


class OpenedInitiation(NamedTuple):
    """An initiation up to its static key: who says to be calling, not yet proved."""

    message: HandshakeInitiation
    remote_static: bytes
    chaining_key: bytes
    hash: bytes


class AcceptedInitiation(NamedTuple):
    """An authentic initiation. It may still be a replay: compare `timestamp`."""

    remote_static: bytes
    remote_index: int
    remote_ephemeral: bytes
    timestamp: bytes
    chaining_key: bytes
    hash: bytes


def static_static(private: NodePrivate, remote_static: bytes) -> bytes:
    """DH of both static keys, to be kept per peer. Raises WeakPublicKey."""
    return x25519(private.raw, remote_static)


def create_initiation(
    private: NodePrivate,
    remote_static: bytes,
    shared_static: bytes,
    timestamp: bytes,
    local_index: int,
    entropy: Callable[[int], bytes],
) -> tuple[HandshakeInitiation, InitiatorHandshake]:
    """The first message, its macs still to be filled in. Raises WeakPublicKey for a bad `remote_static`."""
    ephemeral_private = clamp(entropy(32))
    ephemeral = x25519_base(ephemeral_private)
    chaining_key, hash_ = _after_ephemeral(remote_static, ephemeral)
    # es, s
    chaining_key, key = hkdf(chaining_key, x25519(ephemeral_private, remote_static), 2)
    sealed_static = _seal(key, private.public.raw, hash_)
    hash_ = blake2s(hash_ + sealed_static)
    # ss, {timestamp}
    chaining_key, key = hkdf(chaining_key, shared_static, 2)
    sealed_timestamp = _seal(key, timestamp, hash_)
    hash_ = blake2s(hash_ + sealed_timestamp)
    handshake = InitiatorHandshake(
        local_index, bytearray(ephemeral_private), bytearray(chaining_key), bytearray(hash_)
    )
    return HandshakeInitiation(local_index, ephemeral, sealed_static, sealed_timestamp), handshake


def open_initiation(private: NodePrivate, message: HandshakeInitiation) -> OpenedInitiation:
    """The first half of consuming an initiation: find out whose it claims to be. Raises InvalidHandshake."""
    chaining_key, hash_ = _after_ephemeral(private.public.raw, message.ephemeral)
    # es, s
    chaining_key, key = hkdf(chaining_key, _dh(private.raw, message.ephemeral), 2)
    remote_static = _open(key, message.sealed_static, hash_)
    return OpenedInitiation(message, remote_static, chaining_key, blake2s(hash_ + message.sealed_static))


def consume_initiation(opened: OpenedInitiation, shared_static: bytes) -> AcceptedInitiation:
    """The second half, with the secret shared with that peer. Raises InvalidHandshake."""
    message = opened.message
    # ss, {timestamp}
    chaining_key, key = hkdf(opened.chaining_key, shared_static, 2)
    timestamp = _open(key, message.sealed_timestamp, opened.hash)
    assert len(timestamp) == tai64n.SIZE
    return AcceptedInitiation(
        remote_static=opened.remote_static,
        remote_index=message.sender_index,
        remote_ephemeral=message.ephemeral,
        timestamp=timestamp,
        chaining_key=chaining_key,
        hash=blake2s(opened.hash + message.sealed_timestamp),
    )


def create_response(
    initiation: AcceptedInitiation,
    preshared_key: bytes | None,
    local_index: int,
    entropy: Callable[[int], bytes],
) -> tuple[HandshakeResponse, TransportKeys]:
    """The second message, its macs still to be filled in, and our keys. Raises InvalidHandshake."""
    ephemeral_private = clamp(entropy(32))
    ephemeral = x25519_base(ephemeral_private)
    key, hash_, transport = _second_message(
        initiation.chaining_key,
        initiation.hash,
        ephemeral,
        ee=_dh(ephemeral_private, initiation.remote_ephemeral),
        se=_dh(ephemeral_private, initiation.remote_static),
        preshared_key=preshared_key,
    )
    sealed_nothing = _seal(key, b"", hash_)
    initiator_to_responder, responder_to_initiator = transport
    message = HandshakeResponse(local_index, initiation.remote_index, ephemeral, sealed_nothing)
    return message, TransportKeys(send=responder_to_initiator, receive=initiator_to_responder)


def consume_response(
    private: NodePrivate,
    handshake: InitiatorHandshake,
    preshared_key: bytes | None,
    message: HandshakeResponse,
) -> TransportKeys:
    """The initiator's keys; `handshake` is only read. Raises InvalidHandshake, if only the psk differs."""
    key, hash_, transport = _second_message(
        bytes(handshake.chaining_key),
        bytes(handshake.hash),
        message.ephemeral,
        ee=_dh(bytes(handshake.ephemeral_private), message.ephemeral),
        se=_dh(private.raw, message.ephemeral),
        preshared_key=preshared_key,
    )
    _open(key, message.sealed_nothing, hash_)
    initiator_to_responder, responder_to_initiator = transport
    return TransportKeys(send=initiator_to_responder, receive=responder_to_initiator)


def _after_ephemeral(responder_static: bytes, ephemeral: bytes) -> tuple[bytes, bytes]:
    """(chaining key, hash) after `<- s` and `-> e`. The ephemeral enters both, as in every psk pattern."""
    (chaining_key,) = hkdf(_INITIAL_CHAINING_KEY, ephemeral, 1)
    return chaining_key, blake2s(blake2s(_INITIAL_HASH + responder_static) + ephemeral)


def _second_message(
    chaining_key: bytes, hash_: bytes, ephemeral: bytes, *, ee: bytes, se: bytes, preshared_key: bytes | None
) -> tuple[bytes, bytes, tuple[bytes, bytes]]:
    """`<- e, ee, se, psk`: key and associated data of the sealed nothing, and the two transport keys."""
    (chaining_key,) = hkdf(chaining_key, ephemeral, 1)
    hash_ = blake2s(hash_ + ephemeral)
    (chaining_key,) = hkdf(chaining_key, ee, 1)
    (chaining_key,) = hkdf(chaining_key, se, 1)
    chaining_key, tau, key = hkdf(chaining_key, preshared_key or NO_PRESHARED_KEY, 3)
    hash_ = blake2s(hash_ + tau)
    initiator_to_responder, responder_to_initiator = hkdf(chaining_key, b"", 2)
    return key, hash_, (initiator_to_responder, responder_to_initiator)


def _dh(private: bytes, public: bytes) -> bytes:
    try:
        return x25519(private, public)
    except WeakPublicKey as error:
        raise InvalidHandshake("weak key") from error


def _seal(key: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(_NONCE, plaintext, associated_data)


def _open(key: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, sealed, associated_data)
    except InvalidTag as error:
        raise InvalidHandshake("tag") from error
