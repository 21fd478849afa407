"""The handshake of one peer (reference §3.3): one initiation of ours in flight, theirs answered at once.

| state | initiation arrives | response arrives | cookie reply arrives |
| --- | --- | --- | --- |
| ZEROED | answered, keys derived | rejected | taken if it answers our last message |
| INITIATION_CREATED | answered, keys derived; ours stays in flight | keys derived, ZEROED | likewise |

"Answered" needs a newer timestamp than all before and 20 ms since the last one. That our own initiation
survives one from the peer is our choice (the kernel forgets it): two peers that call each other at the same
moment, as peers behind NATs do, then need no second attempt. Keys are derived while answering, so the
paper's further states do not appear.

A rejected message changes nothing here. Rejections are drop reasons, not exceptions.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

from meshnode.dataplane import DropReason
from meshnode.wireguard import noise
from meshnode.wireguard.constants import Timings
from meshnode.wireguard.cookie import CookieGenerator
from meshnode.wireguard.messages import CookieReply, HandshakeResponse
from meshnode.wireguard.tai64n import TimestampSource
from meshproto.keys import NodePrivate, NodePublic
from meshproto.primitives import WeakPublicKey

LONG_AGO: Final = float("-inf")


class HandshakeState(enum.Enum):
    ZEROED = "zeroed"
    INITIATION_CREATED = "initiation_created"


class PeerHandshake:
    """Creates and consumes the handshake messages of one peer. Knows no timers, slots or sockets."""

    __slots__ = (
        "_accepted_at",
        "_entropy",
        "_greatest_timestamp",
        "_private",
        "_remote",
        "_shared_static",
        "_stamped",
        "_timings",
        "cookies",
        "last_sent",
        "pending",
        "preshared_key",
    )

    def __init__(
        self,
        private: NodePrivate,
        remote: NodePublic,
        preshared_key: bytes | None,
        timings: Timings,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._private = private
        self._remote = remote
        self._timings = timings
        self._entropy = entropy
        self._shared_static = b""
        self._stamped = b""
        # Kept as long as the peer is configured, also when our private key changes. Not across a restart:
        # then an old initiation is answered once more, with a key that nobody can use. All do it so.
        self._greatest_timestamp = b""
        self._accepted_at = LONG_AGO
        self.preshared_key = preshared_key
        """Read when a message is made or consumed: a change concerns the next one only."""
        self.cookies = CookieGenerator(remote, timings.cookie_lifetime)
        self.pending: noise.InitiatorHandshake | None = None
        self.last_sent = LONG_AGO
        """When an initiation or a response last left."""

    @property
    def state(self) -> HandshakeState:
        return HandshakeState.INITIATION_CREATED if self.pending else HandshakeState.ZEROED

    def set_private_key(self, private: NodePrivate) -> None:
        """Use another identity from the next message on. The caller has cleared `pending`."""
        self._private = private
        self._shared_static = b""
        self.last_sent = LONG_AGO  # the wait between handshake messages is one of the old identity

    def create_initiation(self, local_index: int, timestamps: TimestampSource, now: float) -> bytes:
        """A wholly new initiation, which replaces the one in flight. Raises WeakPublicKey."""
        timestamp = timestamps.stamp(after=self._stamped)
        message, pending = noise.create_initiation(
            self._private, self._remote.raw, self._shared(), timestamp, local_index, self._entropy
        )
        self.clear()
        self.pending = pending
        self._stamped = timestamp
        self.last_sent = now
        return self.cookies.add_macs(message.encode(), now)

    def consume_initiation(
        self, opened: noise.OpenedInitiation, now: float
    ) -> noise.AcceptedInitiation | DropReason:
        """Authenticate an initiation that claims to be this peer's, and refuse replays and floods."""
        try:
            accepted = noise.consume_initiation(opened, self._shared())
        except (noise.InvalidHandshake, WeakPublicKey):
            return DropReason.INVALID_HANDSHAKE
        if accepted.timestamp <= self._greatest_timestamp:
            return DropReason.REPLAYED_TIMESTAMP
        if now - self._accepted_at < self._timings.initiation_interval:
            return DropReason.RATE_LIMITED
        self._greatest_timestamp = accepted.timestamp
        self._accepted_at = now
        return accepted

    def create_response(
        self, accepted: noise.AcceptedInitiation, local_index: int, now: float
    ) -> tuple[bytes, noise.TransportKeys]:
        """The answer, and our keys. Not to be sent with until the initiator proves that it has them."""
        message, keys = noise.create_response(accepted, self.preshared_key, local_index, self._entropy)
        self.last_sent = now
        return self.cookies.add_macs(message.encode(), now), keys

    def consume_response(self, message: HandshakeResponse) -> noise.TransportKeys | DropReason:
        """Authenticate the answer to our initiation. The one in flight is over after success only."""
        pending = self.pending
        if pending is None or pending.local_index != message.receiver_index:
            return DropReason.UNKNOWN_RECEIVER_INDEX
        try:
            keys = noise.consume_response(self._private, pending, self.preshared_key, message)
        except noise.InvalidHandshake:
            return DropReason.INVALID_HANDSHAKE
        self.clear()
        return keys

    def consume_cookie_reply(self, message: CookieReply, now: float) -> DropReason | None:
        """Keep the cookie for the next attempt."""
        return None if self.cookies.consume_reply(message, now) else DropReason.INVALID_COOKIE

    def clear(self) -> None:
        """Forget the initiation in flight, wiping its secrets. Its index is the caller's to free."""
        if self.pending is not None:
            self.pending.wipe()
            self.pending = None

    def _shared(self) -> bytes:
        if not self._shared_static:
            self._shared_static = noise.static_static(self._private, self._remote.raw)
        return self._shared_static
