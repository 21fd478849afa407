"""When the peer is called to ping us (CallMeMaybe), and when a call of its own is one too many."""

from __future__ import annotations

import math
from typing import Final

from meshnode.disco import messages
from meshnode.disco.budget import Budget
from meshnode.disco.constants import CALL_BURST, CALLS_PER_SECOND
from meshnode.disco.context import Context
from meshnode.disco.destinations import DerpDestination
from meshproto.keys import DiscoPublic

NEVER: Final = math.inf


class Calls:
    """Of one peer. A call that is owed leaves once the last one is old enough, or at once if it has news."""

    __slots__ = ("_budget", "_context", "_is_owed", "_version", "last_received", "last_sent")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._budget = Budget(CALLS_PER_SECOND, CALL_BURST)
        self._is_owed = False
        self._version = 0
        self.last_sent: float | None = None
        self.last_received: float | None = None

    @property
    def next_timeout(self) -> float:
        """When `send_owed` has something to do."""
        if not self._is_owed:
            return NEVER
        if self.last_sent is None or self.is_outdated:
            return -math.inf
        return self.last_sent + self._context.timings.min_call_interval

    @property
    def is_outdated(self) -> bool:
        """Whether the peer has been told of other endpoints than ours are now, or of none."""
        return self._version != self._context.endpoints_version

    def owe(self) -> None:
        """The peer should hear from us."""
        self._is_owed = True

    def restart(self) -> None:
        """What the peer was told is worth nothing any more."""
        self.last_sent = None
        self._version = 0

    def received(self, now: float) -> bool:
        """A call came. False: it is one too many, and to be ignored.

        It is answered by one of ours if the peer cannot know where we are. Two nodes that call each other do
        not go on for ever: the second call finds the first one young.
        """
        if not self._budget.spend(now):
            return False
        self.last_received = now
        interval = self._context.timings.call_me_maybe_interval
        is_young = self.last_sent is not None and now < self.last_sent + interval
        if not math.isinf(interval) and (self.is_outdated or not is_young):
            self._is_owed = True
        return True

    def send_owed(self, derp: DerpDestination | None, key: DiscoPublic, now: float) -> None:
        """Call over DERP, if a call is owed and due. Without DERP, or endpoints to tell, there is none."""
        context = self._context
        if self.next_timeout > now:
            return
        self._is_owed = False
        context.want_fresh_endpoints(now)
        if derp is not None and context.endpoints:
            self.last_sent = now
            self._version = context.endpoints_version
            context.send(derp, key, messages.CallMeMaybe(context.endpoints))
