"""The Internet checksum (RFC 1071) with Python's integers.

2**16 is 1 modulo 65535, so bytes read as one big integer are congruent to the sum of their 16-bit words,
and so are its halves added to each other. Sums stay unreduced until the last step: one division by 65535
per packet.
"""

from __future__ import annotations

from typing import Final

__all__ = ["complement", "congruent_sum", "fold", "internet_checksum", "ones_complement_sum"]

# Two foldings of an integer of 10240 bits (a packet of 1280 bytes), each to half its size, cost less than the
# division of what they take away. Multiples of 16 bits.
_HALF: Final = 5120
_HALF_MASK: Final = (1 << _HALF) - 1
_QUARTER: Final = 2560
_QUARTER_MASK: Final = (1 << _QUARTER) - 1
_FOLD_FROM_BYTES: Final = 512


def congruent_sum(data: bytes | memoryview) -> int:
    """An integer congruent, modulo 65535, to the sum of the big-endian words of `data`; 0 only for zeroes.

    The last byte of an odd number of bytes is the high byte of a word.
    """
    total = int.from_bytes(data, "big")
    length = len(data)
    if length & 1:
        total <<= 8
    if length >= _FOLD_FROM_BYTES:
        total = (total & _HALF_MASK) + (total >> _HALF)
        total = (total & _QUARTER_MASK) + (total >> _QUARTER)
    return total


def fold(total: int) -> int:
    """The 16-bit one's-complement form of a congruent sum: 0 for 0, else 1..65535."""
    return (total - 1) % 65535 + 1 if total else 0


def complement(total: int) -> int:
    """The checksum field for a congruent sum > 0: 0..65534."""
    return 65534 - (total - 1) % 65535


def ones_complement_sum(data: bytes | memoryview) -> int:
    """The folded sum of the words of `data`."""
    return fold(congruent_sum(data))


def internet_checksum(data: bytes | memoryview) -> int:
    """What goes into the checksum field over `data`."""
    return 65535 - ones_complement_sum(data)
