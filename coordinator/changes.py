"""A `Change` says which records a batch of writes touched, so that only those are looked at.

It is a hint where to look, not what to send: the mapper compares the snapshot a node was last told about with
the current one, at these places only. Two changes in a row therefore merge by union, and a flap in between
costs nothing on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.model import NodeID, UserID


@dataclass(frozen=True, slots=True)
class Change:
    """What a batch of writes touched.

    `nodes` were added, altered or removed, went online or offline, expired, or gained or lost a primary
    route. `users` have a new name or profile. `relays`, `dns`: there are others, or other DNS settings.
    """

    nodes: frozenset[NodeID] = frozenset()
    users: frozenset[UserID] = frozenset()
    relays: bool = False
    dns: bool = False

    def __bool__(self) -> bool:
        return bool(self.nodes or self.users or self.relays or self.dns)

    def merge(self, other: Change) -> Change:
        """The change that covers both."""
        return Change(
            nodes=self.nodes | other.nodes,
            users=self.users | other.users,
            relays=self.relays or other.relays,
            dns=self.dns or other.dns,
        )


NOTHING = Change()
