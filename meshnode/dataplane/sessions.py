"""The keys of a completed handshake, and the table that finds them by receiver index."""

from __future__ import annotations

import struct
from typing import Final

from meshnode.dataplane.replay import COUNTER_LIMIT, ReplayWindow
from meshproto.primitives import ChaCha20Poly1305

__all__ = ["Session", "SessionSpent", "SessionTable"]

TRANSPORT_DATA: Final = 4
_HEADER_PREFIX: Final = struct.Struct("<II")  # type and three reserved zero bytes, receiver index


class SessionSpent(Exception):
    """The session was wiped or may number no more datagrams: the caller must not send with it."""


class Session:
    """One pair of transport keys (whitepaper 5.4.5). The send counter never repeats, also when sending fails.

    The age of a key is the caller's business: it wipes the session, or takes it out of the table, in time.
    """

    __slots__ = ("header_prefix", "local_index", "opener", "remote_index", "replay", "sealer", "send_counter")

    def __init__(self, send_key: bytes, receive_key: bytes, local_index: int, remote_index: int) -> None:
        self.local_index = local_index
        self.remote_index = remote_index
        self.send_counter = 0
        """The counter that the next sealed datagram gets."""
        self.sealer: ChaCha20Poly1305 | None = ChaCha20Poly1305(send_key)
        self.opener: ChaCha20Poly1305 | None = ChaCha20Poly1305(receive_key)
        self.replay = ReplayWindow()
        self.header_prefix = _HEADER_PREFIX.pack(TRANSPORT_DATA, remote_index)

    @property
    def is_spent(self) -> bool:
        """True when nothing more may be sealed."""
        return self.sealer is None or self.send_counter >= COUNTER_LIMIT

    def reserve(self, count: int) -> int:
        """Take `count` consecutive counters and return the first. Raises SessionSpent; then none is taken."""
        first = self.send_counter
        if self.sealer is None or first + count > COUNTER_LIMIT:
            raise SessionSpent
        self.send_counter = first + count
        return first

    def wipe(self) -> None:
        """Forget the keys. Sealing then raises SessionSpent, what arrives counts as EXPIRED_KEY."""
        self.sealer = None
        self.opener = None

    def __repr__(self) -> str:
        return f"<Session local_index={self.local_index:#010x} remote_index={self.remote_index:#010x}>"


class SessionTable:
    """Receiver index -> (session, peer), for every session that may still receive."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: dict[int, tuple[Session, int]] = {}

    def set(self, index: int, session: Session, peer: int) -> None:
        """Datagrams for `index` are opened with `session` and come from `peer`."""
        self.entries[index] = (session, peer)

    def delete(self, index: int) -> None:
        """Forget `index`. Nothing happens when it is unknown."""
        self.entries.pop(index, None)

    def get(self, index: int) -> tuple[Session, int] | None:
        """The session of `index` and the peer behind it."""
        return self.entries.get(index)

    def __len__(self) -> int:
        return len(self.entries)
