"""mac1, mac2 and cookies: the defence against floods (whitepaper 5.4.4 and 5.4.7, reference §1.8).

mac1 proves that the sender knows our public key; every handshake message has it. A loaded receiver answers
with a cookie, bound to the sender's address and port; mac2, keyed with that cookie, proves the address in
the next attempt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from meshnode.dataplane import Gate, Verdict, cookie
from meshnode.wireguard import constants
from meshnode.wireguard.messages import MAC_SIZE, MACS_SIZE, NO_MAC2, CookieReply, sender_index_untrusted
from meshnode.wireguard.source import Source, address_bytes
from meshproto.keys import NodePublic
from meshproto.primitives import DecryptionFailed, blake2s, blake2s_mac, xaead_open, xaead_seal

_NONCE_SIZE: Final = 24
_SECRET_SIZE: Final = 32


def mac1_key(receiver: NodePublic) -> bytes:
    """The key of mac1 in messages *to* `receiver`."""
    return blake2s(constants.LABEL_MAC1 + receiver.raw)


def cookie_key(sender: NodePublic) -> bytes:
    """The key that seals cookies in replies *from* `sender`."""
    return blake2s(constants.LABEL_COOKIE + sender.raw)


class CookieChecker:
    """The receiving side: a gate for messages to us, and cookies that it takes, under a rotating secret."""

    __slots__ = ("_cookie_key", "_entropy", "_max_age", "_secret", "_secret_birth", "gate")

    def __init__(
        self,
        ours: NodePublic,
        entropy: Callable[[int], bytes],
        secret_max_age: float = constants.COOKIE_SECRET_MAX_AGE,
    ) -> None:
        self.gate = Gate(mac1_key(ours))
        """For who judges many at once; `refresh` first."""
        self._cookie_key = cookie_key(ours)
        self._entropy = entropy
        self._max_age = secret_max_age
        self._secret = b""
        self._secret_birth = 0.0

    def judge(self, message: bytes, source: Source, now: float) -> Verdict:
        """What becomes of an initiation or a response, of any length."""
        self.refresh(now)
        return self.gate.judge(message, address_bytes(source), source[1], now)

    def create_reply(self, message: bytes, source: Source, now: float) -> bytes:
        """The cookie reply to `message`: 64 bytes, fewer than what it answers."""
        self.refresh(now)
        nonce = self._entropy(_NONCE_SIZE)
        mac1 = message[-MACS_SIZE:-MAC_SIZE]
        given = cookie(self._secret, address_bytes(source), source[1])
        sealed = xaead_seal(self._cookie_key, nonce, given, mac1)
        return CookieReply(sender_index_untrusted(message), nonce, sealed).encode()

    def refresh(self, now: float) -> None:
        """Replace a secret that is too old."""
        if not self._secret or now - self._secret_birth >= self._max_age:
            self._secret = self._entropy(_SECRET_SIZE)
            self._secret_birth = now
            self.gate.set_secret(self._secret)


class CookieGenerator:
    """The sending side, one per peer: puts macs on what goes to it, and remembers its cookie."""

    __slots__ = ("_cookie", "_cookie_birth", "_cookie_key", "_last_mac1", "_lifetime", "_mac1_key")

    def __init__(self, theirs: NodePublic, lifetime: float = constants.COOKIE_LIFETIME) -> None:
        self._mac1_key = mac1_key(theirs)
        self._cookie_key = cookie_key(theirs)
        self._lifetime = lifetime
        self._cookie = b""
        self._cookie_birth = 0.0
        self._last_mac1 = b""

    def add_macs(self, message: bytes, now: float) -> bytes:
        """`message` with its last 32 bytes replaced by mac1, and mac2 if we have a fresh cookie."""
        body = message[:-MACS_SIZE]
        mac1 = blake2s_mac(self._mac1_key, body)
        self._last_mac1 = mac1
        return body + mac1 + self._mac2(body + mac1, now)

    def consume_reply(self, reply: CookieReply, now: float) -> bool:
        """Keep the cookie of an authentic reply to our last message; one reply is taken per message sent.

        The cookie is used by the next regular attempt: answering at once would let a reply trigger traffic.
        """
        if not self._last_mac1:
            return False
        try:
            cookie = xaead_open(self._cookie_key, reply.nonce, reply.sealed_cookie, self._last_mac1)
        except DecryptionFailed:
            return False
        self._cookie = cookie
        self._cookie_birth = now
        self._last_mac1 = b""
        return True

    def _mac2(self, message: bytes, now: float) -> bytes:
        if not self._cookie or now - self._cookie_birth >= self._lifetime:
            self._cookie = b""
            return NO_MAC2
        return blake2s_mac(self._cookie, message)
