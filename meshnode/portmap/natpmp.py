"""NAT-PMP (RFC 6886; reference §6.1): datagrams to and from port 5351 of the gateway, big-endian.

    request: external address    00 00
    request: map a UDP port      00 01  reserved 2  internal port 2  suggested external port 2  lifetime 4
    reply: external address      00 80  result 2  epoch 4  IPv4 address 4
    reply: mapping               00 81  result 2  epoch 4  internal port 2  external port 2  lifetime 4

A mapping is taken back by asking for it with a lifetime of 0. A reply of address, unasked for and from the
gateway's port to 224.0.0.1:5350, tells that the gateway has started or has another address.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address
from typing import Final

__all__ = [
    "ANNOUNCEMENT_GROUP",
    "ANNOUNCEMENT_PORT",
    "PORT",
    "AddressReply",
    "MapReply",
    "Result",
    "address_request",
    "map_request",
    "parse_untrusted",
]

PORT: Final = 5351
ANNOUNCEMENT_PORT: Final = 5350
ANNOUNCEMENT_GROUP: Final = IPv4Address("224.0.0.1")

VERSION: Final = 0
OP_ADDRESS: Final = 0
OP_MAP_UDP: Final = 1
REPLY: Final = 0x80

_MAP_REQUEST: Final = struct.Struct(">BBHHHI")
_HEAD: Final = struct.Struct(">BBHI")
_ADDRESS: Final = struct.Struct(">BBHI4s")
_MAPPING: Final = struct.Struct(">BBHIHHI")


class Result(IntEnum):
    """RFC 6886 §3.5."""

    SUCCESS = 0
    UNSUPPORTED_VERSION = 1
    NOT_AUTHORIZED = 2
    NETWORK_FAILURE = 3
    OUT_OF_RESOURCES = 4
    UNSUPPORTED_OPCODE = 5


@dataclass(frozen=True, slots=True)
class AddressReply:
    """The gateway's address outside. None where it has none (0.0.0.0), or did not succeed."""

    result: int
    epoch: int
    address: IPv4Address | None


@dataclass(frozen=True, slots=True)
class MapReply:
    """The mapping that the gateway has made. Ports and lifetime mean nothing without success."""

    result: int
    epoch: int
    internal_port: int
    external_port: int
    lifetime: int
    """Seconds."""


def address_request() -> bytes:
    """Asks for the gateway's address outside."""
    return bytes([VERSION, OP_ADDRESS])


def map_request(internal_port: int, suggested_port: int, lifetime: int) -> bytes:
    """Asks for a UDP mapping that lives `lifetime` seconds; with 0 for both last, to take it back."""
    return _MAP_REQUEST.pack(VERSION, OP_MAP_UDP, 0, internal_port, suggested_port, lifetime)


def parse_untrusted(datagram: bytes) -> AddressReply | MapReply | None:
    """A reply to one of the two, or None for anything else.

    A failure may come without the fields that only success has. Bytes after the last field are ignored.
    """
    if len(datagram) < _HEAD.size:
        return None
    version, operation, result, epoch = _HEAD.unpack_from(datagram)
    if version != VERSION:
        return None
    if operation == REPLY | OP_ADDRESS:
        return _address_reply(datagram, result, epoch)
    if operation == REPLY | OP_MAP_UDP:
        return _map_reply(datagram, result, epoch)
    return None


def _address_reply(datagram: bytes, result: int, epoch: int) -> AddressReply | None:
    if result != Result.SUCCESS:
        return AddressReply(result, epoch, None)
    if len(datagram) < _ADDRESS.size:
        return None
    address = IPv4Address(_ADDRESS.unpack_from(datagram)[4])
    return AddressReply(result, epoch, None if address.is_unspecified else address)


def _map_reply(datagram: bytes, result: int, epoch: int) -> MapReply | None:
    if len(datagram) < _MAPPING.size:
        return MapReply(result, epoch, 0, 0, 0) if result != Result.SUCCESS else None
    *_, internal_port, external_port, lifetime = _MAPPING.unpack_from(datagram)
    return MapReply(result, epoch, internal_port, external_port, lifetime)
