"""The two implementations of the batch kernel under one shape, with their parts, for the tests of both.

Where `meshnode._native` was not built, or MESHNODE_PURE is set, there is only the Python one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from meshnode.dataplane import allowed_ips, checksum, coalescing, gate, reference, replay, sessions
from meshnode.dataplane.segmentation import Superpacket
from meshnode.dataplane.types import Coalescing, Opened, Unit

try:
    from meshnode import _native
except ImportError:
    _native = None

EVERYTHING = Coalescing.TCP | Coalescing.UDP


@dataclass(frozen=True, eq=False)
class Kernel:
    """The names of one implementation."""

    name: str
    Session: Any
    SessionTable: Any
    AllowedIPs: Any
    ReplayWindow: Any
    Coalescer: Any
    Gate: Any
    route: Callable[[Any, memoryview], int]
    seal_packet: Callable[[Any, bytes, int], bytes]
    seal_superpacket: Callable[[Any, memoryview, memoryview, int, int], list[Unit]]
    open_batch: Callable[..., Opened]
    segments: Callable[[bytes], list[bytes]]
    padding: Callable[[int, int], int]
    ones_complement_sum: Callable[[bytes], int]
    internet_checksum: Callable[[bytes], int]

    def coalesce(self, inner: Sequence[bytes], coalescing: Coalescing = EVERYTHING) -> list[bytes]:
        """The units, offload header included, that `inner` becomes."""
        out = bytearray(b"\xee" * (sum(map(len, inner)) + 10 * len(inner) + 100))
        coalescer = self.Coalescer(memoryview(out), coalescing)
        end = 0
        for packet in inner:
            start = end + 10
            out[start : start + len(packet)] = packet
            end = coalescer.add(start, len(packet))
            assert end <= start + len(packet)
        return [bytes(out[offset : offset + length]) for offset, length in coalescer.finish()]


def cut(read: bytes) -> list[bytes]:
    """The packets that one TUN read stands for. Raises MalformedSuperpacket."""
    superpacket = Superpacket(memoryview(read))
    segments = superpacket.segments(superpacket.segment_size, superpacket.last_size)
    return [bytes(segment) for segment in segments]


PURE = Kernel(
    "pure",
    sessions.Session,
    sessions.SessionTable,
    allowed_ips.AllowedIPs,
    replay.ReplayWindow,
    coalescing.Coalescer,
    gate.Gate,
    reference.route,
    reference.seal_packet,
    reference.seal_superpacket,
    reference.open_batch,
    cut,
    reference.padding,
    checksum.ones_complement_sum,
    checksum.internet_checksum,
)

NATIVE = _native and Kernel(
    "native",
    _native.Session,
    _native.SessionTable,
    _native.AllowedIPs,
    _native.ReplayWindow,
    _native.Coalescer,
    _native.Gate,
    _native.route,
    _native.seal_packet,
    _native.seal_superpacket,
    _native.open_batch,
    _native.segments,
    _native.padding,
    _native.ones_complement_sum,
    _native.internet_checksum,
)

KERNELS = [PURE, NATIVE] if NATIVE else [PURE]
