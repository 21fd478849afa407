"""Which routers of a contested subnet route still answer: what a round of probes says of them.

A route that several nodes serve must not stay with one that is connected but no longer forwards or answers
(coordinator-behaviour §7.3). Each round asks every such node; silence for the whole time means unhealthy. The
verdict waits for the next round when a session is new or was replaced meanwhile: its node may be busy taking
up its map, and to judge only some of the candidates could elect one that the next round deposes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from coordinator.model import NodeID
from coordinator.primaries import Primaries


@dataclass(frozen=True, slots=True)
class ProbeTimes:
    """Seconds from one round to the next (0: none at all), and those a node has to answer in."""

    interval_s: float = 10.0
    timeout_s: float = 5.0


def contested(primaries: Primaries) -> frozenset[NodeID]:
    """The nodes that stand for a prefix which others stand for too."""
    return frozenset().union(*(nodes for nodes in primaries.candidates.values() if len(nodes) > 1))


class RouterHealth:
    """Judges one round after the other. Sessions are told apart by any number that no two of them share."""

    def __init__(self) -> None:
        self._asked: dict[NodeID, int] = {}
        self._known: Mapping[NodeID, int] = {}

    def begin(self, sessions: Mapping[NodeID, int]) -> None:
        """The nodes of `sessions` are asked now, each in its session."""
        self._known, self._asked = self._asked, dict(sessions)

    def end(self, answered: Collection[NodeID], sessions: Mapping[NodeID, int]) -> dict[NodeID, bool]:
        """The health of nodes by this round, with the sessions there are now; empty for no verdict yet."""
        verdict: dict[NodeID, bool] = {}
        for node, session in self._asked.items():
            if node in answered:
                verdict[node] = True
            elif node not in sessions:
                continue  # it left, and has no part in the election
            elif sessions[node] != session or self._known.get(node) != session:
                return {}
            else:
                verdict[node] = False
        return verdict
