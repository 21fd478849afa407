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


SocketAddress: TypeAlias = tuple[str, int, int]
"""The text of an IP address, the port, and the number of the interface that a link-local address is of."""


class Sent(NamedTuple):
    """What a fast path sealed for one peer; whether it also left, `Turn.unsent` says."""

    peer: int
    packets: int
    datagram_bytes: int


class Unsent(NamedTuple):
    """Datagrams of `stride` bytes, the last maybe shorter, that the socket did not take."""

    peer: int
    datagrams: bytes
    stride: int


class Heard(NamedTuple):
    """What one session received from one source, counted as in `Activity`."""

    peer: int
    session: Session
    packets: int
    data_packets: int
    datagram_bytes: int
    source: SocketAddress
    socket: int  # what the caller knows it by


class Turn(NamedTuple):
    """What one turn of a fast path leaves to its caller (`meshnode.engine.fast_path`)."""

    undecided: bytes | None  # one TUN read, for a peer without a valid flow: the next read waits for it
    unsent: list[Unsent]  # in order; all that was sealed after what the socket first refused
    admitted: list[tuple[bytes, SocketAddress]]  # handshake messages that the gate let through
    cookies_wanted: list[tuple[bytes, SocketAddress]]  # those that are to be answered with a cookie reply
    other: list[tuple[bytes, SocketAddress]]  # datagrams that are neither these nor transport data
    unwritten: list[bytes]  # TUN writes, from the first that the kernel refused
    is_tun_gone: bool  # the interface was deleted under us


class Moved(NamedTuple):
    """What went through a fast path since the last look, and what did not."""

    sent: list[Sent]
    heard: list[Heard]
    drops: dict[DropReason, int]
