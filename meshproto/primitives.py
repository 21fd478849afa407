"""Thin names over the cryptographic libraries: the one module that knows where a primitive comes from.

X25519, ChaCha20-Poly1305, XChaCha20-Poly1305, BLAKE2s (plain, keyed, as HMAC) and the Noise HKDF
(wireguard-dataplane reference §1.1); NaCl's box for DERP and disco (nat-traversal reference §1.4, §2.1).
"""

from __future__ import annotations

import hashlib
import hmac

import nacl.bindings
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

__all__ = [
    "ChaCha20Poly1305",
    "DecryptionFailed",
    "InvalidTag",
    "WeakPublicKey",
    "blake2s",
    "blake2s_hmac",
    "blake2s_mac",
    "box_open",
    "box_seal",
    "box_shared_key",
    "clamp",
    "hkdf",
    "x25519",
    "x25519_base",
    "xaead_open",
    "xaead_seal",
]

TAG_SIZE = 16
BOX_NONCE_SIZE = 24
HASH_SIZE = 32


class DecryptionFailed(Exception):
    """The authentication tag does not fit."""


class WeakPublicKey(ValueError):
    """The peer's point has low order: the shared secret would be all zero."""


def clamp(raw: bytes) -> bytes:
    """Curve25519 clamping (RFC 7748 §5): the stored form of every private key."""
    return bytes([raw[0] & 248]) + raw[1:31] + bytes([(raw[31] & 127) | 64])


def x25519_base(private: bytes) -> bytes:
    """The public key of `private`, 32 bytes."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def x25519(private: bytes, public: bytes) -> bytes:
    """DH(private, public), 32 bytes. Raises WeakPublicKey on an all-zero result (RFC 7748 §6.1)."""
    try:
        return X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError as error:
        raise WeakPublicKey("low-order public key") from error


def blake2s(data: bytes) -> bytes:
    """HASH: BLAKE2s-256, unkeyed."""
    return hashlib.blake2s(data).digest()


def blake2s_mac(key: bytes, data: bytes | memoryview) -> bytes:
    """MAC: keyed BLAKE2s with a 16-byte digest (whitepaper 5.4)."""
    return hashlib.blake2s(data, key=key, digest_size=16).digest()


def blake2s_hmac(key: bytes, data: bytes) -> bytes:
    """HMAC over unkeyed BLAKE2s-256, block size 64."""
    return hmac.new(key, data, hashlib.blake2s).digest()


def hkdf(chaining_key: bytes, material: bytes, count: int) -> tuple[bytes, ...]:
    """KDF1..KDF3: HKDF (RFC 5869) with salt = chaining key and empty info; `count` outputs of 32 bytes."""
    prk = blake2s_hmac(chaining_key, material)
    outputs: list[bytes] = []
    previous = b""
    for number in range(1, count + 1):
        previous = blake2s_hmac(prk, previous + bytes([number]))
        outputs.append(previous)
    return tuple(outputs)


def xaead_seal(key: bytes, nonce: bytes, plaintext: bytes, associated_data: bytes) -> bytes:
    """XChaCha20-Poly1305 with a 24-byte nonce: cookies only."""
    return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, associated_data, nonce, key)


def xaead_open(key: bytes, nonce: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    """The inverse of `xaead_seal`. Raises DecryptionFailed."""
    try:
        return nacl.bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, associated_data, nonce, key)
    except Exception as error:
        raise DecryptionFailed("cookie tag") from error


def box_shared_key(private: bytes, public: bytes) -> bytes:
    """crypto_box_beforenm: HSalsa20 of DH(private, public), 32 bytes. Raises WeakPublicKey."""
    try:
        return nacl.bindings.crypto_box_beforenm(public, private)
    except Exception as error:
        raise WeakPublicKey("low-order public key") from error


def box_seal(shared_key: bytes, nonce: bytes, plaintext: bytes) -> bytes:
    """crypto_box_afternm: the tag, then the ciphertext (XSalsa20-Poly1305)."""
    return nacl.bindings.crypto_box_afternm(plaintext, nonce, shared_key)


def box_open(shared_key: bytes, nonce: bytes, sealed: bytes) -> bytes:
    """The inverse of `box_seal`. Raises DecryptionFailed."""
    try:
        return nacl.bindings.crypto_box_open_afternm(sealed, nonce, shared_key)
    except Exception as error:
        raise DecryptionFailed("box tag") from error
