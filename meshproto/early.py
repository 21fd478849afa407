"""The early payload: an optional preface of the coordinator's stream, before HTTP/2 (reference §4).

    0  5  magic, ff ff ff 'T' 'S'
    5  4  length n of the JSON, BIG-endian
    9  n  JSON of EarlyNoise

No HTTP/2 frame header starts with the magic, so nine bytes tell whether there is a payload; where there is
none, those nine bytes are the first frame header of HTTP/2.
"""

from __future__ import annotations

import struct

from meshproto.codec import MalformedMessage, decode, encode
from meshproto.messages import EarlyNoise

MAGIC = b"\xff\xff\xffTS"
MAX_EARLY_PAYLOAD_SIZE = 10 * 1024 * 1024
"""Bytes of JSON: the limit of Tailscale's client."""

_HEADER = struct.Struct(">5sI")


def encode_early_payload(payload: EarlyNoise) -> bytes:
    """Header and JSON, for the first record after the handshake response."""
    json = encode(payload)
    return _HEADER.pack(MAGIC, len(json)) + json


class EarlyPayloadReader:
    """Stands between the records and HTTP/2 and takes the early payload out, if there is one."""

    def __init__(self) -> None:
        self.payload: EarlyNoise | None = None
        self.finished = False
        """Whether it is decided: the payload is read, or there is none. Later bytes pass unchanged."""
        self._buffer = bytearray()
        self._failure: MalformedMessage | None = None

    def receive_data(self, data: bytes) -> bytes:
        """The part of the stream so far that is HTTP/2's. Raises MalformedMessage, and from then on."""
        if self._failure is not None:
            raise self._failure
        if self.finished:
            return data
        self._buffer += data
        try:
            self.finished = self._take_payload()
        except MalformedMessage as failure:
            self._failure = failure
            self._buffer.clear()
            raise
        if not self.finished:
            return b""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest

    def _take_payload(self) -> bool:
        if len(self._buffer) < _HEADER.size:
            return False
        magic, length = _HEADER.unpack_from(self._buffer)
        if magic != MAGIC:
            return True
        if length > MAX_EARLY_PAYLOAD_SIZE:
            raise MalformedMessage(f"early payload of {length} bytes, limit is {MAX_EARLY_PAYLOAD_SIZE}")
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return False
        self.payload = decode(bytes(self._buffer[_HEADER.size : end]), EarlyNoise)
        del self._buffer[:end]
        return True
