"""What the peers of one device have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from meshnode import dataplane
from meshnode.dataplane import DropReason
from meshnode.wireguard.constants import Timings
from meshnode.wireguard.events import Event, Outgoing
from meshnode.wireguard.index_table import IndexTable
from meshnode.wireguard.tai64n import TimestampSource
from meshproto.keys import NodePrivate

if TYPE_CHECKING:
    from meshnode.wireguard.keypairs import Keypair
    from meshnode.wireguard.peer import Peer

_JITTER_STEPS: Final = 1 << 32


class DeviceContext:
    """Identity, sources of time and chance, the tables by index, and the places where output collects."""

    __slots__ = (
        "_scratch",
        "datagrams",
        "drops",
        "entropy",
        "events",
        "indices",
        "max_unit",
        "mtu",
        "private",
        "sessions",
        "timestamps",
        "timings",
        "wall",
    )

    def __init__(
        self,
        private: NodePrivate,
        *,
        entropy: Callable[[int], bytes],
        wall: Callable[[], float],
        mtu: int,
        timings: Timings,
    ) -> None:
        self.private = private
        self.entropy = entropy
        self.wall = wall
        self.mtu = mtu
        self.max_unit = dataplane.MAX_UNIT_IPV6
        self.timings = timings
        self.timestamps = TimestampSource(wall)
        self.indices: IndexTable[Peer] = IndexTable(entropy)
        self.sessions = dataplane.SessionTable()
        self.datagrams: list[Outgoing] = []
        self.events: list[Event] = []
        self.drops: Counter[DropReason] = Counter()
        self._scratch = bytearray()

    def jitter(self) -> float:
        """Uniform in [0, max_jitter) seconds."""
        return int.from_bytes(self.entropy(4), "little") / _JITTER_STEPS * self.timings.max_jitter

    def retire(self, keypair: Keypair) -> None:
        """Make a keypair unusable, and its index free."""
        index = keypair.session.local_index
        self.sessions.delete(index)
        self.indices.free(index)
        keypair.session.wipe()

    def scratch(self) -> memoryview:
        """A buffer for sealing what waited; its content is good until the next use."""
        if not self._scratch:
            self._scratch = bytearray(dataplane.SEAL_BUFFER_SIZE)
        return memoryview(self._scratch)

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count packets that went no further."""
        if count:
            self.drops[reason] += count
