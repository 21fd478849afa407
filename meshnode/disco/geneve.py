"""The Geneve header in front of what goes through a peer relay (reference §2.3; RFC 8926 §3.4).

0   1  version, 2 bits, 0 ‖ length of options, 6 bits, 0
1   1  0x80: control, between a client and the relay itself; 0: relayed between two clients
2   2  protocol: 0x7A11 disco, 0x7A12 WireGuard
4   3  VNI, the virtual network: a pair of clients
7   1  0
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

HEADER_SIZE: Final = 8
DISCO: Final = 0x7A11
WIREGUARD: Final = 0x7A12
MAX_VNI: Final = (1 << 24) - 1

_HEADER: Final = struct.Struct(">BBHI")
_CONTROL: Final = 0x80
_VERSION: Final = 0xC0
_RESERVED_FLAGS: Final = 0x3F
assert _HEADER.size == HEADER_SIZE


class GeneveHeader(NamedTuple):
    """`vni` is 1 to MAX_VNI."""

    protocol: int
    vni: int
    is_control: bool = False

    def encode(self) -> bytes:
        return _HEADER.pack(0, _CONTROL if self.is_control else 0, self.protocol, self.vni << 8)


def read_header(datagram: bytes | memoryview) -> GeneveHeader | None:
    """The header of a datagram, None when it does not begin with one of our two protocols. Cannot fail.

    A reserved bit that is set makes it something else. The length of options is not looked at: nobody sends
    any, and the test must agree with the field's (reference §2.4).
    """
    if len(datagram) < HEADER_SIZE:
        return None
    first, flags, protocol, rest = _HEADER.unpack_from(datagram)
    if first & _VERSION or flags & _RESERVED_FLAGS or rest & 0xFF or protocol not in (DISCO, WIREGUARD):
        return None
    return GeneveHeader(protocol, rest >> 8, bool(flags & _CONTROL))
