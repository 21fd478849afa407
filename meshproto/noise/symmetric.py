"""The running state of a Noise handshake: chaining key, hash, and the key of the moment.

Noise protocol framework, revision 34, section 5.2, for `Noise_IK_25519_ChaChaPoly_BLAKE2s`. Every key that
`mix_key` makes seals exactly one message, so its nonce is always zero (reference §3.1).
"""

from __future__ import annotations

from meshproto.primitives import TAG_SIZE, ChaCha20Poly1305, InvalidTag, blake2s, hkdf

PROTOCOL_NAME = b"Noise_IK_25519_ChaChaPoly_BLAKE2s"
_NONCE = bytes(12)


class NoiseError(Exception):
    """The control connection cannot be trusted any further: a message does not fit, or came out of turn."""


class SymmetricState:
    """Names as in the Noise framework: `chaining_key` (ck), `hash` (h)."""

    def __init__(self) -> None:
        # The name is one byte longer than a hash, so it is hashed rather than padded.
        self.hash = blake2s(PROTOCOL_NAME)
        self.chaining_key = self.hash
        self._key: bytes | None = None

    def mix_hash(self, data: bytes) -> None:
        """Both ends must have seen `data`, or the next tag will not fit."""
        self.hash = blake2s(self.hash + data)

    def mix_key(self, shared_secret: bytes) -> None:
        """A new key for the next `encrypt_and_hash` or `decrypt_and_hash`."""
        self.chaining_key, self._key = hkdf(self.chaining_key, shared_secret, 2)

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """`plaintext` sealed and tagged, bound to all that was mixed in before."""
        sealed = ChaCha20Poly1305(self._take_key()).encrypt(_NONCE, plaintext, self.hash)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        """The inverse. Raises NoiseError when the tag does not fit; the state is then of no more use."""
        if len(sealed) < TAG_SIZE:
            raise NoiseError("sealed part of a handshake message is shorter than its tag")
        try:
            plaintext = ChaCha20Poly1305(self._take_key()).decrypt(_NONCE, sealed, self.hash)
        except InvalidTag as error:
            raise NoiseError("handshake message does not authenticate") from error
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """The transport keys: initiator to responder, responder to initiator."""
        first, second = hkdf(self.chaining_key, b"", 2)
        return first, second

    def _take_key(self) -> bytes:
        key, self._key = self._key, None
        if key is None:
            raise NoiseError("no key: a second message would repeat the nonce")
        return key
