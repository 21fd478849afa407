"""Which handshake messages are worth working on (whitepaper 5.3, 5.4.4 and 5.4.7, reference §1.8, §1.9).

Cheapest check first: the size, then mac1, which proves that the sender knows our public key. While too many
wait, strangers are judged by their address. One who proves it with a cookie may go on at a bounded rate. One
who does not has one try in a while, so that a flood from elsewhere does not make newcomers wait for the next
attempt, and is then asked for the proof.

This is the definition; the compiled kernel has the same (`native/src/gate.rs`).
"""

from __future__ import annotations

import enum
import hmac
import struct
from typing import Final

from meshnode.dataplane.drops import DropReason
from meshnode.dataplane.ratelimit import RateLimiter
from meshproto.primitives import blake2s_mac

__all__ = ["REFUSALS", "Gate", "Verdict", "cookie", "is_handshake"]

MAC_SIZE: Final = 16
NO_MAC2: Final = bytes(MAC_SIZE)

LINGER: Final = 1.0
"""Seconds for which strangers must still prove their address after there last was no room."""

PROVEN_RATE: Final = (20.0, 5.0, 1.0)
"""What a source with a cookie may: messages per second, burst, and seconds until it is forgotten."""

FIRST_TRY_RATE: Final = (0.2, 1.0, 5.0)
"""The same for a source without one: one message per retransmission interval of an honest initiator."""

REPLY_RATE: Final = (2.0, 5.0, 3.0)
"""Cookie replies to one source: several peers may be behind it, and each needs one in five seconds."""

_SIZES: Final = {1: 148, 2: 92}
_TYPES: Final = (b"\x01\0\0\0", b"\x02\0\0\0")
_PORT: Final = struct.Struct(">H")


class Verdict(enum.Enum):
    """What becomes of a message."""

    ADMIT = 0
    """To be worked on."""
    REPLY = 1
    """To be answered with a cookie, and dropped as UNDER_LOAD."""
    INVALID_LENGTH = 2
    INVALID_MAC1 = 3
    UNDER_LOAD = 4
    """Not answered either."""
    RATE_LIMITED = 5


REFUSALS: Final = {
    Verdict.INVALID_LENGTH: DropReason.INVALID_LENGTH,
    Verdict.INVALID_MAC1: DropReason.INVALID_MAC1,
    Verdict.UNDER_LOAD: DropReason.UNDER_LOAD,
    Verdict.RATE_LIMITED: DropReason.RATE_LIMITED,
}
"""What is counted for the verdicts that end a message's way."""


def is_handshake(datagram: bytes | memoryview) -> bool:
    """Whether it begins as an initiation or a response: nothing else is the gate's business."""
    return bytes(datagram[:4]) in _TYPES


def cookie(secret: bytes, address: bytes, port: int) -> bytes:
    """What proves that a message came from there. With the port: else all behind one NAT would share one."""
    return blake2s_mac(secret, address + _PORT.pack(port))


class Gate:
    """The judge, under one key and a secret that its owner changes. Times are monotonic seconds."""

    __slots__ = ("_first_tries", "_loaded_until", "_mac1_key", "_proven", "_replies", "_room", "_secret")

    def __init__(self, mac1_key: bytes) -> None:
        """`mac1_key` is that of messages to us, 32 bytes."""
        self._mac1_key = mac1_key
        self._secret = bytes(32)
        self._room = 0
        self._loaded_until = float("-inf")
        self._proven = RateLimiter(*PROVEN_RATE)
        self._first_tries = RateLimiter(*FIRST_TRY_RATE)
        self._replies = RateLimiter(*REPLY_RATE)

    def set_secret(self, secret: bytes) -> None:
        """What cookies are made with from now on, 32 bytes."""
        self._secret = secret

    def set_room(self, room: int) -> None:
        """How many more messages may wait before strangers have to prove their address."""
        self._room = room

    def is_loaded(self, now: float) -> bool:
        """Whether strangers have to prove their address."""
        return now < self._loaded_until

    def judge(self, message: bytes, address: bytes, port: int, now: float) -> Verdict:
        """Judge a message that `is_handshake`, of `address`: 4 or 16 bytes, or what names a relayed one."""
        size = _SIZES[message[0]]
        if len(message) != size:
            return Verdict.INVALID_LENGTH
        body, mac1, mac2 = message[: size - 32], message[size - 32 : size - 16], message[size - 16 :]
        if not hmac.compare_digest(blake2s_mac(self._mac1_key, body), mac1):
            return Verdict.INVALID_MAC1
        if self._room <= 0:
            self._loaded_until = now + LINGER
        if not self.is_loaded(now):
            self._room -= 1
            return Verdict.ADMIT
        if mac2 != NO_MAC2 and self._has_cookie(message[: size - 16], mac2, address, port):
            return Verdict.ADMIT if self._proven.allow(address, now) else Verdict.RATE_LIMITED
        if self._first_tries.allow(address, now):
            return Verdict.ADMIT
        return Verdict.REPLY if self._replies.allow(address, now) else Verdict.UNDER_LOAD

    def _has_cookie(self, message: bytes, mac2: bytes, address: bytes, port: int) -> bool:
        expected = blake2s_mac(cookie(self._secret, address, port), message)
        return hmac.compare_digest(expected, mac2)
