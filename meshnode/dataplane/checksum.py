"""The Internet checksum (RFC 1071) with Python's integers.

2**16 is 1 modulo 65535, so bytes read as one big integer are congruent to the sum of their 16-bit words.
"""

from __future__ import annotations

__all__ = ["internet_checksum", "ones_complement_sum"]


def ones_complement_sum(data: bytes | memoryview, initial: int = 0) -> int:
    """The folded sum of the big-endian words of `data` and `initial`. An odd last byte is a word's high byte.

    All-zero input gives 0, everything else 1..65535.
    """
    total = int.from_bytes(data, "big")
    if len(data) & 1:
        total <<= 8
    total += initial
    return (total - 1) % 65535 + 1 if total else 0


def internet_checksum(data: bytes | memoryview, initial: int = 0) -> int:
    """What goes into the checksum field."""
    return 65535 - ones_complement_sum(data, initial)
