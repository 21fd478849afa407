"""Why a packet went no further: one reason each, for metrics, logs and tests."""

from __future__ import annotations

from enum import Enum


class DropReason(Enum):
    """The labels are those of Tailscale's relay where it has the same reason."""

    UNKNOWN_DEST = "unknown_dest"
    UNKNOWN_DEST_ON_FWD = "unknown_dest_on_fwd"  # forwarded to us, and forwarded only once
    GONE_DISCONNECTED = "gone_disconnected"  # was waiting when its receiver went
    QUEUE_HEAD = "queue_head"  # was the oldest, and a newer one needed its place
    RATE_LIMIT = "rate_limit"  # in a client: more than the relay lets it send


class Kind(Enum):
    """Signalling, or data of tunnels."""

    DISCO = "disco"
    OTHER = "other"
