"""What waits to be sent on one connection, and what is dropped when that becomes too much.

While the socket takes everything, frames go straight through, in order. From the moment it does not:

- packets wait in two queues, disco and other, of QUEUE_PACKETS packets and QUEUE_BYTES each. A full queue
  drops its oldest: of packets in flight, the newest is worth most, and disco never waits behind data;
- presence waits as the latest word on each peer;
- one pong waits, and further pings are ignored;
- keep-alives are left out: there is something to send anyway.

So a reader that stops costs its own packets and a bounded amount of memory, and nobody else anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from derp.drops import DropReason, Kind
from derp.frames import KEEP_ALIVE, encode_packets

QUEUE_PACKETS = 128
"""Tailscale's relay has 32, but reads packet by packet; we read dozens at once, which must not overflow."""
QUEUE_BYTES = 32 * 65568
"""Binds only packets far larger than those of tunnels: as many of the largest as Tailscale's relay keeps.
Tailscale's probe of bandwidth sends hundreds of those in a row, and forgives no loss."""

OnDrop = Callable[[DropReason, Kind, int], None]
"""Called with the reason, the kind of packet and the bytes of its frame."""


class _Queue:
    """Bounded; drops the head."""

    __slots__ = ("_bytes", "_kind", "_max_packets", "frames")

    def __init__(self, kind: Kind, max_packets: int) -> None:
        self.frames: deque[bytes] = deque()
        self._kind = kind
        self._max_packets = max_packets
        self._bytes = 0

    def add(self, frame: bytes, on_drop: OnDrop) -> None:
        self.frames.append(frame)
        self._bytes += len(frame)
        while len(self.frames) > self._max_packets or self._bytes > QUEUE_BYTES:
            dropped = self.frames.popleft()
            self._bytes -= len(dropped)
            on_drop(DropReason.QUEUE_HEAD, self._kind, len(dropped))

    def drop_all(self, reason: DropReason, on_drop: OnDrop) -> None:
        for frame in self.frames:
            on_drop(reason, self._kind, len(frame))
        self.clear()

    def clear(self) -> None:
        self.frames.clear()
        self._bytes = 0


class Outbox:
    """See the module. `is_writable` says whether the socket takes everything."""

    __slots__ = ("_disco", "_on_drop", "_other", "_pong", "_ready", "_updates", "is_writable")

    def __init__(self, on_drop: OnDrop, queue_packets: int = QUEUE_PACKETS) -> None:
        self.is_writable = True
        self._on_drop = on_drop
        self._ready: list[bytes] = []
        self._pong: bytes | None = None
        self._disco = _Queue(Kind.DISCO, queue_packets)
        self._other = _Queue(Kind.OTHER, queue_packets)
        self._updates: dict[bytes, bytes] = {}

    def __bool__(self) -> bool:
        """Whether anything waits."""
        return bool(self._ready or self._pong or self._disco.frames or self._other.frames or self._updates)

    def add(self, frame: bytes) -> None:
        """A frame that must arrive; the caller sees to it that there are few of them."""
        self._ready.append(frame)

    def add_packet(self, frame: bytes, is_disco: bool) -> None:
        """A frame that may be dropped."""
        if self.is_writable:
            self._ready.append(frame)
        else:
            (self._disco if is_disco else self._other).add(frame, self._on_drop)

    def add_packets(
        self, kind: int, keys: bytes, packets: Sequence[bytes | memoryview], is_disco: bool
    ) -> None:
        """Packets as `encode_packets` has them, each of which may be dropped. They are copied."""
        if self.is_writable:
            self._ready.append(encode_packets(kind, keys, packets))
        else:
            for packet in packets:
                self.add_packet(encode_packets(kind, keys, (packet,)), is_disco)

    def add_update(self, key: bytes, frame: bytes) -> None:
        """A frame that makes an earlier one with the same `key`, still waiting, pointless."""
        self._updates.pop(key, None)
        self._updates[key] = frame

    def add_pong(self, frame: bytes) -> None:
        if self._pong is None:
            self._pong = frame

    def add_keep_alive(self) -> None:
        if self.is_writable:
            self._ready.append(KEEP_ALIVE)

    def take(self) -> bytes:
        """Everything that waits, in one piece: what must arrive, disco, data, what became of peers."""
        frames = self._ready
        self._ready = []
        if self._pong is not None:
            frames.append(self._pong)
            self._pong = None
        for queue in (self._disco, self._other):
            if queue.frames:
                frames += queue.frames
                queue.clear()
        if self._updates:
            frames += self._updates.values()
            self._updates = {}
        return b"".join(frames)

    def discard(self) -> None:
        """The connection is over: count what nobody will receive."""
        for queue in (self._disco, self._other):
            queue.drop_all(DropReason.GONE_DISCONNECTED, self._on_drop)
        self._ready = []
        self._updates = {}
        self._pong = None
