"""The replay window of one receiving key: each counter is accepted once, and not when it is too old.

RFC 6479 with 128 words of 64 bits accepts exactly the counters that are greater than all before, or at most
8128 behind the greatest and not seen (reference §2.4). Here the ring is one integer whose bit k stands for
counter `greatest - k`: the same set. Counters that arrive in order only move `greatest`; their bits are set
when one out of order comes.
"""

from __future__ import annotations

from typing import Final

__all__ = ["COUNTER_LIMIT", "REPLAY_WINDOW", "ReplayWindow"]

REPLAY_WINDOW: Final = 8128
"""How far behind the greatest counter one may still be accepted."""

COUNTER_LIMIT: Final = 2**64 - 2**13 - 1
"""REJECT_AFTER_MESSAGES: the first counter that is neither sent nor accepted (reference §2.3)."""

_ALL_SEEN: Final = (1 << (REPLAY_WINDOW + 1)) - 1


class ReplayWindow:
    """Call only after the tag of the datagram verified: a forged counter must not move the window."""

    __slots__ = ("_next", "_seen", "_seen_until")

    def __init__(self) -> None:
        self._next = 0  # greatest accepted + 1
        self._seen = 0  # bit k: counter `_seen_until - 1 - k`
        self._seen_until = 0  # from here to `_next` everything was seen

    def accept(self, counter: int) -> bool:
        """Mark `counter` as seen. False, and nothing changes, if it was seen, is too old or at the limit."""
        if counter == self._next and counter < COUNTER_LIMIT:
            self._next = counter + 1
            return True
        return self._accept_out_of_order(counter)

    def _accept_out_of_order(self, counter: int) -> bool:
        if counter >= COUNTER_LIMIT:
            return False
        self._settle()
        behind = self._next - 1 - counter
        if behind < 0:
            self._seen = (self._seen << -behind | 1) & _ALL_SEEN if -behind <= REPLAY_WINDOW else 1
            self._next = self._seen_until = counter + 1
            return True
        if behind > REPLAY_WINDOW or self._seen >> behind & 1:
            return False
        self._seen |= 1 << behind
        return True

    def _settle(self) -> None:
        """Set the bits of the counters that came in order."""
        run = self._next - self._seen_until
        if run > REPLAY_WINDOW:
            self._seen = _ALL_SEEN
        elif run:
            self._seen = (self._seen << run | (1 << run) - 1) & _ALL_SEEN
        self._seen_until = self._next
