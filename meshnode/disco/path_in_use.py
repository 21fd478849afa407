"""The confirmed path that data takes, and how far it is to be relied on."""

from __future__ import annotations

import math

from meshnode.disco.candidates import Candidate
from meshnode.disco.constants import Timings
from meshnode.disco.destinations import Path
from meshnode.disco.liveness import NEVER, Liveness


class PathInUse:
    """One candidate or none. Who leaves a path tells its owner, who may still need it."""

    __slots__ = ("_timings", "best", "data_doubted_until", "has_been_lost", "liveness")

    def __init__(self, timings: Timings) -> None:
        self._timings = timings
        self.best: Candidate | None = None
        self.liveness = Liveness(timings)
        self.data_doubted_until = -math.inf
        """Pings come back, but handshakes over this path do not: until then it is not relied on."""
        self.has_been_lost = False
        """Whether there was a path, and it is gone."""

    @property
    def path(self) -> Path | None:
        return self.best.path if self.best is not None else None

    def is_trusted(self, now: float) -> bool:
        """Whether data needs no other way than this one."""
        return self.best is not None and self.liveness.is_trusted(now) and now >= self.data_doubted_until

    def use(self, candidate: Candidate) -> Candidate | None:
        """Take a candidate that has answered. Returns the one before."""
        assert candidate.last_pong is not None
        assert candidate.last_answered_ping is not None
        before, self.best = self.best, candidate
        self.liveness.restart()
        self.liveness.pinged(candidate.last_answered_ping)
        self.liveness.answered(candidate.last_answered_ping, candidate.last_pong)
        self.data_doubted_until = -math.inf
        self.has_been_lost = False
        return before

    def leave(self) -> Candidate | None:
        """Use no path. Returns the one that was used."""
        before, self.best = self.best, None
        self.has_been_lost = before is not None
        self.liveness.restart()
        return before

    def is_dead(self, now: float) -> bool:
        """Whether the time has come to leave the path: no ping of that age can be answered any more."""
        return self.best is not None and self.liveness.given_up_from <= now

    def handshake_timed_out(self, now: float) -> None:
        """Pings may get through where WireGuard does not."""
        if self.best is not None:
            self.data_doubted_until = now + self._timings.data_doubt

    def data_received(self) -> bool:
        """WireGuard gets through, in one direction at least. Returns whether that changes something."""
        was_doubted = self.data_doubted_until > -math.inf
        self.data_doubted_until = -math.inf
        return was_doubted

    def heartbeat_due(self, idle: float) -> float:
        """When the next ping should leave, `idle` seconds after the last packet; NEVER if that is long."""
        timings = self._timings
        if self.best is None or idle >= timings.session_active:
            return NEVER
        interval = timings.busy_heartbeat if idle < timings.busy_for else timings.heartbeat
        return self.liveness.ping_due(interval)

    def next_timeout(self, idle: float, now: float) -> float:
        """When something is due or changes, if nothing comes."""
        due = self.heartbeat_due(idle)
        if due == NEVER:
            return NEVER
        liveness = self.liveness
        doubted_from = liveness.doubted_from if liveness.is_trusted(now) else NEVER
        return min(due, doubted_from, liveness.given_up_from)

    def next_change_for_sender(self, now: float) -> float:
        """When a packet that is sent would be a reason to look again, maybe before the next timeout."""
        if self.best is None:
            return NEVER
        due = self.liveness.ping_due(self._timings.busy_heartbeat)
        return min(due, self.data_doubted_until) if self.data_doubted_until > now else due
