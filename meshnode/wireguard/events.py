"""What goes into a device and what comes out of it: values, no behaviour."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from meshnode.dataplane import Session, Unit
from meshnode.dataplane.types import IPNetwork
from meshnode.wireguard.source import Source
from meshproto.keys import NodePublic

MAX_PERSISTENT_KEEPALIVE: Final = 65535


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """What the owner wants of one peer. Raises ValueError on a value that no peer can have."""

    public_key: NodePublic
    allowed_ips: frozenset[IPNetwork] = frozenset()
    preshared_key: bytes | None = None
    persistent_keepalive: int = 0
    """Seconds of silence after which a keepalive is sent; 0 is never."""

    def __post_init__(self) -> None:
        if self.preshared_key is not None and len(self.preshared_key) != 32:
            raise ValueError("a preshared key has 32 bytes")
        if not 0 <= self.persistent_keepalive <= MAX_PERSISTENT_KEEPALIVE:
            raise ValueError(f"persistent keepalive is between 0 and {MAX_PERSISTENT_KEEPALIVE} seconds")

    def __repr__(self) -> str:
        return f"<PeerConfig {self.public_key.short()} {len(self.allowed_ips)} prefixes>"


class Kind(enum.Enum):
    """What a datagram is, for whoever chooses its path."""

    HANDSHAKE = "handshake"
    DATA = "data"
    KEEPALIVE = "keepalive"


class Outgoing(NamedTuple):
    """A datagram that the device wants sent. A batch of data does not come this way: see Sealed."""

    peer: NodePublic | None
    """None for a cookie reply: it answers somebody who has not said yet who they are."""
    datagram: bytes
    kind: Kind
    reply_to: Source | None = None
    """Where it must go, for responses and cookie replies; otherwise the path is the caller's to choose."""


class Sealed(NamedTuple):
    """What became of one packet from the tunnel: units in the caller's buffer, to send in this order."""

    peer: NodePublic
    units: list[Unit]


class Received(NamedTuple):
    """What one received buffer held besides handshakes. Both lists are (offset, length)."""

    units: list[tuple[int, int]]
    """In the output: one TUN write each."""
    other: list[tuple[int, int]]
    """In the received buffer: datagrams that are not WireGuard's."""


class Flow(NamedTuple):
    """How to seal for one peer, for a while."""

    peer_id: int
    """What the batch kernel knows it by."""
    session: Session
    until: float
    """Monotonic; the key is too old from then on."""


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """The peer proved that it has the new key."""

    peer: NodePublic
    is_initiator: bool


@dataclass(frozen=True, slots=True)
class PeerHeardFrom:
    """An authenticated datagram of `peer` came from `source`, where answers should now go.

    Reported when the source is new, for every handshake message, after a HandshakeTimedOut, and otherwise
    at most once a second. A cookie reply is not authenticated and never reported.
    """

    peer: NodePublic
    source: Source


@dataclass(frozen=True, slots=True)
class HandshakeTimedOut:
    """The peer did not answer: another initiation leaves, and the path may be to blame."""

    peer: NodePublic
    attempts: int
    """Initiations without answer since traffic last asked for one; 0 when a session went silent."""


@dataclass(frozen=True, slots=True)
class HandshakeGivenUp:
    """The peer did not answer for a minute and a half. What was staged is lost; new traffic tries again."""

    peer: NodePublic


@dataclass(frozen=True, slots=True)
class SessionExpired:
    """The last key grew too old and none replaced it; the next packet will start a handshake."""

    peer: NodePublic


Event: TypeAlias = HandshakeCompleted | PeerHeardFrom | HandshakeTimedOut | HandshakeGivenUp | SessionExpired


@dataclass(frozen=True, slots=True)
class PeerStats:
    """Counts since the peer was added. Bytes are of UDP payload, handshakes included."""

    rx_bytes: int
    tx_bytes: int
    last_handshake_wall: float | None
    """Unix time of the last completed handshake."""
    last_handshake: float | None
    last_sent: float | None
    """Monotonic, of the last authenticated datagram; likewise `last_received`."""
    last_received: float | None
    has_session: bool
    staged_packets: int
