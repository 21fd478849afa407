"""What goes into path discovery and what comes out of it: values, no behaviour."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from meshnode.disco.destinations import Destination, Path
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic, NodePublic


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """What the network map says of a peer."""

    node_key: NodePublic
    disco_key: DiscoPublic | None = None
    """None: it does not speak disco; see `Manager`."""
    endpoints: Sequence[AddrPort] = ()
    home_region: int = 0
    """Of the DERP region where it listens; 0 is not known."""
    mapping_varies: bool | None = None
    """Whether it is behind a hard NAT, where that is known."""


class Datagram(NamedTuple):
    """Something to send, in order."""

    destination: Destination
    payload: bytes
    dont_fragment: bool = False
    """It must arrive whole or not at all: it measures the path's MTU."""


@dataclass(frozen=True, slots=True)
class PathChanged:
    """Data for `peer` now goes to `destination`; None: nobody knows a way.

    A session that waits for an answer to its handshake should start another one.
    """

    peer: NodePublic
    destination: Destination | None
    latency: float | None
    """Round trip in seconds; None over DERP."""


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The answer to a ping that was asked for by `Manager.ping`."""

    peer: NodePublic
    tx_id: bytes
    via: Destination
    latency: float
    observed: AddrPort
    """Where the peer saw our ping come from; DERP's stand-in for a relayed one."""


@dataclass(frozen=True, slots=True)
class EndpointsWanted:
    """Our own endpoints were measured too long ago: measure, then `Manager.set_own_endpoints`."""


@dataclass(frozen=True, slots=True)
class SocketsReleased:
    """These auxiliary sockets are not needed any more."""

    sockets: range | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WireMtuFound:
    """A path carries IP packets of this many bytes."""

    peer: NodePublic
    path: Path
    wire_mtu: int


@dataclass(frozen=True, slots=True)
class SprayStarted:
    """A hard NAT is being tried, for a few seconds: `sockets` opened by us, or ports of the peer probed."""

    peer: NodePublic
    is_hard_side: bool


@dataclass(frozen=True, slots=True)
class SprayEnded:
    """`is_direct` says whether it helped; `sent` is what it took."""

    peer: NodePublic
    is_direct: bool
    sent: int


Event: TypeAlias = (
    PathChanged | PongReceived | EndpointsWanted | SocketsReleased | WireMtuFound | SprayStarted | SprayEnded
)


class DiscoDrop(enum.Enum):
    """Why a disco message went no further. The value is the name that metrics print."""

    UNKNOWN_SENDER = "disco_unknown_sender"  # no peer has this disco key
    INVALID_TAG = "disco_invalid_tag"
    MALFORMED = "disco_malformed"
    UNKNOWN_TYPE = "disco_unknown_type"
    WRONG_CHANNEL = "disco_wrong_channel"  # over UDP what only DERP may bring, or the other way round
    WRONG_NODE = "disco_wrong_node"  # the relay vouches for another node than the one with this disco key
    RATE_LIMITED = "disco_rate_limited"
    UNKNOWN_PONG = "disco_unknown_pong"  # we did not ask, or too long ago
    UNASKED_RELAY = "disco_unasked_relay"  # of a peer relay, about nothing that we asked or may use
