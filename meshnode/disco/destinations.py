"""Where a datagram for a peer can go, and where one came from.

A *path* is a way over UDP; it is a candidate until a pong confirms it. DERP is no path: it is where datagrams
go while there is no path that can be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from meshproto.addresses import AddrPort
from meshproto.keys import NodePublic

__all__ = [
    "DERP_MAGIC_HOST",
    "AuxPath",
    "DerpDestination",
    "Destination",
    "Path",
    "RelayPath",
    "Via",
    "address_of",
    "as_source",
    "from_source",
]

DERP_MAGIC_HOST: Final = "127.3.3.40"
"""A DERP region written as an address: this host, and the region's number as the port (reference §1.9)."""


@dataclass(frozen=True, slots=True)
class AuxPath:
    """From one of our auxiliary sockets to `address`.

    Where our NAT gives every destination another port, each socket is another chance to be reached; see
    `meshnode.disco.spray`. The owner opens a socket when its number is first sent from.
    """

    address: AddrPort
    socket: int

    def __str__(self) -> str:
        return f"{self.address} (socket {self.socket})"


@dataclass(frozen=True, slots=True)
class RelayPath:
    """Through a peer relay at `address`, which tells pairs of nodes apart by `vni` (reference §2.6).

    Every datagram on it, WireGuard's included, has a Geneve header in front.
    """

    address: AddrPort
    vni: int

    def __str__(self) -> str:
        return f"{self.address}:vni:{self.vni}"


Path: TypeAlias = AddrPort | AuxPath | RelayPath
"""A plain AddrPort is reached from the main socket of its family."""


@dataclass(frozen=True, slots=True)
class DerpDestination:
    """The DERP relays of a region, which forward to the peer if it is connected there."""

    region_id: int
    peer: NodePublic

    def __str__(self) -> str:
        return f"{DERP_MAGIC_HOST}:{self.region_id}"


Destination: TypeAlias = Path | DerpDestination
Via: TypeAlias = Path | DerpDestination
"""Where a message came from. Over DERP, `peer` is the node key that the relay vouches for."""


def as_source(via: Via) -> tuple[str, int]:
    """`via` as WireGuard knows the sender of a datagram: a host, and a port. No two are alike."""
    match via:
        case AuxPath(address, socket):
            return (f"{address.host}{_AUX}{socket}", address.port)
        case RelayPath(address, vni):
            return (f"{address.host}{_VNI}{vni}", address.port)
        case DerpDestination(region_id, peer):
            return (str(peer), region_id)
    return via


def from_source(source: tuple[str, int]) -> Destination:
    """The inverse of `as_source`: where an answer goes."""
    host, port = source
    if host.startswith(NodePublic.prefix):
        return DerpDestination(port, NodePublic.parse(host))
    if _AUX in host:
        host, _, number = host.partition(_AUX)
        return AuxPath(AddrPort(host, port), int(number))
    if _VNI in host:
        host, _, number = host.partition(_VNI)
        return RelayPath(AddrPort(host, port), int(number))
    return AddrPort(host, port)


_AUX: Final = "#aux"
_VNI: Final = "#vni"


def address_of(via: Via) -> AddrPort:
    """The address as messages write it: that of the other end of the UDP datagram, or DERP's stand-in."""
    if isinstance(via, DerpDestination):
        return AddrPort(DERP_MAGIC_HOST, via.region_id & 0xFFFF)
    return via if isinstance(via, AddrPort) else via.address
