"""Who may see and reach whom: the one place where an access policy decides. Without one, all is allowed.

The mapper and the registration ask these questions of `Snapshot.policy` and nowhere else. A policy is an
immutable value: a new document is a new object, and the mapper recomputes everybody when it is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from coordinator.model import IPNetwork, NodeRecord, User
from meshproto.messages import ALLOW_ALL as ALLOW_ALL_RULES
from meshproto.messages import FilterRule


class Policy(Protocol):
    """The questions that the coordinator asks of an access policy."""

    @property
    def is_uniform(self) -> bool:
        """Whether all see all others, with all their routes: the two questions below need not be asked."""

    def sees(self, viewer: NodeRecord, peer: NodeRecord) -> bool:
        """Whether `peer` is in the map of `viewer`."""

    def visible_routes(
        self, viewer: NodeRecord, peer: NodeRecord, routes: Sequence[IPNetwork]
    ) -> tuple[IPNetwork, ...]:
        """Which of the routes that `peer` serves `viewer` may use."""

    def distinguishes(self, before: NodeRecord, after: NodeRecord) -> bool:
        """Whether other rules apply to `after` than to `before`, two records of one node."""

    def packet_filter(self, node: NodeRecord) -> tuple[FilterRule, ...]:
        """What the packet filter of `node` lets in."""

    def permits_tags(self, user: User | None, tags: Sequence[str]) -> bool:
        """Whether a machine that `user` brings in may ask for `tags` itself."""


class AllowAll:
    """No policy: every node sees and reaches every other.

    Nobody owns a tag, so no machine may ask for one.
    """

    is_uniform = True

    def sees(self, viewer: NodeRecord, peer: NodeRecord) -> bool:
        return True

    def visible_routes(
        self, viewer: NodeRecord, peer: NodeRecord, routes: Sequence[IPNetwork]
    ) -> tuple[IPNetwork, ...]:
        return tuple(routes)

    def distinguishes(self, before: NodeRecord, after: NodeRecord) -> bool:
        return False

    def packet_filter(self, node: NodeRecord) -> tuple[FilterRule, ...]:
        return ALLOW_ALL_RULES

    def permits_tags(self, user: User | None, tags: Sequence[str]) -> bool:
        return not tags


ALLOW_ALL = AllowAll()
