"""Election of primary routers: for each subnet prefix, one of the nodes that can serve it now.

The election is sticky. The primary stays while it is a healthy candidate; a node that comes back does not
reclaim. Otherwise the healthy candidate with the lowest node id follows; when none is healthy, the primary
stays as long as it is a candidate (coordinator-behaviour §7.3). Prefixes
are independent: 10.0.0.0/8 and 10.33.0.0/16 have a primary each. Exit routes are not elected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from coordinator.model import IPNetwork, NodeID
from meshproto.routes import sorted_prefixes


@dataclass(frozen=True, slots=True)
class Primaries:
    """Who stands for which prefix and who was elected. An immutable value; `stand` returns the next one."""

    standing: Mapping[NodeID, frozenset[IPNetwork]] = field(default_factory=dict)
    candidates: Mapping[IPNetwork, frozenset[NodeID]] = field(default_factory=dict)
    elected: Mapping[IPNetwork, NodeID] = field(default_factory=dict)
    unhealthy: frozenset[NodeID] = frozenset()

    def of(self, node: NodeID) -> tuple[IPNetwork, ...]:
        """The prefixes that `node` is the primary router of, sorted."""
        standing = self.standing.get(node)
        if standing is None:
            return ()
        return sorted_prefixes(prefix for prefix in standing if self.elected.get(prefix) == node)

    def stand(self, node: NodeID, prefixes: Iterable[IPNetwork]) -> tuple[Primaries, frozenset[NodeID]]:
        """`node` is from now on a candidate for exactly `prefixes`.

        Returns the new value and the nodes whose set of primary routes differs from before.
        """
        wanted = frozenset(prefixes)
        before = self.standing.get(node, frozenset())
        if wanted == before:
            return self, frozenset()
        standing = {**self.standing, node: wanted}
        unhealthy = self.unhealthy
        if not wanted:
            del standing[node]
            unhealthy -= {node}
        candidates = dict(self.candidates)
        elected = dict(self.elected)
        affected: set[NodeID] = set()
        for prefix in wanted ^ before:
            candidates[prefix] = candidates.get(prefix, frozenset()) ^ {node}
            affected |= _elect(prefix, candidates, elected, unhealthy)
        return Primaries(standing, candidates, elected, unhealthy), frozenset(affected)

    def judge(self, health: Mapping[NodeID, bool]) -> tuple[Primaries, frozenset[NodeID]]:
        """The nodes of `health` are well from now on, or not, all at once; returns as `stand` does."""
        sick = {node for node, is_well in health.items() if not is_well and node in self.standing}
        unhealthy = (self.unhealthy - health.keys()) | sick
        if unhealthy == self.unhealthy:
            return self, frozenset()
        candidates, elected = dict(self.candidates), dict(self.elected)
        affected: set[NodeID] = set()
        for prefix in {p for node in unhealthy ^ self.unhealthy for p in self.standing.get(node, ())}:
            affected |= _elect(prefix, candidates, elected, unhealthy)
        return Primaries(self.standing, candidates, elected, unhealthy), frozenset(affected)


def _elect(
    prefix: IPNetwork,
    candidates: dict[IPNetwork, frozenset[NodeID]],
    elected: dict[IPNetwork, NodeID],
    unhealthy: frozenset[NodeID],
) -> set[NodeID]:
    """Bring `elected[prefix]` in line with its candidates; the nodes that won or lost it."""
    current = elected.get(prefix)
    standing = candidates[prefix]
    healthy = standing - unhealthy
    if current in (healthy or standing):
        return set()
    if not standing:
        del candidates[prefix]
    if healthy:
        elected[prefix] = min(healthy)
        return {elected[prefix]} if current is None else {elected[prefix], current}
    if current is None:
        return set()
    del elected[prefix]
    return {current}
