"""Packets that wait for a session (reference §3.6). Unsealed: a counter is given only when one leaves."""

from __future__ import annotations

from collections import deque

from meshnode.wireguard import constants


class StagedPackets:
    """A queue bounded in packets and in bytes; the oldest go first when it is full.

    A packet is one TUN read: up to 64 KiB, which is why counting packets is not enough.
    """

    __slots__ = ("_max_bytes", "_max_packets", "_packets", "size_bytes")

    def __init__(
        self,
        max_packets: int = constants.MAX_STAGED_PACKETS,
        max_bytes: int = constants.MAX_STAGED_BYTES,
    ) -> None:
        self._packets: deque[bytes] = deque()
        self._max_packets = max_packets
        self._max_bytes = max_bytes
        self.size_bytes = 0

    def append(self, packet: bytes) -> int:
        """Keep `packet`. Returns how many older ones had to go."""
        self._packets.append(packet)
        self.size_bytes += len(packet)
        dropped = 0
        while len(self._packets) > self._max_packets or self.size_bytes > self._max_bytes:
            self.size_bytes -= len(self._packets.popleft())
            dropped += 1
        return dropped

    def take_first(self) -> bytes:
        """Remove and return the oldest. Raises IndexError when there is none."""
        packet = self._packets.popleft()
        self.size_bytes -= len(packet)
        return packet

    def put_back(self, packet: bytes) -> None:
        """Undo `take_first`."""
        self._packets.appendleft(packet)
        self.size_bytes += len(packet)

    def clear(self) -> int:
        """Forget all. Returns how many there were."""
        count = len(self._packets)
        self._packets.clear()
        self.size_bytes = 0
        return count

    def __len__(self) -> int:
        return len(self._packets)
