"""Looking for a path to one peer: rounds of pings to candidates, calls over DERP, sprays, peer relays.

It says whom to ping and never pings: a ping belongs to whoever waits for its answer, `PeerPath`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from meshnode.disco.calls import Calls
from meshnode.disco.candidates import Candidate, Candidates
from meshnode.disco.context import Context
from meshnode.disco.destinations import AuxPath, DerpDestination, Path, RelayPath
from meshnode.disco.discovery import Discovery
from meshnode.disco.relay_client import RelayClient
from meshnode.disco.spray import Role
from meshnode.disco.sprayer import Sprayer
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic, NodePublic

NEVER: Final = math.inf

SAME_MOMENT: Final = 0.05
"""Seconds within which one ping of a candidate is enough, however many reasons there are."""


class Search:
    """Of one peer. `best` is everywhere the candidate in use; `is_trusted`, whether data relies on it."""

    __slots__ = (
        "_called_at",
        "_timings",
        "calls",
        "candidates",
        "disco_key",
        "discovery",
        "relay",
        "said_mapping_varies",
        "sprayer",
    )

    def __init__(self, peer: NodePublic, disco_key: DiscoPublic, context: Context) -> None:
        self.disco_key = disco_key
        self._called_at = -math.inf
        self.said_mapping_varies: bool | None = None
        """Whether the coordinator says that the peer is behind a hard NAT."""
        self._timings = context.timings
        self.candidates: Final = Candidates(context.timings)
        self.discovery: Final = Discovery(context.timings)
        self.calls: Final = Calls(context)
        self.sprayer: Final = Sprayer(peer, context)
        self.relay: Final = RelayClient(context)

    # --- what changes the course of it ---

    def encourage(self) -> None:
        """Something is new: look again at once, if a path is wanted."""
        self.discovery.encourage()

    def called(self, endpoints: Sequence[AddrPort], in_use: Path | None, now: float) -> None:
        """The peer has pinged us, and told us where it is: do the same now.

        Only news are an encouragement, or two nodes would encourage each other for ever.
        """
        if self.candidates.set_call_me_maybe(endpoints, in_use):
            self.discovery.encourage()
        self.discovery.begin(now)
        self._called_at = now

    def found(self, best: Candidate) -> None:
        """`best` is used from now on."""
        self.discovery.seeking_since = None
        self.discovery.encourage()
        self.sprayer.stop(has_helped=True)

    def left(self, before: Candidate | None) -> None:
        """`before` is not used any more: give up what only it needed."""
        if before is not None:
            self.candidates.release(before.path)
        self._close_sockets()

    def restart(self) -> None:
        """The other end, or ours, is not what it was."""
        self.discovery.restart()
        self.calls.restart()
        self.relay.stop()

    def network_changed(self) -> None:
        """What was measured is worth nothing, and our sockets are new."""
        self.sprayer.network_changed()
        self.candidates.drop_sockets()
        self.candidates.forget_measurements()

    # --- time ---

    def update(
        self, best: Candidate | None, *, is_trusted: bool, is_active: bool, now: float
    ) -> list[Candidate]:
        """Do what is due. Returns the candidates to ping now."""
        discovery = self.discovery
        if self._wants_round(best, is_trusted=is_trusted, is_active=is_active, now=now):
            discovery.begin(now)
            self.calls.owe()
        step = discovery.take_step(now)
        due = [] if step is None else self._take_step(step, best, is_trusted=is_trusted, now=now)
        self._spray(best, is_trusted=is_trusted, now=now)
        self.relay.handle_timeout(now)
        return due

    def expire(self, in_use: Path | None, now: float) -> None:
        """Forget candidates that nobody speaks of any more."""
        self.candidates.expire(in_use, now)
        self._close_sockets()

    def close(self) -> None:
        """The peer is removed: what all peers share comes back."""
        self.relay.stop()
        self.sprayer.stop(has_helped=False)
        self.sprayer.close_sockets(but=frozenset())

    def send_owed_call(self, derp: DerpDestination | None, now: float) -> None:
        """After the pings: they open the way for those that the call brings."""
        self.calls.send_owed(derp, self.disco_key, now)

    def next_timeout(self, *, is_trusted: bool, is_active: bool, now: float) -> float:
        """When `update` has something to do, if nothing comes. What is past is due at once."""
        deadlines = [
            self.discovery.next_step,
            self.sprayer.next_timeout,
            self.calls.next_timeout,
            self.relay.next_timeout,
        ]
        if is_active and not is_trusted and not self.discovery.is_running:
            deadlines.append(self.discovery.next_round)
        if not is_trusted and self._spray_from > now:
            deadlines.append(self._spray_from)
        return min(deadlines)

    def _wants_round(self, best: Candidate | None, *, is_trusted: bool, is_active: bool, now: float) -> bool:
        discovery = self.discovery
        if is_trusted:
            discovery.seeking_since = None
            return is_active and best is not None and self._wants_upgrade(best, now)
        if not is_active:
            return False
        if discovery.seeking_since is None:
            discovery.seeking_since = now
            discovery.encourage()
        return not discovery.is_running and now >= discovery.next_round

    def _wants_upgrade(self, best: Candidate, now: float) -> bool:
        """A path through a peer relay is never good enough, a direct one only if it is fast."""
        timings, started_at = self._timings, self.discovery.started_at
        if isinstance(best.path, RelayPath):
            return now >= started_at + timings.max_round_interval
        is_slow = best.latency is not None and best.latency > timings.good_enough_latency
        return is_slow and now >= started_at + timings.upgrade_interval

    def _take_step(
        self, step: int, best: Candidate | None, *, is_trusted: bool, now: float
    ) -> list[Candidate]:
        """Every candidate that has not answered in this round."""
        if step > 0 and is_trusted:
            self.discovery.finish()
        elif step == 1:
            self.sprayer.predict(self.disco_key, self.peer_mapping_varies(), self.candidates.public_ipv4())
        return [
            candidate
            for candidate in self.candidates
            if not candidate.answered_since(self.discovery.started_at)
            and not (candidate is best and is_trusted)
            and not candidate.pinged_since(now - SAME_MOMENT)
        ]

    # --- hard NATs ---

    def peer_mapping_varies(self) -> bool | None:
        """Whether the peer is behind a hard NAT: as is known, or as several ports of one host show."""
        if self.said_mapping_varies is not None:
            return self.said_mapping_varies
        public = self.candidates.public_ipv4()
        if self.calls.last_received is None or not public:
            return None
        return len({one.host for one in public}) < len(public)

    @property
    def _spray_from(self) -> float:
        """When both sides have looked for long enough: we, or the peer who has called us for it."""
        since = self.discovery.seeking_since
        return (self._called_at if since is None else since) + self._timings.spray_delay

    def _spray(self, best: Candidate | None, *, is_trusted: bool, now: float) -> None:
        sprayer, delay = self.sprayer, self._timings.spray_delay
        is_wanted = self.discovery.seeking_since is not None or now < self._called_at + 2 * delay
        has_answered = best is not None and best.answered_since(now - delay)
        if now >= self._spray_from and is_wanted and not is_trusted and not has_answered:
            role = self._role_of_new_spray(now)
            if role is not None:
                sprayer.start(role, self.disco_key, self.candidates.public_ipv4(), now)
        if sprayer.next_timeout <= now:
            sprayer.handle_timeout(now)
            self._close_sockets()

    def _role_of_new_spray(self, now: float) -> Role | None:
        return self.sprayer.may_start(self.peer_mapping_varies(), self.candidates.public_ipv4(), now)

    def _close_sockets(self) -> None:
        self.sprayer.close_sockets(but=self.candidates.sockets)


def needs_socket(candidate: Candidate | None) -> bool:
    """Whether a candidate is worth nothing once our sockets are new."""
    return candidate is not None and isinstance(candidate.path, AuxPath)
