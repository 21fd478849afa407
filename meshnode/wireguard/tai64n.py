"""TAI64N, the timestamp of a handshake initiation (reference §1.7).

12 bytes: u64 big-endian 2**62 + 10 + unix seconds, u32 big-endian nanoseconds. A peer accepts only
initiations whose timestamp is greater, as bytes, than all it accepted from us before. The nanoseconds are
rounded down to a multiple of 2**24, about 1/60 s, so that the stamp does not disclose a precise clock.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

SIZE: Final = 12
_EPOCH: Final = 0x400000000000000A
_SLOT: Final = 1 << 24  # nanoseconds; the greatest power of two not above 1 s / 50
_NANOSECONDS: Final = 1_000_000_000
_STAMP: Final = struct.Struct(">QI")
assert _STAMP.size == SIZE


def encode(seconds: int, nanoseconds: int) -> bytes:
    """The whitened stamp of a unix time, `nanoseconds` below 10**9."""
    return _STAMP.pack(_EPOCH + seconds, nanoseconds - nanoseconds % _SLOT)


def following(stamp: bytes) -> bytes:
    """The least whitened stamp after `stamp`."""
    seconds, nanoseconds = _STAMP.unpack(stamp)
    nanoseconds += _SLOT
    if nanoseconds < _NANOSECONDS:
        return _STAMP.pack(seconds, nanoseconds)
    return _STAMP.pack(seconds + 1, 0)


class TimestampSource:
    """Stamps that never go back, whatever the wall clock does.

    After a restart nothing is remembered: should the clock have gone back meanwhile, peers refuse us until
    it has caught up. No implementation does better, and a stored stamp would be wrong for ever after a
    clock far ahead.
    """

    __slots__ = ("_last", "_wall")

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._last = bytes(SIZE)

    def stamp(self, after: bytes = b"") -> bytes:
        """A stamp of now that is greater than `after`, the last one sent to the same peer."""
        now = max(0, int(self._wall() * _NANOSECONDS))
        stamp = max(encode(*divmod(now, _NANOSECONDS)), self._last)
        if stamp <= after:
            stamp = following(after)
        self._last = max(stamp, self._last)
        return stamp
