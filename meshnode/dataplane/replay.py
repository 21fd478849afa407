"""The replay window of one receiving key: each counter is accepted once, and not when it is too old.

RFC 6479 with 128 words of 64 bits accepts exactly the counters that are greater than all before, or at most
8128 behind the greatest and not seen (reference §2.4). Here the ring is one integer whose bit k stands for
counter `greatest - k`: the same set, and a run of consecutive counters costs one shift.
"""

from __future__ import annotations

from typing import Final

__all__ = ["COUNTER_LIMIT", "REPLAY_WINDOW", "ReplayWindow"]

REPLAY_WINDOW: Final = 8128
"""How far behind the greatest counter one may still be accepted."""

COUNTER_LIMIT: Final = 2**64 - 2**13 - 1
"""REJECT_AFTER_MESSAGES: the first counter that is neither sent nor accepted (reference §2.3)."""

_SEEN: Final = (1 << (REPLAY_WINDOW + 1)) - 1


class ReplayWindow:
    """Call only after the tag of the datagram verified: a forged counter must not move the window."""

    __slots__ = ("_seen", "greatest")

    def __init__(self) -> None:
        self.greatest = -1  # nothing accepted yet: counter 0 is then simply the next
        self._seen = 0

    def accept(self, counter: int) -> bool:
        """Mark `counter` as seen. False, and nothing changes, if it was seen, is too old or at the limit."""
        if counter > self.greatest:
            return self.accept_run(counter, 1)
        behind = self.greatest - counter
        if behind > REPLAY_WINDOW or self._seen >> behind & 1:
            return False
        self._seen |= 1 << behind
        return True

    def accept_run(self, first: int, count: int) -> bool:
        """Mark `count` consecutive counters, all beyond `greatest`. False when the last reaches the limit."""
        last = first + count - 1
        if last >= COUNTER_LIMIT:
            return False
        ahead = last - self.greatest
        run = (1 << count) - 1
        self._seen = (self._seen << ahead | run) & _SEEN if ahead <= REPLAY_WINDOW else run & _SEEN
        self.greatest = last
        return True
