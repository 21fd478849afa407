"""The tunnel device for the engine: what it can do, and writes whose failure stops nothing.

The fast path reads it (`meshnode.engine.fast_path`), and writes what it takes at once.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import Final

from meshnode.dataplane import Coalescing
from meshnode.dataplane.segmentation import Superpacket
from meshnode.dataplane.virtio import GSO_NONE, GSO_UDP_L4, NO_OFFLOAD
from meshnode.linux.tun_device import TunDevice

__all__ = ["Tun"]

MAX_REFUSED: Final = 3
"""Merged packets that the kernel refuses before merging is given up: some get it wrong (reference §5.10)."""

log = logging.getLogger(__name__)


class Tun:
    """Owns the device. `coalescing` says what `write` may be given; it narrows when the kernel refuses."""

    def __init__(self, device: TunDevice, *, coalesce_tcp: bool = True, coalesce_udp: bool = True) -> None:
        """Switch merging off where a kernel is known to get it wrong (reference §5.10)."""
        self._device = device
        self._refused = 0
        # The kernel takes merged TCP whatever was negotiated; merged UDP only if it knows USO.
        self.coalescing = Coalescing.TCP if coalesce_tcp else Coalescing.NONE
        if coalesce_udp and device.udp_offload:
            self.coalescing |= Coalescing.UDP

    @property
    def name(self) -> str:
        return self._device.name

    @property
    def tcp_offload(self) -> bool:
        """Reads may give TCP superpackets."""
        return self._device.tcp_offload

    @property
    def udp_offload(self) -> bool:
        """Reads may give UDP superpackets."""
        return self._device.udp_offload

    def fileno(self) -> int:
        return self._device.fd

    def write(self, unit: memoryview) -> int:
        """Write one unit. Returns how many packets of it the kernel did not take: they are lost.

        The interface may be down (EIO), its queue full (EAGAIN), a packet malformed (EINVAL): nothing to
        wait for.
        """
        try:
            os.write(self._device.fd, unit)
        except OSError as error:
            if error.errno == errno.EINVAL and unit[1] != GSO_NONE:
                return self._write_singly(unit)
            return 1
        return 0

    def close(self) -> None:
        """Close the device, which removes the interface. Safe to call again."""
        self._device.close()

    def _write_singly(self, unit: memoryview) -> int:
        """The kernel refused a merged packet: write what it was merged from."""
        self._refused += 1
        if self._refused == MAX_REFUSED:
            self.coalescing &= ~(Coalescing.UDP if unit[1] == GSO_UDP_L4 else Coalescing.TCP)
            self._refused = 0
            log.warning("%s refuses merged packets; from now on they are written one by one", self.name)
        superpacket = Superpacket(unit)
        lost = 0
        for segment in superpacket.segments(superpacket.segment_size, superpacket.last_size):
            try:
                os.writev(self._device.fd, [NO_OFFLOAD, segment])
            except OSError:
                lost += 1
        return lost
