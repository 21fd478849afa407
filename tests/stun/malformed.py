"""Datagrams that are almost binding requests, and some that are not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from stun.messages import COOKIE, Attribute, MessageType, encode, encode_binding_request


def _noise(random: Random) -> bytes:
    return random.randbytes(random.randrange(0, 1200))


def _cut_short(random: Random) -> bytes:
    request = encode_binding_request(random.randbytes(12))
    return request[: random.randrange(len(request))]


def _something_after_the_end(random: Random) -> bytes:
    return encode_binding_request(random.randbytes(12)) + random.randbytes(random.randrange(1, 50))


def _wrong_fingerprint(random: Random) -> bytes:
    request = bytearray(encode_binding_request(random.randbytes(12)))
    request[random.randrange(36, 40)] ^= random.randrange(1, 256)
    return bytes(request)


def _changed_under_the_fingerprint(random: Random) -> bytes:
    request = bytearray(encode_binding_request(random.randbytes(12)))
    # All but the attribute's length, which could swallow the fingerprint and leave a good request.
    index = random.choice([*range(4, 22), *range(24, 32)])
    request[index] ^= random.randrange(1, 256)
    return bytes(request)


def _wrong_cookie(random: Random) -> bytes:
    cookie = bytearray(COOKIE)
    cookie[random.randrange(4)] ^= random.randrange(1, 256)
    return encode(MessageType.BINDING_REQUEST, bytes(cookie) + random.randbytes(12), [])


def _not_a_request(random: Random) -> bytes:
    kind = random.choice([0, random.randrange(MessageType.BINDING_REQUEST + 1, 0x4000)])
    return encode(kind, COOKIE + random.randbytes(12), [])


def _top_bits(random: Random) -> bytes:
    request = encode_binding_request(random.randbytes(12))
    return bytes([random.choice([0x40, 0x80, 0xC0])]) + request[1:]


def _attribute_past_the_end(random: Random) -> bytes:
    attributes = [(random.randrange(0x8000, 0x8020), random.randbytes(4))]
    request = bytearray(encode(MessageType.BINDING_REQUEST, COOKIE + random.randbytes(12), attributes))
    request[22:24] = random.randrange(5, 65536).to_bytes(2, "big")
    return bytes(request)


def _wrong_length(random: Random) -> bytes:
    request = bytearray(encode(MessageType.BINDING_REQUEST, COOKIE + random.randbytes(12), []))
    request[2:4] = random.randrange(1, 65536).to_bytes(2, "big")
    return bytes(request)


def _old_with_something_else(random: Random) -> bytes:
    attributes = [(int(Attribute.CHANGE_REQUEST), random.randbytes(random.choice([0, 1, 3, 5, 8])))]
    return encode(MessageType.BINDING_REQUEST, b"\x00" + random.randbytes(15), attributes)


KINDS: list[Callable[[Random], bytes]] = [
    _noise,
    _cut_short,
    _something_after_the_end,
    _wrong_fingerprint,
    _changed_under_the_fingerprint,
    _wrong_cookie,
    _not_a_request,
    _top_bits,
    _attribute_past_the_end,
    _wrong_length,
    _old_with_something_else,
]


def malformed_datagrams(count: int, random: Random) -> Iterator[bytes]:
    """`count` datagrams, all kinds in turn."""
    for number in range(count):
        yield KINDS[number % len(KINDS)](random)
