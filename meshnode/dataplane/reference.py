"""The batch kernel in Python: the definition of correct."""

from __future__ import annotations

import struct
from typing import Final

from meshnode.dataplane import virtio
from meshnode.dataplane.allowed_ips import AllowedIPs
from meshnode.dataplane.drops import DropReason, count_drop
from meshnode.dataplane.sessions import Session, SessionSpent, SessionTable
from meshnode.dataplane.types import NO_PEER, Activity, Coalescing, Opened, Unit
from meshproto.primitives import InvalidTag

OVERHEAD: Final = 32
TRANSPORT_PREFIX: Final = b"\x04\0\0\0"
_HEADER: Final = struct.Struct("<4sIQ")


def route(allowed_ips: AllowedIPs, packet: memoryview) -> int:
    """The peer that owns the destination of one TUN read; NO_PEER when nobody does or it is no IP packet."""
    version = packet[10] >> 4 if len(packet) >= 30 else 0
    if version == 4:
        return allowed_ips.lookup(bytes(packet[26:30]))
    if version == 6 and len(packet) >= 50:
        return allowed_ips.lookup(bytes(packet[34:50]))
    return NO_PEER


def padding(length: int, mtu: int) -> int:
    """Zero bytes after a packet of `length` bytes before it is sealed (reference §2.2)."""
    last = length if length <= mtu or not mtu else length % mtu
    padded = last + 15 & ~15
    return (min(padded, mtu) if mtu else padded) - last


def seal_packet(session: Session, plaintext: bytes | memoryview, mtu: int) -> bytes:
    """One IP packet (nothing: a keepalive) as one datagram. Raises SessionSpent."""
    counter = session.reserve(1)
    if session.sealer is None:
        raise SessionSpent
    padded = bytes(plaintext) + bytes(padding(len(plaintext), mtu))
    sealed = session.sealer.encrypt((counter << 32).to_bytes(12, "little"), padded, None)
    return session.header_prefix + counter.to_bytes(8, "little") + sealed


def seal_superpacket(
    session: Session, packet: memoryview, out: memoryview, mtu: int, max_unit: int
) -> list[Unit]:
    """Seal one TUN read."""
    datagram = seal_packet(session, packet[10:], mtu)
    out[: len(datagram)] = datagram
    return [Unit(0, len(datagram), len(datagram))]


def open_batch(
    sessions: SessionTable,
    allowed_ips: AllowedIPs,
    datagrams: memoryview,
    stride: int,
    out: memoryview,
    coalescing: Coalescing = Coalescing.TCP,
) -> Opened:
    """Open what one receive returned."""
    drops: dict[DropReason, int] = {}
    units: list[tuple[int, int]] = []
    other: list[tuple[int, int]] = []
    activity: dict[int, Activity] = {}
    end = 0
    total = len(datagrams)
    for offset in range(0, total, stride or total or 1):
        length = min(stride or total, total - offset)
        if length < 4 or bytes(datagrams[offset : offset + 4]) != TRANSPORT_PREFIX:
            other.append((offset, length))
            continue
        if length < OVERHEAD:
            count_drop(drops, DropReason.TOO_SHORT)
            continue
        _, index, counter = _HEADER.unpack_from(datagrams, offset)
        found = sessions.get(index)
        if found is None:
            count_drop(drops, DropReason.UNKNOWN_RECEIVER_INDEX)
            continue
        session, peer = found
        if session.opener is None:
            count_drop(drops, DropReason.EXPIRED_KEY)
            continue
        try:
            plain = session.opener.decrypt(
                (counter << 32).to_bytes(12, "little"), datagrams[offset + 16 : offset + length], None
            )
        except InvalidTag:
            count_drop(drops, DropReason.INVALID_TAG)
            continue
        if not session.replay.accept(counter):
            count_drop(drops, DropReason.REPLAYED_COUNTER)
            continue
        before = activity.get(index, Activity(peer, session, 0, 0, 0, 0))
        activity[index] = Activity(
            peer,
            session,
            before.packets + 1,
            before.data_packets + bool(plain),
            before.datagram_bytes + length,
            offset,
        )
        if not plain:
            continue
        ip = _trim(plain)
        if ip is None:
            count_drop(drops, DropReason.MALFORMED_INNER_PACKET)
            continue
        if allowed_ips.lookup(ip[12:16] if ip[0] >> 4 == 4 else ip[8:24]) != peer:
            count_drop(drops, DropReason.SOURCE_NOT_ALLOWED)
            continue
        unit = virtio.NO_OFFLOAD + ip
        out[end : end + len(unit)] = unit
        units.append((end, len(unit)))
        end += len(unit)
    return Opened(units, list(activity.values()), other, drops)


def _trim(plain: bytes) -> bytes | None:
    version = plain[0] >> 4
    if version == 4 and len(plain) >= 20:
        length = int.from_bytes(plain[2:4], "big")
        return plain[:length] if 20 <= length <= len(plain) else None
    if version == 6 and len(plain) >= 40:
        length = 40 + int.from_bytes(plain[4:6], "big")
        return plain[:length] if length <= len(plain) else None
    return None
