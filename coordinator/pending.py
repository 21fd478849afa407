"""Registrations that wait for a person: a machine asked to join, and somebody has to approve it.

They live in memory only. A machine has at most one: its retries, each with a new node key, keep the URL that
its user already has on the screen. The oldest give way when there are too many, so strangers cannot fill
memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from meshproto.keys import MachinePublic, NodePublic
from meshproto.messages import Hostinfo

MAX_PENDING = 1024
PENDING_LIFETIME_S = 15 * 60.0

_ID = re.compile(r"hskey-authreq-[0-9a-f]{24}")


def is_registration_id(text: str) -> bool:
    """Whether `text` has the form of a registration id."""
    return _ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """What a machine asks for when it wants in, with or without a person's help.

    `requested_expiry` is None when the machine asks for no particular end of its node key.
    """

    machine_key: MachinePublic
    node_key: NodePublic
    hostinfo: Hostinfo
    requested_expiry: datetime | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A join request under the id that its URL carries, good until `deadline` (monotonic seconds)."""

    id: str
    join: JoinRequest
    deadline: float


class PendingRegistrations:
    """The waiting registrations by id and by machine.

    At most MAX_PENDING; the least recently asked goes first.
    """

    def __init__(
        self,
        entropy: Callable[[int], bytes],
        lifetime_s: float = PENDING_LIFETIME_S,
        limit: int = MAX_PENDING,
    ) -> None:
        self._entropy = entropy
        self._lifetime_s = lifetime_s
        self._limit = limit
        self._entries: dict[str, Pending] = {}
        self._ids_by_machine: dict[MachinePublic, str] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, registration_id: str, now: float) -> Pending | None:
        """The registration, unless it is unknown or over."""
        self._drop_due(now)
        return self._entries.get(registration_id)

    def ask(self, join: JoinRequest, now: float) -> Pending:
        """Enter `join`, or renew what its machine asked for, under the same id as long as that is good."""
        self._drop_due(now)
        known = self._entries.pop(self._ids_by_machine.get(join.machine_key, ""), None)
        if known is not None:
            entry = replace(known, join=join)
        else:
            entry = Pending(f"hskey-authreq-{self._entropy(12).hex()}", join, now + self._lifetime_s)
            while len(self._entries) >= self._limit:
                self.remove(next(iter(self._entries)))
        self._entries[entry.id] = entry
        self._ids_by_machine[join.machine_key] = entry.id
        return entry

    def remove(self, registration_id: str) -> None:
        """Forget the registration: it was approved, or gave way."""
        entry = self._entries.pop(registration_id, None)
        if entry is not None:
            del self._ids_by_machine[entry.join.machine_key]

    def _drop_due(self, now: float) -> None:
        for entry in [entry for entry in self._entries.values() if entry.deadline <= now]:
            self.remove(entry.id)
