"""TSMP, Tailscale's messages between nodes inside the tunnel: IP protocol 99. Here its ping and pong.

    ping:  "p", 8 bytes that the answer repeats
    pong:  "o", the 8 bytes, the port of the peer's API (2 bytes, big-endian; 0 for none; may be missing)

Other messages exist (a refused connection, a disco key), and more may come: what is not known is no error.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

PROTOCOL: Final = 99
"""IP protocol number."""
DATA_SIZE: Final = 8

_PING = struct.Struct(f">c{DATA_SIZE}s")
_PONG = struct.Struct(f">c{DATA_SIZE}sH")


@dataclass(frozen=True, slots=True)
class Ping:
    """Who gets it answers with a pong that has the same data."""

    data: bytes

    def encode(self) -> bytes:
        """The payload of the IP packet."""
        return _PING.pack(b"p", self.data)


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""

    data: bytes
    peer_api_port: int = 0

    def encode(self) -> bytes:
        """The payload of the IP packet."""
        return _PONG.pack(b"o", self.data, self.peer_api_port)


def parse_untrusted(payload: bytes) -> Ping | Pong | None:
    """A ping or a pong. None for anything else; bytes beyond the known ones are for later versions."""
    if len(payload) < _PING.size:
        return None
    kind, data = _PING.unpack_from(payload)
    if kind == b"p":
        return Ping(data)
    if kind != b"o":
        return None
    return Pong(data, _PONG.unpack_from(payload)[2] if len(payload) >= _PONG.size else 0)
