"""The envelope of a disco message (reference §2.1).

     0   6  magic, 54 53 F0 9F 92 AC
     6  32  disco key of the sender
    38  24  nonce
    62  16  tag
    78   n  ciphertext of the message

The receiver's key is not named. A sender is looked up before anything is decrypted: strangers cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from meshproto.box import NONCE_SIZE, OVERHEAD, Box
from meshproto.keys import KEY_SIZE, DiscoPrivate, DiscoPublic
from meshproto.primitives import DecryptionFailed, WeakPublicKey

__all__ = [
    "ENVELOPE_SIZE",
    "HEADER_SIZE",
    "MAGIC",
    "DecryptionFailed",
    "SharedKeys",
    "WeakPublicKey",
    "is_envelope",
    "sender_untrusted",
]

MAGIC: Final = bytes.fromhex("5453f09f92ac")
HEADER_SIZE: Final = len(MAGIC) + KEY_SIZE
"""What makes a datagram disco's: the magic and room for a key."""
ENVELOPE_SIZE: Final = HEADER_SIZE + OVERHEAD
"""Bytes around a message."""


def is_envelope(datagram: bytes | memoryview) -> bool:
    """Whether the datagram claims to be disco's. Cannot fail."""
    return len(datagram) >= HEADER_SIZE and datagram[: len(MAGIC)] == MAGIC


def sender_untrusted(datagram: bytes | memoryview) -> DiscoPublic:
    """The disco key that an envelope says it is from; only opening it proves that."""
    return DiscoPublic(bytes(datagram[len(MAGIC) : HEADER_SIZE]))


class SharedKeys:
    """Seals to and opens from peers; the key shared with each is computed at its first use and kept.

    Bounded by its owner, who forgets the keys that are no longer anybody's.
    """

    __slots__ = ("_boxes", "_entropy", "_private", "public")

    def __init__(self, private: DiscoPrivate, entropy: Callable[[int], bytes]) -> None:
        self.public: Final = private.public
        self._private = private
        self._entropy = entropy
        self._boxes: dict[DiscoPublic, Box] = {}

    def seal(self, receiver: DiscoPublic, message: bytes) -> bytes:
        """The datagram. Raises WeakPublicKey when nobody can be alone in reading it."""
        sealed = self._box(receiver).seal(message, self._entropy(NONCE_SIZE))
        return MAGIC + self.public.raw + sealed

    def open(self, sender: DiscoPublic, datagram: bytes) -> bytes:
        """The message in an envelope of `sender`, a key known beforehand.

        Raises DecryptionFailed when it is not authentic, WeakPublicKey when it could be anybody's.
        """
        return self._box(sender).open(datagram[HEADER_SIZE:])

    def forget(self, public: DiscoPublic) -> None:
        """Should be called when no peer has this key any more."""
        self._boxes.pop(public, None)

    def __len__(self) -> int:
        return len(self._boxes)

    def _box(self, public: DiscoPublic) -> Box:
        box = self._boxes.get(public)
        if box is None:
            box = self._boxes[public] = Box(self._private, public)
        return box
