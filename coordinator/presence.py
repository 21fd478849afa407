"""Who is connected, and the deadlines that follow from it (coordinator-behaviour §6.6).

A node is online from its first map session on, until it has had none for the grace time: a reconnect in
between is not news to anyone. An ephemeral node without a session is removed after its inactivity timeout.
Times are monotonic seconds.
"""

from __future__ import annotations

import enum
import heapq
from collections import Counter

from coordinator.model import NodeID


class Due(enum.Enum):
    """What has to be done about a node whose deadline came."""

    GO_OFFLINE = "go offline"
    REMOVE_EPHEMERAL = "remove ephemeral"


class Presence:
    """Sessions per node, and named deadlines. Opening a session disarms every deadline of its node."""

    def __init__(self, offline_grace_s: float, ephemeral_timeout_s: float) -> None:
        self._offline_grace_s = offline_grace_s
        self._ephemeral_timeout_s = ephemeral_timeout_s
        self._sessions: Counter[NodeID] = Counter()
        self._armed: dict[tuple[NodeID, Due], float] = {}
        self._heap: list[tuple[float, NodeID, str]] = []

    def has_session(self, node_id: NodeID) -> bool:
        return node_id in self._sessions

    def session_opened(self, node_id: NodeID) -> None:
        """The node polls.

        Call it before anything that takes time, so that no deadline wins against a slow start.
        """
        self._sessions[node_id] += 1
        for due in Due:
            self._armed.pop((node_id, due), None)

    def session_closed(self, node_id: NodeID, now: float) -> None:
        """One of its sessions is over; after the last one the grace time runs."""
        self._sessions[node_id] -= 1
        if self._sessions[node_id] <= 0:
            del self._sessions[node_id]
            self._arm(node_id, Due.GO_OFFLINE, now + self._offline_grace_s)

    def ephemeral_without_session(self, node_id: NodeID, now: float) -> None:
        """An ephemeral node joined, went offline, or was found at boot.

        Does nothing while it has a session.
        """
        if node_id not in self._sessions:
            self._arm(node_id, Due.REMOVE_EPHEMERAL, now + self._ephemeral_timeout_s)

    def postpone(self, node_id: NodeID, due: Due, now: float) -> None:
        """What was due could not be done; it is due again later, unless a session opens."""
        if node_id not in self._sessions:
            self._arm(node_id, due, now + self._offline_grace_s)

    def forget(self, node_id: NodeID) -> None:
        """The node is gone; its sessions will still report that they closed."""
        for due in Due:
            self._armed.pop((node_id, due), None)

    def next_timeout(self) -> float | None:
        """When `take_due` has something to give."""
        while self._heap and not self._is_current(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now: float) -> list[tuple[NodeID, Due]]:
        """What the time has brought, each item once."""
        taken: list[tuple[NodeID, Due]] = []
        while (when := self.next_timeout()) is not None and when <= now:
            _, node_id, name = heapq.heappop(self._heap)
            due = Due(name)
            del self._armed[node_id, due]
            taken.append((node_id, due))
        return taken

    def _arm(self, node_id: NodeID, due: Due, when: float) -> None:
        self._armed[node_id, due] = when
        heapq.heappush(self._heap, (when, node_id, due.value))

    def _is_current(self, entry: tuple[float, NodeID, str]) -> bool:
        when, node_id, name = entry
        return self._armed.get((node_id, Due(name))) == when
