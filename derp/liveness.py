"""Whether the relay at the other end still answers, found out long before TCP would say so.

Something was sent and nothing came: after QUIET_S the relay is asked (a ping). Nobody sends: after IDLE_S.
Any frame is an answer. Without one, the connection is given up

- after STALLED_S, if TCP itself gets no answer either: the path is cut, or the other end is gone;
- UNANSWERED_S after TCP has delivered the ping: a proxy takes our bytes, and the relay behind it is silent;
- after UNDELIVERED_S, if TCP does not get rid of the ping: the relay has stopped reading.

Asking TCP is what makes the short time safe. A long queue of our own on a slow uplink, or a relay that reads
slowly because of a rate limit, delays an answer by seconds, but TCP's acknowledgements keep coming.
"""

from __future__ import annotations

from enum import Enum

QUIET_S = 0.5
STALLED_S = 0.8
UNANSWERED_S = 3.0
UNDELIVERED_S = 30.0
IDLE_S = 30.0
"""Longer than the keep-alives of our relays behind a proxy, which then need no ping."""
LOOK_AGAIN_S = 0.4


class Delivery(Enum):
    """What TCP knows of the ping."""

    STALLED = "stalled"
    """It repeats what it sent, and has had no answer for STALLED_S."""
    UNDERWAY = "under way"
    DELIVERED = "delivered"
    """Acknowledged by the other end's TCP, or nothing can be told."""


class Verdict(Enum):
    """What is to be done about a connection."""

    NOTHING = "nothing"
    ASK = "ask"
    GIVE_UP = "give up"


class Liveness:
    """See the module."""

    __slots__ = ("_asked_at", "_delivered_at", "_look_at", "_unanswered_since", "heard_at")

    def __init__(self, now: float) -> None:
        self.heard_at = now
        self._unanswered_since: float | None = None
        self._asked_at: float | None = None
        self._delivered_at: float | None = None
        self._look_at = 0.0

    def sent(self, now: float) -> None:
        """Something that others usually answer went out."""
        if self._unanswered_since is None:
            self._unanswered_since = now

    def heard(self, now: float) -> None:
        """Something came."""
        self.heard_at = now
        self._unanswered_since = self._asked_at = self._delivered_at = None

    def doubt(self, now: float) -> None:
        """Ask at the next `handle_timeout`, which is due at once."""
        if self._asked_at is None:
            self._unanswered_since = now - QUIET_S

    def next_timeout(self) -> float:
        """When `handle_timeout` has something to say."""
        if self._asked_at is not None:
            return self._look_at
        if self._unanswered_since is not None:
            return self._unanswered_since + QUIET_S
        return self.heard_at + IDLE_S

    def handle_timeout(self, now: float, ping: Delivery) -> Verdict:
        """`ping` is about the one that was asked for last."""
        if now < self.next_timeout():
            return Verdict.NOTHING
        if self._asked_at is None:
            self._asked_at = now
            self._look_at = now + STALLED_S
            return Verdict.ASK
        if ping is Delivery.DELIVERED and self._delivered_at is None:
            self._delivered_at = now
        if ping is Delivery.STALLED or now >= self._deadline():
            return Verdict.GIVE_UP
        self._look_at = min(now + LOOK_AGAIN_S, self._deadline())
        return Verdict.NOTHING

    def _deadline(self) -> float:
        if self._delivered_at is not None:
            return self._delivered_at + UNANSWERED_S
        assert self._asked_at is not None
        return self._asked_at + UNDELIVERED_S
