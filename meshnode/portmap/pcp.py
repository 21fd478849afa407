"""The Port Control Protocol (RFC 6887; reference §6.2): NAT-PMP's successor, on the same port 5351.

Integers are big-endian, addresses 16 bytes, IPv4 in its mapped form.

    request   02  opcode 1         reserved 2             lifetime 4  our address 16
    reply     02  opcode | 80 1    reserved 1  result 1   lifetime 4  epoch 4  reserved 12
    MAP adds  nonce 12  protocol 1  reserved 3  internal port 2  external port 2  external address 16

ANNOUNCE has nothing to add: it only asks who is there. The nonce is the proof that a mapping is ours:
renewing it must repeat it, and so must taking it back, with a lifetime of 0.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from meshproto.addresses import AddrPort

__all__ = [
    "NONCE_SIZE",
    "MapRequest",
    "Mapped",
    "Opcode",
    "Reply",
    "Result",
    "announce_request",
    "parse_untrusted",
]

VERSION: Final = 2
REPLY: Final = 0x80
UDP: Final = 17
NONCE_SIZE: Final = 12
MAX_SIZE: Final = 1100
"""RFC 6887 §7: of a message."""

_REQUEST: Final = struct.Struct(">BBHI16s")
_REPLY: Final = struct.Struct(">BBBBII12x")
_MAP: Final = struct.Struct(">12sB3xHH16s")
ANYTHING: Final = AddrPort("0.0.0.0", 0)
_NAT_PMP_REFUSAL: Final = struct.Struct(">BBH")


class Opcode(IntEnum):
    """RFC 6887 §19.3, those that we use."""

    ANNOUNCE = 0
    MAP = 1


class Result(IntEnum):
    """RFC 6887 §7.4."""

    SUCCESS = 0
    UNSUPP_VERSION = 1
    NOT_AUTHORIZED = 2
    MALFORMED_REQUEST = 3
    UNSUPP_OPCODE = 4
    UNSUPP_OPTION = 5
    MALFORMED_OPTION = 6
    NETWORK_FAILURE = 7
    NO_RESOURCES = 8
    UNSUPP_PROTOCOL = 9
    USER_EX_QUOTA = 10
    CANNOT_PROVIDE_EXTERNAL = 11
    ADDRESS_MISMATCH = 12
    EXCESSIVE_REMOTE_PEERS = 13


@dataclass(frozen=True, slots=True)
class Mapped:
    """What a MAP reply adds."""

    nonce: bytes
    internal_port: int
    external_port: int
    external_address: IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the gateway."""

    opcode: int
    result: int
    lifetime: int
    """Seconds: of the mapping, or that the same error is to be expected for."""
    epoch: int
    mapped: Mapped | None = None
    """Of a MAP, in errors too, where it repeats what was asked for."""


@dataclass(frozen=True, slots=True)
class MapRequest:
    """Asks for a UDP mapping, or to renew the one with this nonce; with a lifetime of 0, to take it back."""

    nonce: bytes
    """12 bytes that nobody can guess, kept as long as the mapping."""
    client: IPv4Address
    """Our own address as the gateway must see it, so that it notices another NAT in between."""
    internal_port: int
    lifetime: int
    """Seconds."""
    suggested: AddrPort = ANYTHING
    """The address and port outside that we would like to have, or have had; zeros stand for any."""

    def encode(self) -> bytes:
        """The datagram."""
        host, port = self.suggested
        wanted = _MAP.pack(self.nonce, UDP, self.internal_port, port, _mapped(IPv4Address(host)))
        return _head(Opcode.MAP, self.client, self.lifetime) + wanted

    def is_answered_by(self, reply: Reply) -> bool:
        """Whether this is the answer: to a MAP, with our nonce and port, or that there is no PCP here."""
        if reply.result == Result.UNSUPP_VERSION:
            return True
        mapped = reply.mapped
        if reply.opcode != Opcode.MAP or mapped is None:
            return False
        return mapped.nonce == self.nonce and mapped.internal_port == self.internal_port


def announce_request(client: IPv4Address) -> bytes:
    """Asks whether there is a PCP server, and for its epoch (RFC 6887 §14.1)."""
    return _head(Opcode.ANNOUNCE, client, 0)


def parse_untrusted(datagram: bytes) -> Reply | None:
    """A reply, or None for anything else. Bytes after the last field we know, such as options, are ignored.

    A gateway with nothing but NAT-PMP refuses our version in its own format (RFC 6886 §3.5), and one with a
    later PCP in a version that we do not know (RFC 6887 §9): both give a reply of UNSUPP_VERSION.
    """
    if len(datagram) > MAX_SIZE or len(datagram) < _NAT_PMP_REFUSAL.size or not datagram[1] & REPLY:
        return None
    if datagram[0] != VERSION:
        return _refusal(datagram)
    if len(datagram) < _REPLY.size:
        return None
    _, operation, _, result, lifetime, epoch = _REPLY.unpack_from(datagram)
    opcode = operation & ~REPLY
    if opcode != Opcode.MAP:
        return Reply(opcode, result, lifetime, epoch)
    if len(datagram) < _REPLY.size + _MAP.size:
        return None if result == Result.SUCCESS else Reply(opcode, result, lifetime, epoch)
    nonce, protocol, internal_port, external_port, packed = _MAP.unpack_from(datagram, _REPLY.size)
    if protocol != UDP:
        return None
    external = IPv6Address(packed)
    mapped = Mapped(nonce, internal_port, external_port, external.ipv4_mapped or external)
    return Reply(opcode, result, lifetime, epoch, mapped)


def _refusal(datagram: bytes) -> Reply | None:
    version, operation, result = _NAT_PMP_REFUSAL.unpack_from(datagram)
    if version and len(datagram) >= _REPLY.size:
        result = datagram[3]
    return Reply(operation & ~REPLY, result, 0, 0) if result == Result.UNSUPP_VERSION else None


def _head(opcode: Opcode, client: IPv4Address, lifetime: int) -> bytes:
    return _REQUEST.pack(VERSION, opcode, 0, lifetime, _mapped(client))


def _mapped(address: IPv4Address) -> bytes:
    return b"\0" * 10 + b"\xff\xff" + address.packed
