"""The four messages of WireGuard (whitepaper 5.4.2 to 5.4.7). Integers are little-endian.

Every message begins with its type, one byte, and three reserved bytes that are zero: together one u32.

    handshake initiation, type 1, 148 bytes          handshake response, type 2, 92 bytes
      0   4  type                                      0   4  type
      4   4  sender index                              4   4  sender index
      8  32  ephemeral public key                      8   4  receiver index
     40  48  sealed static public key                 12  32  ephemeral public key
     88  28  sealed TAI64N timestamp                  44  16  sealed nothing
    116  16  mac1 over 0..115                         60  16  mac1 over 0..59
    132  16  mac2 over 0..131, or zeros               76  16  mac2 over 0..75, or zeros

    cookie reply, type 3, 64 bytes                   transport data, type 4, 32 bytes or more
      0   4  type                                      0   4  type
      4   4  receiver index                            4   4  receiver index
      8  24  nonce                                     8   8  counter
     32  32  sealed cookie                            16   …  sealed padded packet, empty for a keepalive

Transport data is the batch kernel's (`meshnode.dataplane`); it is described here for completeness.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

INITIATION: Final = 1
RESPONSE: Final = 2
COOKIE_REPLY: Final = 3
TRANSPORT_DATA: Final = 4

INITIATION_SIZE: Final = 148
RESPONSE_SIZE: Final = 92
COOKIE_REPLY_SIZE: Final = 64

MAC_SIZE: Final = 16
NO_MAC2: Final = bytes(MAC_SIZE)
MACS_SIZE: Final = 2 * MAC_SIZE
"""mac1 and mac2 end both handshake messages."""

SIZE_OF_TYPE: Final = {
    INITIATION: INITIATION_SIZE,
    RESPONSE: RESPONSE_SIZE,
    COOKIE_REPLY: COOKIE_REPLY_SIZE,
}

_TYPE: Final = struct.Struct("<I")
_INITIATION: Final = struct.Struct("<II32s48s28s16s16s")
_RESPONSE: Final = struct.Struct("<III32s16s16s16s")
_COOKIE_REPLY: Final = struct.Struct("<II24s32s")
assert _INITIATION.size == INITIATION_SIZE
assert _RESPONSE.size == RESPONSE_SIZE
assert _COOKIE_REPLY.size == COOKIE_REPLY_SIZE


class MalformedMessage(ValueError):
    """The bytes are not a message of the wanted type."""


class HandshakeInitiation(NamedTuple):
    """Type 1. `sealed_static` is allegedly the sender's public key."""

    sender_index: int
    ephemeral: bytes
    sealed_static: bytes
    sealed_timestamp: bytes
    mac1: bytes = NO_MAC2
    mac2: bytes = NO_MAC2

    def encode(self) -> bytes:
        return _INITIATION.pack(INITIATION, *self)


class HandshakeResponse(NamedTuple):
    """Type 2. `receiver_index` is the sender index of the initiation it answers."""

    sender_index: int
    receiver_index: int
    ephemeral: bytes
    sealed_nothing: bytes
    mac1: bytes = NO_MAC2
    mac2: bytes = NO_MAC2

    def encode(self) -> bytes:
        return _RESPONSE.pack(RESPONSE, *self)


class CookieReply(NamedTuple):
    """Type 3. `receiver_index` is the sender index of the message it answers."""

    receiver_index: int
    nonce: bytes
    sealed_cookie: bytes

    def encode(self) -> bytes:
        return _COOKIE_REPLY.pack(COOKIE_REPLY, *self)


def message_type(data: bytes | memoryview) -> int:
    """The u32 that a datagram begins with, 0 when it is shorter. Cannot fail."""
    kind: int = _TYPE.unpack_from(data)[0] if len(data) >= _TYPE.size else 0
    return kind


def sender_index_untrusted(data: bytes | memoryview) -> int:
    """The second u32 of an initiation or a response that has its length."""
    index: int = _TYPE.unpack_from(data, 4)[0]
    return index


def parse_initiation_untrusted(data: bytes) -> HandshakeInitiation:
    """Raises MalformedMessage and nothing else."""
    if len(data) != INITIATION_SIZE:
        raise MalformedMessage(f"an initiation has {INITIATION_SIZE} bytes, got {len(data)}")
    kind, *fields = _INITIATION.unpack(data)
    if kind != INITIATION:
        raise MalformedMessage("not an initiation")
    return HandshakeInitiation(*fields)


def parse_response_untrusted(data: bytes) -> HandshakeResponse:
    """Raises MalformedMessage and nothing else."""
    if len(data) != RESPONSE_SIZE:
        raise MalformedMessage(f"a response has {RESPONSE_SIZE} bytes, got {len(data)}")
    kind, *fields = _RESPONSE.unpack(data)
    if kind != RESPONSE:
        raise MalformedMessage("not a response")
    return HandshakeResponse(*fields)


def parse_cookie_reply_untrusted(data: bytes) -> CookieReply:
    """Raises MalformedMessage and nothing else."""
    if len(data) != COOKIE_REPLY_SIZE:
        raise MalformedMessage(f"a cookie reply has {COOKIE_REPLY_SIZE} bytes, got {len(data)}")
    kind, *fields = _COOKIE_REPLY.unpack(data)
    if kind != COOKIE_REPLY:
        raise MalformedMessage("not a cookie reply")
    return CookieReply(*fields)
