"""The NaCl box of disco and DERP: X25519, HSalsa20, XSalsa20-Poly1305 (reference §"Keys used below", §10).

A sealed message is `nonce 24 ‖ tag 16 ‖ ciphertext`. The key of a pair of nodes is computed once and kept:
it costs about as much as opening a hundred short messages.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import nacl.bindings
import nacl.exceptions

from meshproto.primitives import DecryptionFailed, WeakPublicKey

__all__ = ["KEY_SIZE", "NONCE_SIZE", "OVERHEAD", "box_open", "box_seal", "shared_key"]

KEY_SIZE: Final = 32
NONCE_SIZE: Final = 24
TAG_SIZE: Final = 16
OVERHEAD: Final = NONCE_SIZE + TAG_SIZE
"""Bytes that sealing adds."""


def shared_key(private: bytes, public: bytes) -> bytes:
    """What both ends of a pair compute from their private and the other's public key, 32 bytes.

    Raises WeakPublicKey when the public key has low order: everybody could compute the result.
    """
    try:
        return nacl.bindings.crypto_box_beforenm(public, private)
    except (nacl.exceptions.CryptoError, RuntimeError) as error:
        raise WeakPublicKey("low-order public key") from error


def box_seal(shared: bytes, plaintext: bytes, entropy: Callable[[int], bytes]) -> bytes:
    """`nonce ‖ tag ‖ ciphertext` under a fresh random nonce."""
    nonce = entropy(NONCE_SIZE)
    return nonce + nacl.bindings.crypto_box_afternm(plaintext, nonce, shared)


def box_open(shared: bytes, sealed: bytes) -> bytes:
    """The inverse of `box_seal`. Raises DecryptionFailed on anything that is not authentic."""
    if len(sealed) < OVERHEAD:
        raise DecryptionFailed("shorter than a box")
    try:
        return nacl.bindings.crypto_box_open_afternm(sealed[NONCE_SIZE:], sealed[:NONCE_SIZE], shared)
    except nacl.exceptions.CryptoError as error:
        raise DecryptionFailed("box tag") from error
