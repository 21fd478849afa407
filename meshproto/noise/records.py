"""What follows the handshake: sealed records, one counter per direction (reference §3.4).

    0  1  type, 0x04
    1  2  length n of the rest, BIG-endian, 16 to 4093
    3  n  ChaCha20-Poly1305 ciphertext and tag, no associated data

The nonce is four zero bytes and the record's number as a 64-bit BIG-endian integer, where the Noise framework
says little-endian. Record boundaries mean nothing to the layers above.
"""

from __future__ import annotations

import struct

from meshproto.noise.symmetric import NoiseError
from meshproto.primitives import TAG_SIZE, ChaCha20Poly1305, InvalidTag

RECORD_TYPE = 4
MAX_FRAME_SIZE = 4096
"""Bytes of a record on the wire, header included; a receiver gives up on a larger one."""
HEADER = struct.Struct(">BH")
MAX_CIPHERTEXT_SIZE = MAX_FRAME_SIZE - HEADER.size
MAX_PLAINTEXT_SIZE = MAX_CIPHERTEXT_SIZE - TAG_SIZE
COUNTER_LIMIT = 2**64 - 1
"""The first counter that must not be used. There is no rekey: connections are replaced."""

_NONCE = struct.Struct(">4xQ")


class Transport:
    """Both directions of an established control connection.

    The directions fail apart: after NoiseError from `receive_data` nothing more can be received, but sealing
    goes on, and the reverse. No alert exists; the owner closes the connection.
    """

    def __init__(self, send_key: bytes, receive_key: bytes, handshake_hash: bytes) -> None:
        self.handshake_hash = handshake_hash
        self._send_aead = ChaCha20Poly1305(send_key)
        self._receive_aead = ChaCha20Poly1305(receive_key)
        self._send_counter = 0
        self._receive_counter = 0
        self._buffer = bytearray()
        self._failure: NoiseError | None = None

    def seal(self, plaintext: bytes) -> bytes:
        """`plaintext` as the records to send, in order, all of them; nothing for nothing."""
        view = memoryview(plaintext)
        return b"".join(
            self.seal_record(view[start : start + MAX_PLAINTEXT_SIZE])
            for start in range(0, len(view), MAX_PLAINTEXT_SIZE)
        )

    def seal_record(self, plaintext: bytes | memoryview) -> bytes:
        """One record of at most MAX_PLAINTEXT_SIZE bytes; an empty one is legal and carries nothing."""
        if len(plaintext) > MAX_PLAINTEXT_SIZE:
            raise ValueError(f"a record holds {MAX_PLAINTEXT_SIZE} bytes, not {len(plaintext)}")
        if self._send_counter >= COUNTER_LIMIT:
            raise NoiseError("record counter is exhausted")
        ciphertext = self._send_aead.encrypt(_NONCE.pack(self._send_counter), plaintext, None)
        self._send_counter += 1
        return HEADER.pack(RECORD_TYPE, len(ciphertext)) + ciphertext

    def receive_data(self, data: bytes) -> bytes:
        """The plaintext of the records that `data` completes; the rest is kept, less than one record.

        Raises NoiseError on the first record that is not right, and from then on.
        """
        if self._failure is not None:
            raise self._failure
        self._buffer += data
        opened: list[bytes] = []
        try:
            while (ciphertext := self._next_ciphertext()) is not None:
                opened.append(self._open(ciphertext))
        except NoiseError as failure:
            self._failure = failure
            self._buffer.clear()
            raise
        return b"".join(opened)

    def _next_ciphertext(self) -> bytes | None:
        if len(self._buffer) < HEADER.size:
            return None
        record_type, length = HEADER.unpack_from(self._buffer)
        if record_type != RECORD_TYPE:
            raise NoiseError(f"record of unknown type {record_type}")
        if not TAG_SIZE <= length <= MAX_CIPHERTEXT_SIZE:
            raise NoiseError(f"record of {length} bytes")
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        ciphertext = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return ciphertext

    def _open(self, ciphertext: bytes) -> bytes:
        if self._receive_counter >= COUNTER_LIMIT:
            raise NoiseError("record counter is exhausted")
        try:
            plaintext = self._receive_aead.decrypt(_NONCE.pack(self._receive_counter), ciphertext, None)
        except InvalidTag as error:
            raise NoiseError("record does not authenticate") from error
        self._receive_counter += 1
        return plaintext
