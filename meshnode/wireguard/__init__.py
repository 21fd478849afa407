"""WireGuard, sans-IO: handshake, cookies, timers, sessions and peers; bytes and the time go in."""

from meshnode.wireguard.constants import DEFAULT, Timings
from meshnode.wireguard.device import Device
from meshnode.wireguard.events import (
    Event,
    Flow,
    HandshakeCompleted,
    HandshakeGivenUp,
    HandshakeTimedOut,
    Kind,
    Outgoing,
    PeerConfig,
    PeerHeardFrom,
    PeerStats,
    Received,
    Sealed,
    SessionExpired,
)
from meshnode.wireguard.source import Source

__all__ = [
    "DEFAULT",
    "Device",
    "Event",
    "Flow",
    "HandshakeCompleted",
    "HandshakeGivenUp",
    "HandshakeTimedOut",
    "Kind",
    "Outgoing",
    "PeerConfig",
    "PeerHeardFrom",
    "PeerStats",
    "Received",
    "Sealed",
    "SessionExpired",
    "Source",
    "Timings",
]
