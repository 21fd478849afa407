"""ICMP echo over IPv4 (RFC 792): the request, and whether a packet is its reply.

0  1  type: 8 request, 0 reply
1  1  code 0
2  2  checksum of the message
4  2  identifier: whose
6  2  sequence number
8  …  data, which the reply repeats
"""

from __future__ import annotations

import struct
from typing import Final

from meshnode.dataplane.checksum import internet_checksum

__all__ = ["echo_request", "is_reply_untrusted"]

_HEADER = struct.Struct(">BBHHH")
_REQUEST: Final = 8
_REPLY: Final = 0


def echo_request(identifier: int, sequence: int, data: bytes) -> bytes:
    """An echo request. A ping socket puts its own identifier in."""
    checksum = internet_checksum(_HEADER.pack(_REQUEST, 0, 0, identifier, sequence) + data)
    return _HEADER.pack(_REQUEST, 0, checksum, identifier, sequence) + data


def is_reply_untrusted(packet: bytes, sequence: int, data: bytes, *, identifier: int | None = None) -> bool:
    """Whether a packet answers that request. With `identifier` it has an IP header: raw sockets."""
    if identifier is not None:
        packet = packet[(packet[0] & 0x0F) * 4 :] if packet else b""
    if len(packet) < _HEADER.size:
        return False
    kind, code, _, whose, number = _HEADER.unpack_from(packet)
    is_ours = identifier is None or whose == identifier
    return (kind, code, number) == (_REPLY, 0, sequence) and is_ours and packet[_HEADER.size :] == data
