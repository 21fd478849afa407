"""Why a packet or a datagram went no further: one reason per cause, used alike by metrics, logs and tests."""

from __future__ import annotations

import enum
from collections.abc import MutableMapping

__all__ = ["DropReason", "count_drop"]


class DropReason(enum.Enum):
    """The value is the name that metrics and `--json` outputs print."""

    # A datagram from the network, transport data (reference §2.5).
    TOO_SHORT = "too_short"  # fewer bytes than its message type has
    UNKNOWN_RECEIVER_INDEX = "unknown_receiver_index"
    EXPIRED_KEY = "expired_key"
    INVALID_TAG = "invalid_tag"
    REPLAYED_COUNTER = "replayed_counter"
    MALFORMED_INNER_PACKET = "malformed_inner_packet"
    SOURCE_NOT_ALLOWED = "source_not_allowed"

    # A datagram from the network, handshake.
    INVALID_LENGTH = "invalid_length"
    INVALID_MAC1 = "invalid_mac1"
    INVALID_HANDSHAKE = "invalid_handshake"
    UNKNOWN_PEER = "unknown_peer"
    REPLAYED_TIMESTAMP = "replayed_timestamp"
    RATE_LIMITED = "rate_limited"
    UNDER_LOAD = "under_load"
    INVALID_COOKIE = "invalid_cookie"
    HANDSHAKE_QUEUE_FULL = "handshake_queue_full"
    UNKNOWN_DATAGRAM = "unknown_datagram"  # not WireGuard, and nobody asked for it

    # A packet from the tunnel device.
    MALFORMED_OUTBOUND_PACKET = "malformed_outbound_packet"
    NO_PEER_FOR_DESTINATION = "no_peer_for_destination"
    STAGED_QUEUE_FULL = "staged_queue_full"
    HANDSHAKE_GIVEN_UP = "handshake_given_up"
    PEER_REMOVED = "peer_removed"

    # What the operating system refused.
    NO_DESTINATION = "no_destination"  # no endpoint is known for the peer
    SEND_FAILED = "send_failed"
    SEND_QUEUE_FULL = "send_queue_full"
    TUN_WRITE_FAILED = "tun_write_failed"
    TRUNCATED_DATAGRAM = "truncated_datagram"


def count_drop(drops: MutableMapping[DropReason, int], reason: DropReason, amount: int = 1) -> None:
    """Add `amount` to the count of `reason`."""
    drops[reason] = drops.get(reason, 0) + amount
