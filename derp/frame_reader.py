"""Cuts what arrives on a connection into frames, and packets into runs of the same kind.

A tunnel's datagrams come dozens in a row, equally long and for the same node, so what a relay or a node does
with them it does once for the row: look at the first, compare the others with it, and cut.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from derp.frames import DISCO_MAGIC, HEADER, HEADER_SIZE, Frame, FrameError

MAX_RUN_BYTES: Final = 65535
"""Of the frames in one run, unless it is a single one: what a node's data plane takes at once."""
_ALIKE_SIZE: Final = 4
"""Bytes of a packet that are the same in all of a run, so its kind is too: a WireGuard message's type."""


class Packets(NamedTuple):
    """Packets in a row with the same keys in front. At least one, and one only if it is of disco.

    They are of one length, but the last may be shorter.
    """

    kind: int
    keys: bytes
    packets: list[bytes]


class FrameReader:
    """Cuts a stream into frames. Keeps at most one unfinished frame, within its limit.

    `limits` has the largest payload of each type that is of interest. Other types are skipped without being
    kept, and counted in `skipped`, as long as they are not larger than `max_skipped`. `packet_keys` has how
    many bytes of keys are in front of the packet in each type that comes as Packets.
    """

    def __init__(
        self,
        limits: Mapping[int, int],
        max_skipped: int = 2**32 - 1,
        packet_keys: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        self.skipped = 0
        self._limits = limits
        self._packet_keys = packet_keys
        self._max_skipped = max_skipped
        self._rest = b""  # a frame's beginning
        self._more: list[bytes] = []  # what came after it
        self._size = 0  # of both
        self._needed = HEADER_SIZE
        self._to_skip = 0

    def receive_data(self, data: bytes) -> list[Frame | Packets]:
        """The frames that `data` completes. Raises FrameError; the reader is of no use afterwards."""
        if self._size:
            self._more.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return []  # collected, not joined: a frame in many small pieces is copied once
            data = b"".join((self._rest, *self._more))
            self._more = []
        return self._cut(data)

    def _cut(self, data: bytes) -> list[Frame | Packets]:
        frames: list[Frame | Packets] = []
        start = min(self._to_skip, len(data))
        self._to_skip -= start
        end = len(data)
        needed = HEADER_SIZE
        while end - start >= HEADER_SIZE:
            kind, length = HEADER.unpack_from(data, start)
            body = start + HEADER_SIZE
            if length > self._limits.get(kind, -1):
                start = self._skip(kind, length, body, end)
            elif body + length > end:
                needed = HEADER_SIZE + length
                break
            elif kind not in self._packet_keys:
                start = body + length
                frames.append((kind, data[body:start]))
            elif body + length == end and length >= (keys_size := self._packet_keys[kind]):
                # The last, and mostly on its own: it does not wait for a search of others.
                start, packet = end, body + keys_size
                frames.append(Packets(kind, data[body:packet], [data[packet:]]))
            else:
                packets, start = _cut_packets(data, start, length, self._packet_keys[kind])
                frames.append(packets)
        self._rest = data[start:]
        self._size = end - start
        self._needed = needed
        return frames

    def _skip(self, kind: int, length: int, body: int, end: int) -> int:
        """Where the next frame begins. Raises FrameError if this one is of interest, or too large to skip."""
        if kind in self._limits or length > self._max_skipped:
            raise FrameError(f"frame of type {kind:#04x} with {length} bytes")
        self.skipped += 1
        self._to_skip = max(0, body + length - end)
        return min(body + length, end)


def _cut_packets(data: bytes, start: int, length: int, keys_size: int) -> tuple[Packets, int]:
    """The run that begins with the frame at `start`, which is all there and has `length` bytes of payload.

    Returns it and where the next frame begins. Raises FrameError if the keys are cut short.
    """
    if length < keys_size:
        raise FrameError(f"frame of type {data[start]:#04x} without its keys")
    kind, body = data[start], start + HEADER_SIZE
    packet, stop = body + keys_size, body + length
    size = HEADER_SIZE + length
    keys, first = data[body:packet], data[packet : packet + _ALIKE_SIZE]
    if length < keys_size + _ALIKE_SIZE or DISCO_MAGIC.startswith(first):
        return Packets(kind, keys, [data[packet:stop]]), stop
    end = min(len(data), start + MAX_RUN_BYTES)
    head = data[start : packet + _ALIKE_SIZE]
    while stop + size <= end and data.startswith(head, stop):
        stop += size
    offset = HEADER_SIZE + keys_size
    packets = [data[at + offset : at + size] for at in range(start, stop, size)]
    if stop + len(head) <= end and data[stop] == kind and data.startswith(keys + first, stop + HEADER_SIZE):
        _, shorter = HEADER.unpack_from(data, stop)
        after = stop + HEADER_SIZE + shorter
        if keys_size + _ALIKE_SIZE <= shorter < length and after <= end:
            packets.append(data[stop + offset : after])
            stop = after
    return Packets(kind, keys, packets), stop
