"""From opened packets to superpackets that the tunnel device takes in one write (reference §5.6).

A flow is a protocol, two addresses and two ports. A packet joins only the latest item of its flow; one that
cannot be merged ends its flow's item, or every flow's when it does not show its flow. So nothing of a flow
overtakes anything else of it, except that a TCP segment may go before the group that it immediately
precedes. Items leave in the order of their first packet.

Packets lie in the caller's buffer, each behind HEADER_SIZE bytes of room. A packet that joins the last item
is moved up to it, so that a bulk transfer ends as one contiguous unit; joining an earlier item leaves
pieces apart, and `finish` puts them together.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Final

from meshnode.dataplane import virtio
from meshnode.dataplane.checksum import complement, congruent_sum, fold
from meshnode.dataplane.types import MAX_UNIT_SEGMENTS, Coalescing

__all__ = ["Coalescer"]

MAX_SUPERPACKET: Final = 65535
"""Bytes of a merged packet: what the length fields hold."""

_U16: Final = struct.Struct(">H")
_BOTH: Final = Coalescing.TCP | Coalescing.UDP
_FRAGMENT: Final = 0x3FFF  # more-fragments flag and fragment offset


class _Shape:
    """Where things are in headers of one kind, for headers read as one big-endian integer."""

    __slots__ = (
        "csum_offset",
        "gso_type",
        "header_size",
        "ip_shift",
        "mask",
        "max_count",
        "protocol",
        "psh",
        "sequence_shift",
        "start",
        "transport_mask",
    )

    def __init__(self, start: int, header_size: int, protocol: int) -> None:
        is_tcp = protocol == virtio.TCP
        self.start = start
        self.header_size = header_size
        self.protocol = protocol
        self.gso_type = (
            (virtio.GSO_TCPV4 if start == 20 else virtio.GSO_TCPV6) if is_tcp else virtio.GSO_UDP_L4
        )
        self.csum_offset = virtio.TCP_CSUM_OFFSET if is_tcp else virtio.UDP_CSUM_OFFSET
        self.max_count = MAX_SUPERPACKET if is_tcp else MAX_UNIT_SEGMENTS
        self.sequence_shift = 8 * (header_size - start - 8)
        self.psh = virtio.TCP_PSH << 8 * (header_size - start - 14) if is_tcp else 0
        self.transport_mask = (1 << 8 * (header_size - start)) - 1
        self.ip_shift = 8 * (header_size - start) if start == 20 else 0
        self.mask = self._mask()
        """The bits that are equal in all headers of a group."""

    def _mask(self) -> int:
        mask = bytearray(b"\xff" * self.header_size)
        if self.start == 20:
            mask[2:6] = bytes(4)  # total length, identification
            mask[10:12] = bytes(2)  # checksum
        else:
            mask[1:6] = b"\xf0\0\0\0\0"  # flow label, payload length
        transport = self.start
        mask[transport + 4 : transport + 8] = bytes(4)  # TCP sequence; UDP length and checksum
        if self.protocol == virtio.TCP:
            mask[transport + 13] = 0xFF & ~virtio.TCP_PSH
            mask[transport + 14 : transport + 20] = bytes(6)  # window, checksum, urgent pointer
        return int.from_bytes(mask, "big")

    def is_intact(self, header: int, pseudo_sum: int, payload: memoryview) -> bool:
        """True when the checksums of a packet verify: the transport's and, in IPv4, the header's."""
        if self.ip_shift and (header >> self.ip_shift) % 65535:
            return False
        if self.protocol == virtio.UDP and not header & 0xFFFF:
            return self.start == 20  # the sender used none, which only IPv4 permits (RFC 768)
        length = self.header_size - self.start + len(payload)
        return not (congruent_sum(payload) + (header & self.transport_mask) + pseudo_sum + length) % 65535


_shape = lru_cache(maxsize=64)(_Shape)


class _Group:
    """A packet, and those that were merged with it."""

    __slots__ = (
        "count",
        "end",
        "gso_size",
        "has_psh",
        "is_closed",
        "is_verified",
        "masked",
        "more",
        "next_sequence",
        "offset",
        "payload_size",
        "pseudo_sum",
        "sequence",
        "shape",
    )

    def __init__(self, shape: _Shape, header: int, pseudo_sum: int, offset: int, length: int) -> None:
        self.shape = shape
        self.masked = header & shape.mask
        self.pseudo_sum = pseudo_sum
        self.offset = offset
        self.end = offset + length
        self.more: list[tuple[int, int]] = []  # (from, to) of payload that does not follow `end` directly
        self.count = 1
        self.payload_size = self.gso_size = length - shape.header_size
        self.sequence = header >> shape.sequence_shift & 0xFFFFFFFF
        self.next_sequence = self.sequence + self.payload_size & 0xFFFFFFFF
        self.has_psh = self.is_closed = bool(header & shape.psh)
        self.is_verified = False


class Coalescer:
    """The packets of one batch. Give each to `add` as soon as it lies in the buffer, then call `finish`."""

    __slots__ = ("_end", "_items", "_last", "_merge_tcp", "_merge_udp", "_open", "_out")

    def __init__(self, out: memoryview, coalescing: Coalescing) -> None:
        self._out = out
        # Comparing costs a tenth of the arithmetic of enum.Flag, and this is done for every receive.
        self._merge_tcp = coalescing == Coalescing.TCP or coalescing == _BOTH
        self._merge_udp = coalescing == Coalescing.UDP or coalescing == _BOTH
        self._items: list[_Group | tuple[int, int]] = []  # (offset, length) when it cannot be merged
        self._open: dict[tuple[int, bytes], _Group] = {}  # the latest item of each flow
        self._last: _Group | None = None  # the last item, if something may join it
        self._end = 0

    def add(self, offset: int, length: int) -> int:
        """Take the IP packet of `length` bytes at `offset`. Returns where the used part of `out` ends.

        The next packet must lie HEADER_SIZE bytes or more behind that.
        """
        last = self._last
        if last is not None:
            shape = last.shape
            if length > shape.header_size:
                header = int.from_bytes(self._out[offset : offset + shape.header_size], "big")
                if header & shape.mask == last.masked and self._join(last, header, offset, length):
                    return self._end
        if self._merge_tcp or self._merge_udp:
            self._last = self._place(offset, length)
        else:
            self._items.append((offset, length))
            self._end = offset + length
        return self._end

    def finish(self) -> list[tuple[int, int]]:
        """Write the offload headers. Returns (offset, length) of each unit, offload header included."""
        units = []
        is_scattered = False
        for item in self._items:
            if isinstance(item, tuple):
                offset, length = item
                header = virtio.NO_OFFLOAD
            else:
                offset, length = item.offset, item.end - item.offset
                header = self._finish_group(item) if item.count > 1 else virtio.NO_OFFLOAD
                is_scattered = is_scattered or bool(item.more)
            start = offset - virtio.HEADER_SIZE
            self._out[start:offset] = header
            units.append((start, length + virtio.HEADER_SIZE))
        return self._gather(units) if is_scattered else units

    # --- where a packet goes ---

    def _place(self, offset: int, length: int) -> _Group | None:
        """Let the packet join its flow's latest item, or become an item; return it if others may join it."""
        flow, shape = self._classify(offset, length)
        if flow is None:
            self._open.clear()
        elif shape is not None:
            header = int.from_bytes(self._out[offset : offset + shape.header_size], "big")
            group = self._open.get(flow)
            if (
                group is not None
                and group is not self._last
                and group.shape is shape
                and header & shape.mask == group.masked
                and self._join(group, header, offset, length)
            ):
                return self._last
            pseudo_sum = congruent_sum(flow[1][:-4]) + flow[0]
            group = self._open[flow] = _Group(shape, header, pseudo_sum, offset, length)
            self._items.append(group)
            self._end = group.end
            return group
        else:
            self._open.pop(flow, None)
        self._items.append((offset, length))
        self._end = offset + length
        return None

    def _classify(self, offset: int, length: int) -> tuple[tuple[int, bytes] | None, _Shape | None]:
        """The flow, None when the packet does not show it, and the shape, None when it cannot be merged."""
        out = self._out
        first = out[offset]
        if first == 0x45:
            start, addresses, protocol = 20, offset + 12, out[offset + 9]
            if (out[offset + 6] << 8 | out[offset + 7]) & _FRAGMENT:
                return None, None
        elif first >> 4 == 6:
            start, addresses, protocol = 40, offset + 8, out[offset + 6]
        else:
            return None, None
        transport = offset + start
        if protocol == virtio.TCP and length >= start + 20:
            header_size = start + (out[transport + 12] >> 4) * 4
            may_merge = (
                self._merge_tcp
                and out[transport + 13] & ~virtio.TCP_PSH == virtio.TCP_ACK
                and header_size >= start + 20
            )
        elif protocol == virtio.UDP and length >= start + 8:
            header_size = start + virtio.UDP_HEADER_SIZE
            may_merge = self._merge_udp and (out[transport + 4] << 8 | out[transport + 5]) == length - start
        else:
            return None, None
        flow = (protocol, bytes(out[addresses : transport + 4]))
        return flow, _shape(start, header_size, protocol) if may_merge and header_size < length else None

    # --- merging ---

    def _join(self, group: _Group, header: int, offset: int, length: int) -> bool:
        """Merge the packet into `group`, whose masked header it has. False, with nothing changed, or True."""
        shape = group.shape
        size = length - shape.header_size
        is_before = False
        if shape.protocol == virtio.TCP:
            sequence = header >> shape.sequence_shift & 0xFFFFFFFF
            if sequence != group.next_sequence:
                if (sequence + size ^ group.sequence) & 0xFFFFFFFF:
                    return False
                is_before = True
        elif header >> 16 & 0xFFFF != length - shape.start:
            return False
        if is_before:
            fits = not header & shape.psh and (
                size == group.gso_size or (size > group.gso_size and group.count == 1)
            )
        else:
            fits = not group.is_closed and size <= group.gso_size
        total = group.payload_size + size
        if not fits or group.count >= shape.max_count or shape.header_size + total > MAX_SUPERPACKET:
            return False
        payload = self._out[offset + shape.header_size : offset + length]
        if not (group.is_verified or self._verify(group)):
            return False
        if not shape.is_intact(header, group.pseudo_sum, payload):
            return False
        group.count += 1
        group.payload_size = total
        if is_before:
            self._prepend(group, header, offset, length)
        else:
            self._append(group, header, offset, payload)
        return True

    def _verify(self, group: _Group) -> bool:
        """Check the first packet of a group when a second comes: a corrupt one stays alone and as it is."""
        out, shape = self._out, group.shape
        middle = group.offset + shape.header_size
        header = int.from_bytes(out[group.offset : middle], "big")
        group.is_verified = shape.is_intact(header, group.pseudo_sum, out[middle : group.end])
        return group.is_verified

    def _append(self, group: _Group, header: int, offset: int, payload: memoryview) -> None:
        size = len(payload)
        group.next_sequence = group.next_sequence + size & 0xFFFFFFFF
        if header & group.shape.psh:
            group.has_psh = group.is_closed = True
        elif size < group.gso_size:
            group.is_closed = True
        if group.end == self._end and not group.more:
            group.end = self._end = group.end + size
            self._out[group.end - size : group.end] = payload
        else:
            start = offset + group.shape.header_size
            self._end = start + size
            group.more.append((start, self._end))

    def _prepend(self, group: _Group, header: int, offset: int, length: int) -> None:
        header_size = group.shape.header_size
        size = length - header_size
        group.is_closed = group.is_closed or size > group.gso_size
        group.gso_size = size
        group.sequence = header >> group.shape.sequence_shift & 0xFFFFFFFF
        group.more.insert(0, (group.offset + header_size, group.end))
        group.offset = offset
        group.end = self._end = offset + length

    # --- the result ---

    def _finish_group(self, group: _Group) -> bytes:
        """Make the first packet's headers those of the superpacket. Returns the offload header."""
        out, shape, at = self._out, group.shape, group.offset
        total = shape.header_size + group.payload_size
        transport = at + shape.start
        if shape.start == 20:
            _U16.pack_into(out, at + 2, total)
            _U16.pack_into(out, at + 10, 0)
            _U16.pack_into(out, at + 10, complement(congruent_sum(out[at:transport])))
        else:
            _U16.pack_into(out, at + 4, total - 40)
        if shape.protocol == virtio.UDP:
            _U16.pack_into(out, transport + 4, total - shape.start)
        elif group.has_psh:
            out[transport + 13] |= virtio.TCP_PSH
        pseudo_sum = fold(group.pseudo_sum + total - shape.start)
        _U16.pack_into(out, transport + shape.csum_offset, pseudo_sum)
        return virtio.HEADER.pack(
            virtio.NEEDS_CSUM,
            shape.gso_type,
            shape.header_size,
            group.gso_size,
            shape.start,
            shape.csum_offset,
        )

    def _gather(self, units: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Put the pieces of every item side by side, from the start of the buffer."""
        out = self._out
        gathered = []
        chunks: list[memoryview] = []
        end = 0
        for item, (offset, length) in zip(self._items, units, strict=True):
            chunks.append(out[offset : offset + length])
            if isinstance(item, _Group):
                chunks.extend([out[start:stop] for start, stop in item.more])
                length += sum([stop - start for start, stop in item.more])
            gathered.append((end, length))
            end += length
        out[:end] = b"".join(chunks)
        return gathered
