"""The keys of one peer: previous, current, next (reference §3.2).

Sending uses only `current`; all three may receive. A responder puts a new key into `next` and must not send
with it until a packet under it proves that the initiator has it too: the response may have been lost, or
the initiation may have been a replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from meshnode.dataplane import Session
from meshnode.wireguard.constants import Timings
from meshnode.wireguard.timers import NEVER


class Keypair:
    """A session, our role in the handshake it came from, and when it must no longer be used."""

    __slots__ = ("can_send", "expires_at", "is_initiator", "rekey_at", "rekey_on_receive_at", "session")

    def __init__(self, session: Session, *, is_initiator: bool, birth: float, timings: Timings) -> None:
        self.session = session
        self.is_initiator = is_initiator
        self.can_send = True
        """False after our private key changed: the key still receives."""
        self.expires_at = birth + timings.reject_after_time
        # Only the initiator asks for a new key because of age: both would collide every time (§6.2).
        self.rekey_at = birth + timings.rekey_after_time if is_initiator else NEVER
        self.rekey_on_receive_at = birth + timings.rekey_on_receive_after if is_initiator else NEVER

    def __repr__(self) -> str:
        role = "initiator" if self.is_initiator else "responder"
        return f"<Keypair {role} {self.session!r}>"


class KeySlots:
    """Which key is in which slot. A key that leaves goes to `discard`, which wipes it and frees its index."""

    __slots__ = ("_discard", "current", "next", "previous")

    def __init__(self, discard: Callable[[Keypair], None]) -> None:
        self._discard = discard
        self.previous: Keypair | None = None
        self.current: Keypair | None = None
        self.next: Keypair | None = None

    def __iter__(self) -> Iterator[Keypair]:
        return (keypair for keypair in (self.previous, self.current, self.next) if keypair is not None)

    def derived_as_initiator(self, keypair: Keypair) -> None:
        """The response proved that the peer has this key: use it at once."""
        if self.next is not None:
            # The peer's own handshake crossed ours. Whichever key it settles on, we can open.
            retired = [self.previous, self.current]
            self.previous, self.next = self.next, None
        else:
            retired = [self.previous]
            self.previous = self.current
        self.current = keypair
        self._discard_all(retired)

    def derived_as_responder(self, keypair: Keypair) -> None:
        """Wait for proof in `next`; go on sending with `current`."""
        retired = [self.previous, self.next]
        self.previous, self.next = None, keypair
        self._discard_all(retired)

    def confirm_next(self) -> None:
        """A packet arrived under `next`."""
        retired = [self.previous]
        self.previous, self.current, self.next = self.current, self.next, None
        self._discard_all(retired)

    def expire(self, now: float) -> bool:
        """Discard the keys that are too old. True when nothing is left to send with, and there was."""
        had_current = self.current is not None
        expired = [keypair for keypair in self if keypair.expires_at <= now]
        self.previous = None if self.previous in expired else self.previous
        self.current = None if self.current in expired else self.current
        self.next = None if self.next in expired else self.next
        self._discard_all(expired)
        return had_current and self.current is None

    def stop_sending(self) -> None:
        """Our private key changed: what we have still receives until it is too old."""
        for keypair in self:
            keypair.can_send = False

    def clear(self) -> None:
        """Discard all."""
        everything = list(self)
        self.previous = self.current = self.next = None
        self._discard_all(everything)

    def first_expiry(self) -> float:
        """When the oldest key becomes too old, or NEVER."""
        return min((keypair.expires_at for keypair in self), default=NEVER)

    def _discard_all(self, keypairs: Iterable[Keypair | None]) -> None:
        for keypair in keypairs:
            if keypair is not None:
                self._discard(keypair)
