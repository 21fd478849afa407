"""What the batch calls return: positions in the caller's buffers, and one summary per session."""

from __future__ import annotations

import enum
import ipaddress
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from meshnode.dataplane.drops import DropReason
    from meshnode.dataplane.sessions import Session

IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

NO_PEER: Final = -1
"""The lookup result that means "nobody"."""

SEAL_BUFFER_SIZE: Final = 256 * 1024
"""Output that `seal_superpacket` needs for whatever TCP (MSS >= 48) can make of 64 KiB, in bytes."""

RECEIVE_BUFFER_SIZE: Final = 65536
"""Bytes for one receive: the greatest UDP payload, and what UDP_GRO may glue together."""

TUN_BUFFER_SIZE: Final = 68 * 1024
"""Bytes for one TUN read: a shorter buffer truncates silently (reference §5.4)."""

MAX_UNIT_IPV4: Final = 65493
MAX_UNIT_IPV6: Final = 65473
"""Bytes of one GSO send over that family: the Ethernet frame must stay below 65536 (reference §6.3)."""

MAX_UNIT_SEGMENTS: Final = 64
"""Datagrams of one GSO send: the limit of kernels before 6.9 (reference §6.2)."""


class Coalescing(enum.Flag):
    """Which inner packets `open_batch` may merge into superpackets: what the tunnel device takes back."""

    NONE = 0
    TCP = 1
    UDP = 2


class Unit(NamedTuple):
    """One send: `length` output bytes from `offset`, in datagrams of `stride`, the last maybe shorter."""

    offset: int
    length: int
    stride: int


class Activity(NamedTuple):
    """What one session received in one batch. Only authenticated, not replayed datagrams count."""

    peer: int
    session: Session
    packets: int
    data_packets: int  # without keepalives; packets that then failed the inner checks are included
    datagram_bytes: int  # UDP payload
    last_offset: int  # of the last of them, in the received buffer


class Opened(NamedTuple):
    """The outcome of `open_batch`. `units` and `other` are (offset, length)."""

    units: list[tuple[int, int]]  # in the output; each is a virtio_net_hdr and a packet: one TUN write
    activity: list[Activity]  # in order of the sessions' first datagram
    other: list[tuple[int, int]]  # in the received buffer: datagrams that do not begin as transport data
    drops: dict[DropReason, int]
