"""Which state the node is in, as a function of what is known: a table that a test can walk through.

The numbers and names are Tailscale's (node behaviour §1.4), for they appear on the LocalAPI.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class BackendState(enum.IntEnum):
    """Numbers as on the notification bus; `label` as in the status."""

    NO_STATE = 0
    NEEDS_LOGIN = 2
    NEEDS_MACHINE_AUTH = 3
    STOPPED = 4
    STARTING = 5
    RUNNING = 6

    @property
    def label(self) -> str:
        """`NeedsLogin`, `Running`, …"""
        return "".join(word.capitalize() for word in self.name.split("_"))


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything that the state depends on."""

    wants_running: bool = False
    has_node_key: bool = False
    is_logging_in: bool = False
    """A login is on its way and needs nobody, so far."""
    awaits_person: bool = False
    """A login waits for somebody to visit a URL."""
    has_map: bool = False
    is_expired: bool = False
    """The map says that our key is no longer valid."""
    is_authorized: bool = False
    """The map says that an administrator has admitted this machine."""
    is_configured: bool = False
    """Peers, addresses and routes of the map are in force."""


def state_of(situation: Situation) -> BackendState:
    """The state. What a person must do comes first, then what we are still busy with."""
    if not situation.wants_running:
        return BackendState.STOPPED if situation.has_node_key else BackendState.NEEDS_LOGIN
    if situation.awaits_person:
        return BackendState.NEEDS_LOGIN
    if situation.is_logging_in:
        return BackendState.STARTING
    if not situation.has_node_key or (situation.has_map and situation.is_expired):
        return BackendState.NEEDS_LOGIN
    if not situation.has_map:
        return BackendState.STARTING
    if not situation.is_authorized:
        return BackendState.NEEDS_MACHINE_AUTH
    return BackendState.RUNNING if situation.is_configured else BackendState.STARTING
