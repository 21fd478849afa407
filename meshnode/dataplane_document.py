"""What moves packets on this node, and what it may hand to the operating system in one piece, as a document:
`DataPlane` in `status --json`, and with the drops what `debug dataplane` shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meshnode.dataplane import KERNEL, WHY_PURE

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Offloads:
    """What was probed at the start, less what the kernel has refused since."""

    tun_tcp: bool = False
    """The tunnel gives TCP in superpackets (TSO)."""
    tun_udp: bool = False
    """The tunnel gives UDP in superpackets (USO)."""
    merge_tcp: bool = False
    """Received TCP segments are written to the tunnel in superpackets."""
    merge_udp: bool = False
    """The same for UDP datagrams."""
    udp_gso: bool = False
    """Datagrams for one peer leave in one call (UDP_SEGMENT)."""
    udp_gro: bool = False
    """Datagrams of one sender come in one call (UDP_GRO)."""


NO_OFFLOADS = Offloads()


def data_plane_document(offloads: Offloads) -> Document:
    """Which kernel seals and opens, why not the native one if so, and the offloads in use."""
    return {
        "Kernel": KERNEL,
        "WhyPure": WHY_PURE,
        "TunTCP": offloads.tun_tcp,
        "TunUDP": offloads.tun_udp,
        "MergeTCP": offloads.merge_tcp,
        "MergeUDP": offloads.merge_udp,
        "UDPGSO": offloads.udp_gso,
        "UDPGRO": offloads.udp_gro,
    }


def with_drops(document: Document, drops: Mapping[str, int], receive_overflow: int) -> Document:
    """The same with what went no further: `Drops` by reason, and what the kernel had no room for."""
    return document | {"Drops": dict(sorted(drops.items())), "ReceiveOverflow": receive_overflow}
