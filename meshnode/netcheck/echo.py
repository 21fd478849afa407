"""ICMP echo (RFC 792, RFC 4443 §4): the request, and whether a message is its reply.

0  1  type: 8 request and 0 reply over IPv4, 128 and 129 over IPv6
1  1  code 0
2  2  checksum of the message; over IPv6 the kernel puts it in, since it covers the addresses too
4  2  identifier: whose
6  2  sequence number
8  …  data, which the reply repeats
"""

from __future__ import annotations

import struct
from typing import Final

from meshnode.dataplane.checksum import internet_checksum

__all__ = ["echo_request", "ipv4_payload_untrusted", "is_reply_untrusted"]

_HEADER = struct.Struct(">BBHHH")
_REQUEST: Final = {4: 8, 6: 128}
_REPLY: Final = {4: 0, 6: 129}


def echo_request(version: int, identifier: int, sequence: int, data: bytes) -> bytes:
    """An echo request over that version of IP. A ping socket puts its own identifier in."""
    message = _HEADER.pack(_REQUEST[version], 0, 0, identifier, sequence) + data
    if version == 6:
        return message
    return message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]


def is_reply_untrusted(
    message: bytes, version: int, sequence: int, data: bytes, *, identifier: int | None
) -> bool:
    """Whether it answers that request. `identifier` is None for a ping socket, which gets only its own."""
    if len(message) < _HEADER.size:
        return False
    kind, code, _, whose, number = _HEADER.unpack_from(message)
    is_ours = identifier is None or whose == identifier
    return (
        (kind, code, number) == (_REPLY[version], 0, sequence) and is_ours and message[_HEADER.size :] == data
    )


def ipv4_payload_untrusted(packet: bytes) -> bytes:
    """What follows the IPv4 header of a packet, as a raw socket gives it; empty where there is nothing."""
    return packet[(packet[0] & 0x0F) * 4 :] if packet else b""
