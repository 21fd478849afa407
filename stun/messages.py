"""Binding requests and responses on the wire (RFC 8489 §5, §14; RFC 5780 §7; RFC 3489 §11 for old clients).

    0   2  message type; the two top bits are zero
    2   2  length n of the attributes, a multiple of 4
    4   4  magic cookie 21 12 A4 42; in RFC 3489, four more bytes of the transaction id
    8  12  transaction id
   20   n  attributes: type u16, length u16, value, zero bytes up to a multiple of 4

An address is a zero byte, a family byte (1 IPv4, 2 IPv6), a port and 4 or 16 bytes; the XOR form has port and
address XORed with the cookie and, for IPv6, the transaction id after it (RFC 8489 §14.2).
"""

from __future__ import annotations

import struct
from binascii import crc32
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

DEFAULT_PORT = 3478
COOKIE = bytes.fromhex("2112a442")
HEADER_SIZE = 20
TRANSACTION_ID_SIZE = 12
TAILSCALE_SOFTWARE = b"tailnode"
"""How Tailscale's clients name themselves; its servers answer nothing else (nat-traversal reference §4.1)."""

_HEADER = struct.Struct(">HH16s")
_ATTRIBUTE = struct.Struct(">HH")
_ADDRESS = struct.Struct(">BBH")
_FINGERPRINT_MASK = 0x5354554E
_FINGERPRINT_SIZE = 8  # the whole attribute
_FAMILIES = {1: 4, 2: 16}  # family byte -> bytes of the address


class MalformedMessage(ValueError):
    """The datagram is no STUN message; `str()` says why."""


class TransportAddress(NamedTuple):
    """An IP address as text, without zone, and a UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class MessageType(IntEnum):
    """The binding method in its four classes."""

    BINDING_REQUEST = 0x0001
    BINDING_INDICATION = 0x0011
    BINDING_SUCCESS = 0x0101
    BINDING_ERROR = 0x0111


class Attribute(IntEnum):
    """Attribute types. Below 0x8000, whoever does not understand one must not ignore it."""

    MAPPED_ADDRESS = 0x0001
    CHANGE_REQUEST = 0x0003
    SOURCE_ADDRESS = 0x0004  # RFC 3489
    CHANGED_ADDRESS = 0x0005  # RFC 3489
    ERROR_CODE = 0x0009
    UNKNOWN_ATTRIBUTES = 0x000A
    XOR_MAPPED_ADDRESS = 0x0020
    RESPONSE_PORT = 0x0027  # RFC 5780
    XOR_MAPPED_ADDRESS_DRAFT = 0x8020  # before RFC 5389; some servers still send it
    SOFTWARE = 0x8022
    FINGERPRINT = 0x8028
    RESPONSE_ORIGIN = 0x802B
    OTHER_ADDRESS = 0x802C


COMPREHENSION_OPTIONAL = 0x8000
CHANGE_ADDRESS = 0x4
CHANGE_PORT = 0x2
"""Flags of CHANGE-REQUEST: answer from the other address, from the other port."""

UNKNOWN_ATTRIBUTE = 420
"""The error code for a request with attributes that must be understood and are not."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message with its attributes in order. `identifier` is the cookie and the transaction id, 16 bytes."""

    message_type: int
    identifier: bytes
    attributes: tuple[tuple[int, bytes], ...]

    @property
    def transaction_id(self) -> bytes:
        return self.identifier[len(COOKIE) :]

    @property
    def has_cookie(self) -> bool:
        """False in the messages of RFC 3489."""
        return self.identifier.startswith(COOKIE)

    def get(self, attribute: int) -> bytes | None:
        """The value of the first attribute of this type: later ones must be ignored (§14)."""
        return next((value for kind, value in self.attributes if kind == attribute), None)


@dataclass(frozen=True, slots=True)
class BindingResponse:
    """A success response. `mapped_address` is where the server saw the request come from."""

    transaction_id: bytes
    mapped_address: TransportAddress
    response_origin: TransportAddress | None = None
    other_address: TransportAddress | None = None


@dataclass(frozen=True, slots=True)
class BindingError:
    """An error response."""

    transaction_id: bytes
    code: int


def looks_like_stun(datagram: bytes | bytearray | memoryview) -> bool:
    """Whether a datagram on a shared socket is for STUN: one of Binding, with the cookie.

    No WireGuard or disco datagram passes (nat-traversal reference §2.4).
    """
    return (
        len(datagram) >= HEADER_SIZE
        and datagram[0] & 0xC0 == 0
        and datagram[1] & 0xEF == 0x01  # Binding; in 0x10, half of the class
        and datagram[4:8] == COOKIE
    )


def encode(message_type: int, identifier: bytes, attributes: Iterable[tuple[int, bytes]]) -> bytes:
    """A message without FINGERPRINT."""
    body = b"".join(
        _ATTRIBUTE.pack(kind, len(value)) + value + bytes(-len(value) % 4) for kind, value in attributes
    )
    return _HEADER.pack(message_type, len(body), identifier) + body


def encode_binding_request(
    transaction_id: bytes, *, change_address: bool = False, change_port: bool = False
) -> bytes:
    """A request as Tailscale's clients send it: 40 bytes, or 48 when it asks for another source."""
    attributes = [(int(Attribute.SOFTWARE), TAILSCALE_SOFTWARE)]
    flags = CHANGE_ADDRESS * change_address | CHANGE_PORT * change_port
    if flags:
        attributes.append((Attribute.CHANGE_REQUEST, flags.to_bytes(4, "big")))
    return add_fingerprint(encode(MessageType.BINDING_REQUEST, COOKIE + transaction_id, attributes))


def add_fingerprint(message: bytes) -> bytes:
    """The message with FINGERPRINT at its end. The checksum covers the header as changed (§14.7)."""
    length = len(message) - HEADER_SIZE + _FINGERPRINT_SIZE
    covered = message[:2] + length.to_bytes(2, "big") + message[4:]
    checksum = crc32(covered) ^ _FINGERPRINT_MASK
    return covered + _ATTRIBUTE.pack(Attribute.FINGERPRINT, 4) + checksum.to_bytes(4, "big")


_PLAIN_HEAD = encode_binding_request(bytes(TRANSACTION_ID_SIZE))[:8]
_PLAIN_REST = encode_binding_request(bytes(TRANSACTION_ID_SIZE))[HEADER_SIZE:-4]
_PLAIN_SIZE = HEADER_SIZE + len(_PLAIN_REST) + 4


def is_plain_tailscale_request(datagram: bytes) -> bool:
    """Whether `encode_binding_request` makes it with some transaction id and no wishes.

    Nearly all that a responder is sent looks so, and is recognised at a glance instead of being taken apart.
    """
    return (
        len(datagram) == _PLAIN_SIZE
        and datagram.startswith(_PLAIN_HEAD)
        and datagram.startswith(_PLAIN_REST, HEADER_SIZE)
        and crc32(datagram[:-_FINGERPRINT_SIZE]) ^ _FINGERPRINT_MASK == int.from_bytes(datagram[-4:], "big")
    )


def encode_address(address: TransportAddress) -> bytes:
    """The value of MAPPED-ADDRESS and the like. An IPv4 address in IPv6 clothes is written as IPv4."""
    packed = _packed(address.host)
    return _ADDRESS.pack(0, 1 if len(packed) == 4 else 2, address.port) + packed


def encode_xor_address(address: TransportAddress, identifier: bytes) -> bytes:
    """The value of XOR-MAPPED-ADDRESS in the message with this identifier."""
    return _xor_address(encode_address(address), identifier)


def encode_mapped(address: TransportAddress, identifier: bytes) -> bytes:
    """The success response with XOR-MAPPED-ADDRESS and nothing else, which is what nearly everybody gets."""
    value = encode_xor_address(address, identifier)
    head, attribute = _MAPPED_HEADS[len(value)]
    return head + identifier + attribute + value


def _mapped_heads(size: int) -> tuple[bytes, bytes]:
    """What is before the identifier, and between it and an address of `size` bytes."""
    message = encode(MessageType.BINDING_SUCCESS, bytes(16), [(Attribute.XOR_MAPPED_ADDRESS, bytes(size))])
    return message[:4], message[HEADER_SIZE:-size]


_MAPPED_HEADS = {4 + size: _mapped_heads(4 + size) for size in _FAMILIES.values()}


def parse_request_untrusted(datagram: bytes) -> Message:
    """Any message, strictly: what a server may believe. Raises MalformedMessage and nothing else.

    The length must be exact, and FINGERPRINT, where there is one, last and right (§6.3, §7.3).
    """
    message_type, length, identifier = _header(datagram)
    if length % 4 or length != len(datagram) - HEADER_SIZE:
        raise MalformedMessage("length")
    attributes = tuple(_attributes(datagram[HEADER_SIZE:]))
    if any(kind == Attribute.FINGERPRINT for kind, _ in attributes[:-1]):
        raise MalformedMessage("FINGERPRINT is not last")
    has_fingerprint = bool(attributes) and attributes[-1][0] == Attribute.FINGERPRINT
    if has_fingerprint and add_fingerprint(datagram[:-_FINGERPRINT_SIZE]) != datagram:
        raise MalformedMessage("FINGERPRINT is wrong")
    return Message(message_type, identifier, attributes)


def parse_response_untrusted(datagram: bytes) -> BindingResponse | BindingError:
    """A response, leniently, as servers in the wild need it. Raises MalformedMessage and nothing else.

    Bytes after the declared length, unknown attributes and FINGERPRINT are ignored: what protects a client is
    that nobody else knows the transaction id.
    """
    message_type, length, identifier = _header(datagram)
    if not identifier.startswith(COOKIE) or length > len(datagram) - HEADER_SIZE:
        raise MalformedMessage("cookie or length")
    attributes = tuple(_attributes(datagram[HEADER_SIZE : HEADER_SIZE + length]))
    message = Message(message_type, identifier, attributes)
    if message_type == MessageType.BINDING_ERROR:
        return BindingError(message.transaction_id, _error_code(message))
    if message_type != MessageType.BINDING_SUCCESS:
        raise MalformedMessage("not a binding response")
    return BindingResponse(
        message.transaction_id,
        _mapped_address(message),
        _optional_address(message, Attribute.RESPONSE_ORIGIN),
        _optional_address(message, Attribute.OTHER_ADDRESS),
    )


def _header(datagram: bytes) -> tuple[int, int, bytes]:
    if len(datagram) < HEADER_SIZE or datagram[0] & 0xC0:
        raise MalformedMessage("header")
    message_type, length, identifier = _HEADER.unpack_from(datagram)
    return message_type, length, identifier


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    while start < len(body):
        if len(body) - start < _ATTRIBUTE.size:
            raise MalformedMessage("attribute is cut short")
        kind, length = _ATTRIBUTE.unpack_from(body, start)
        start += _ATTRIBUTE.size
        if length > len(body) - start:
            raise MalformedMessage("attribute is longer than the message")
        yield kind, body[start : start + length]
        start += length + (-length % 4)


def _mapped_address(message: Message) -> TransportAddress:
    for attribute in (Attribute.XOR_MAPPED_ADDRESS, Attribute.XOR_MAPPED_ADDRESS_DRAFT):
        value = message.get(attribute)
        if value is not None:
            return _parse_address(_xor_address(value, message.identifier))
    value = message.get(Attribute.MAPPED_ADDRESS)
    if value is None:
        raise MalformedMessage("no mapped address")
    return _parse_address(value)


def _optional_address(message: Message, attribute: Attribute) -> TransportAddress | None:
    value = message.get(attribute)
    with suppress(MalformedMessage):
        return None if value is None else _parse_address(value)
    return None


def _parse_address(value: bytes) -> TransportAddress:
    if len(value) < 4 or len(value) - 4 != _FAMILIES.get(value[1]):
        raise MalformedMessage("address")
    return TransportAddress(str(_unmapped(value[4:])), int.from_bytes(value[2:4], "big"))


def _packed(host: str) -> bytes:
    if ":" in host:
        return _unmapped(host).packed
    return bytes(map(int, host.split(".")))  # ten times as fast as ip_address


def _unmapped(address: str | bytes) -> IPv4Address | IPv6Address:
    """The address without a zone; `::ffff:1.2.3.4`, which dual-stack sockets show, as what it means."""
    parsed = ip_address(address.partition("%")[0] if isinstance(address, str) else address)
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed


def _xor_address(value: bytes, identifier: bytes) -> bytes:
    """Its own inverse. The family byte and what is before it stay."""
    size = min(len(value), 4 + len(identifier))
    mask = (bytes(2) + identifier[:2] + identifier)[:size]
    number = int.from_bytes(value[:size], "big") ^ int.from_bytes(mask, "big")
    return number.to_bytes(size, "big")


def _error_code(message: Message) -> int:
    value = message.get(Attribute.ERROR_CODE)
    if value is None or len(value) < 4:
        raise MalformedMessage("no error code")
    return (value[2] & 0x7) * 100 + value[3]
