"""What a relay counts. Plain numbers, so that a core can count; `metrics` gives them names for Prometheus."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from derp.drops import DropReason, Kind


@dataclass(slots=True)
class Counters:
    """Since the relay started."""

    accepts: int = 0
    logins_refused: int = 0
    packets_received_disco: int = 0
    packets_received_other: int = 0
    packets_sent: int = 0
    packets_forwarded_in: int = 0
    packets_forwarded_out: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    unknown_frames: int = 0
    home_moves_in: int = 0
    home_moves_out: int = 0
    pings_received: int = 0
    peer_gone_disconnected_frames: int = 0
    peer_gone_not_here_frames: int = 0
    duplicate_connections: int = 0
    write_timeouts: int = 0
    packets_dropped: Counter[tuple[DropReason, Kind]] = field(default_factory=Counter)
    bytes_dropped: Counter[tuple[DropReason, Kind]] = field(default_factory=Counter)

    def drop(self, reason: DropReason, kind: Kind, size: int, packets: int = 1) -> None:
        """`packets`, of `size` bytes together, go no further."""
        self.packets_dropped[reason, kind] += packets
        self.bytes_dropped[reason, kind] += size
