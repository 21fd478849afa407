"""NaCl's crypto_box between two keys, as DERP's login and disco write it: nonce 24 ‖ tag 16 ‖ ciphertext.

X25519, HSalsa20, XSalsa20-Poly1305. Either side's private key with the other's public key gives the same
shared key, which is worth keeping: making it costs as much as sealing hundreds of messages.
"""

from __future__ import annotations

from meshproto.keys import PrivateKey, PublicKey
from meshproto.primitives import (
    BOX_NONCE_SIZE,
    TAG_SIZE,
    DecryptionFailed,
    box_open,
    box_seal,
    box_shared_key,
)

NONCE_SIZE = BOX_NONCE_SIZE
OVERHEAD = NONCE_SIZE + TAG_SIZE
"""Bytes by which a sealed message is longer."""


class Box:
    """The shared key of two parties. Neither direction nor order is protected, only the content."""

    __slots__ = ("_shared_key",)

    def __init__(self, private: PrivateKey, public: PublicKey) -> None:
        """Raises WeakPublicKey when `public` is no key that anyone can have made in earnest."""
        self._shared_key = box_shared_key(private.raw, public.raw)

    def seal(self, plaintext: bytes, nonce: bytes) -> bytes:
        """`nonce` must be random: NONCE_SIZE bytes of entropy, never used before with this pair of keys."""
        if len(nonce) != NONCE_SIZE:
            raise ValueError(f"a nonce has {NONCE_SIZE} bytes, got {len(nonce)}")
        return nonce + box_seal(self._shared_key, nonce, plaintext)

    def open(self, sealed: bytes) -> bytes:
        """What the other side sealed. Raises DecryptionFailed and nothing else."""
        if len(sealed) < OVERHEAD:
            raise DecryptionFailed("box is too short")
        return box_open(self._shared_key, sealed[:NONCE_SIZE], sealed[NONCE_SIZE:])

    def __repr__(self) -> str:
        return "<Box redacted>"
