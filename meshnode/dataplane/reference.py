"""The batch kernel in Python: the definition of correct, and what runs where no compiled twin is built.

A datagram of transport data, little-endian (whitepaper 5.4.6, reference §2):

     0  u32  4: the message type, and three reserved zero bytes
     4  u32  receiver index
     8  u64  counter
    16       ChaCha20-Poly1305 of the padded IP packet, with its tag of 16 bytes;
             the nonce is 4 zero bytes and the counter, there is no associated data

Every call takes and returns positions in the caller's buffers, and keeps no reference to them.
"""

from __future__ import annotations

import struct
from typing import Final

from meshnode.dataplane.allowed_ips import AllowedIPs
from meshnode.dataplane.coalescing import Coalescer
from meshnode.dataplane.drops import DropReason, count_drop
from meshnode.dataplane.segmentation import MalformedSuperpacket, Superpacket
from meshnode.dataplane.sessions import TRANSPORT_DATA, Session, SessionSpent, SessionTable
from meshnode.dataplane.types import (
    MAX_UNIT_IPV6,
    MAX_UNIT_SEGMENTS,
    NO_PEER,
    Activity,
    Coalescing,
    Opened,
    Unit,
)
from meshnode.dataplane.virtio import HEADER_SIZE
from meshproto.primitives import ChaCha20Poly1305, InvalidTag

__all__ = ["open_batch", "padding", "route", "seal_packet", "seal_superpacket", "segments_per_unit"]

DATAGRAM_HEADER_SIZE: Final = 16
OVERHEAD: Final = 32
"""Bytes of a datagram besides the padded packet: header and tag."""
PADDING_MULTIPLE: Final = 16

_HEADER: Final = struct.Struct("<IIQ")
_SEALED_HEADER: Final = struct.Struct("<8sQ")
_INNER_IPV4: Final = struct.Struct(">2xH8x4s")  # total length, source
_INNER_IPV6: Final = struct.Struct(">4xH2x16s")  # payload length, source


def route(allowed_ips: AllowedIPs, packet: memoryview) -> int:
    """The peer that owns the destination of one TUN read; NO_PEER when nobody does or it is no IP packet."""
    length = len(packet)
    version = packet[HEADER_SIZE] >> 4 if length > HEADER_SIZE else 0
    if version == 4 and length >= HEADER_SIZE + 20:
        return allowed_ips.lookup(bytes(packet[HEADER_SIZE + 16 : HEADER_SIZE + 20]))
    if version == 6 and length >= HEADER_SIZE + 40:
        return allowed_ips.lookup(bytes(packet[HEADER_SIZE + 24 : HEADER_SIZE + 40]))
    return NO_PEER


def padding(length: int, mtu: int) -> int:
    """Zero bytes that follow a packet of `length` bytes: never beyond the MTU (0: no such limit)."""
    last = length if length <= mtu or not mtu else length % mtu
    padded = last + PADDING_MULTIPLE - 1 & -PADDING_MULTIPLE
    return (min(padded, mtu) if mtu else padded) - last


def segments_per_unit(mtu: int, max_unit: int = MAX_UNIT_IPV6) -> int:
    """How many packets of full size one GSO send carries: what a superpacket should not exceed."""
    return max(1, min(max_unit // (mtu + padding(mtu, mtu) + OVERHEAD), MAX_UNIT_SEGMENTS))


def seal_packet(session: Session, plaintext: bytes | memoryview, mtu: int) -> bytes:
    """One IP packet (nothing: a keepalive) as one datagram. Raises SessionSpent."""
    counter = session.reserve(1)
    padded = bytes(plaintext) + bytes(padding(len(plaintext), mtu))
    sealed = _sealer(session).encrypt(_nonce(counter), padded, None)
    return _SEALED_HEADER.pack(session.header_prefix, counter) + sealed


def seal_superpacket(
    session: Session, packet: memoryview, out: memoryview, mtu: int, max_unit: int
) -> list[Unit]:
    """Seal one TUN read (virtio_net_hdr and packet) into `out`, as GSO units of at most `max_unit` bytes.

    The units are adjacent, from the start of `out`; all but the last hold the same number of datagrams, 64
    at most. The list is empty, and no counter is used, when the offload header does not fit the packet or
    the result does not fit `out`; SEAL_BUFFER_SIZE bytes take everything that TCP produces. Raises
    SessionSpent.
    """
    try:
        superpacket = Superpacket(packet)
    except MalformedSuperpacket:
        return []
    padded = superpacket.segment_size + padding(superpacket.segment_size, mtu)
    padded_last = superpacket.last_size + padding(superpacket.last_size, mtu)
    stride = padded + OVERHEAD
    total = (superpacket.count - 1) * stride + padded_last + OVERHEAD
    if total > len(out):
        return []
    counter = session.reserve(superpacket.count)
    seal = _sealer(session).encrypt_into
    prefix = session.header_prefix
    offset = 0
    for segment in superpacket.segments(padded, padded_last):
        _SEALED_HEADER.pack_into(out, offset, prefix, counter)
        end = offset + stride if offset + stride < total else total
        seal((counter << 32).to_bytes(12, "little"), segment, None, out[offset + DATAGRAM_HEADER_SIZE : end])
        counter += 1
        offset = end
    unit = max(1, min(max_unit // stride, MAX_UNIT_SEGMENTS)) * stride
    return [Unit(offset, min(unit, total - offset), stride) for offset in range(0, total, unit)]


def open_batch(
    sessions: SessionTable,
    allowed_ips: AllowedIPs,
    datagrams: memoryview,
    stride: int,
    out: memoryview,
    coalescing: Coalescing = Coalescing.TCP,
) -> Opened:
    """Open what one receive returned: datagrams of `stride` bytes, the last maybe shorter (reference §2.5).

    Afterwards `datagrams` is good for what is in `other` only: where it is writable, the compiled twin opens
    the rest in place, which saves a copy. `out` must be at least as long as `datagrams`, else ValueError;
    packets never outgrow their datagrams, so that is always enough. A bad datagram costs only itself and is
    counted under its reason.
    """
    total = len(datagrams)
    if len(out) < total:
        raise ValueError(f"the output has {len(out)} bytes, the datagrams {total}")
    if not 0 < stride < total:
        stride, coalescing = max(total, 1), Coalescing.NONE
    drops: dict[DropReason, int] = {}
    other: list[tuple[int, int]] = []
    receivers: dict[int, _Receiver] = {}
    receiver: _Receiver | None = None
    coalescer = Coalescer(out, coalescing)
    current, end, parse = -1, 0, _HEADER.unpack_from
    for offset in range(0, total, stride):
        stop = offset + stride if offset + stride < total else total
        if stop - offset < OVERHEAD:
            if bytes(datagrams[offset:stop][:4]) == b"\x04\0\0\0":
                count_drop(drops, DropReason.TOO_SHORT)
            else:
                other.append((offset, stop - offset))
            continue
        kind, index, counter = parse(datagrams, offset)
        if kind != TRANSPORT_DATA:
            other.append((offset, stop - offset))
            continue
        if index != current:
            receiver = receivers.get(index) or _receiver(sessions, index, receivers, drops)
            current = index
        if receiver is None:
            count_drop(drops, DropReason.UNKNOWN_RECEIVER_INDEX)
            continue
        start = end + HEADER_SIZE
        sealed = datagrams[offset + DATAGRAM_HEADER_SIZE : stop]
        size = receiver.open(sealed, counter, offset, out[start : start + stop - offset - OVERHEAD])
        if size:
            length = receiver.admit(allowed_ips, out, start, size)
            if length:
                end = coalescer.add(start, length)
    activity = [receiver.activity() for receiver in receivers.values() if receiver.packets]
    return Opened(coalescer.finish(), activity, other, drops)


class _Receiver:
    """A session during one batch: its totals, and the inner source that was looked up last."""

    __slots__ = (
        "accept",
        "data_packets",
        "datagram_bytes",
        "decrypt_into",
        "drops",
        "last_offset",
        "packets",
        "peer",
        "session",
        "source",
    )

    def __init__(self, session: Session, peer: int, drops: dict[DropReason, int]) -> None:
        self.session = session
        self.peer = peer
        self.drops = drops
        self.accept = session.replay.accept
        self.decrypt_into = session.opener.decrypt_into if session.opener else None
        self.packets = self.data_packets = self.datagram_bytes = self.last_offset = 0
        self.source = b""

    def open(self, sealed: memoryview, counter: int, offset: int, room: memoryview) -> int:
        """Decrypt into `room` and check for replay. Returns the padded size; 0: a keepalive, or dropped."""
        if self.decrypt_into is None:
            count_drop(self.drops, DropReason.EXPIRED_KEY)
            return 0
        try:
            size = self.decrypt_into((counter << 32).to_bytes(12, "little"), sealed, None, room)
        except InvalidTag:
            count_drop(self.drops, DropReason.INVALID_TAG)
            return 0
        if not self.accept(counter):
            count_drop(self.drops, DropReason.REPLAYED_COUNTER)
            return 0
        self.packets += 1
        self.datagram_bytes += size + OVERHEAD
        self.last_offset = offset
        if size:
            self.data_packets += 1
        return size

    def admit(self, allowed_ips: AllowedIPs, out: memoryview, start: int, size: int) -> int:
        """The length that the inner header states; 0, and counted, if that or the source is not right."""
        version = out[start] >> 4
        length = 0
        if version == 4 and size >= 20:
            length, source = _INNER_IPV4.unpack_from(out, start)
            if length < 20:
                length = 0
        elif version == 6 and size >= 40:
            length, source = _INNER_IPV6.unpack_from(out, start)
            length += 40
        if not 0 < length <= size:
            count_drop(self.drops, DropReason.MALFORMED_INNER_PACKET)
            return 0
        if source != self.source:
            if allowed_ips.lookup(source) != self.peer:
                count_drop(self.drops, DropReason.SOURCE_NOT_ALLOWED)
                return 0
            self.source = source
        return length

    def activity(self) -> Activity:
        return Activity(
            self.peer,
            self.session,
            self.packets,
            self.data_packets,
            self.datagram_bytes,
            self.last_offset,
        )


def _receiver(
    sessions: SessionTable, index: int, receivers: dict[int, _Receiver], drops: dict[DropReason, int]
) -> _Receiver | None:
    found = sessions.get(index)
    if found is None:
        return None
    receiver = receivers[index] = _Receiver(*found, drops)
    return receiver


def _sealer(session: Session) -> ChaCha20Poly1305:
    if session.sealer is None:
        raise SessionSpent
    return session.sealer


def _nonce(counter: int) -> bytes:
    """4 zero bytes, then the counter, little-endian."""
    return (counter << 32).to_bytes(12, "little")
