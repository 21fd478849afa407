"""What a datagram is: one UDP socket carries WireGuard, disco, STUN, and either of the first two through a
peer relay (reference §2.4). The tests and their order are those of every other implementation.
"""

from __future__ import annotations

import enum
from typing import Final

from meshnode.disco import geneve
from meshnode.disco.box import is_envelope

__all__ = ["Protocol", "classify", "classify_relayed", "is_stun"]

_STUN_HEADER_SIZE: Final = 20
_STUN_COOKIE: Final = bytes.fromhex("2112a442")
_STUN_BINDING: Final = 0x01  # the low byte of the type, of a request as of both responses


class Protocol(enum.Enum):
    """To whom a datagram belongs."""

    STUN = "stun"
    DISCO = "disco"
    WIREGUARD = "wireguard"
    """Also whatever is none of the others: WireGuard says what is wrong with it."""
    GENEVE_DISCO = "geneve disco"
    GENEVE_WIREGUARD = "geneve wireguard"


def is_stun(datagram: bytes | memoryview) -> bool:
    """Whether it is STUN's. No WireGuard message is: its second byte is zero."""
    return (
        len(datagram) >= _STUN_HEADER_SIZE
        and datagram[0] & 0xC0 == 0
        and datagram[1] == _STUN_BINDING
        and datagram[4:8] == _STUN_COOKIE
    )


def classify(datagram: bytes | memoryview) -> Protocol:
    """What came over UDP. Cannot fail."""
    if is_stun(datagram):
        return Protocol.STUN
    header = geneve.read_header(datagram)
    if header is not None:
        if header.protocol == geneve.WIREGUARD:
            return Protocol.GENEVE_WIREGUARD
        if is_envelope(datagram[geneve.HEADER_SIZE :]):
            return Protocol.GENEVE_DISCO
        return Protocol.WIREGUARD
    return Protocol.DISCO if is_envelope(datagram) else Protocol.WIREGUARD


def classify_relayed(packet: bytes | memoryview) -> Protocol:
    """What came over DERP: disco or WireGuard, nothing else. Cannot fail."""
    return Protocol.DISCO if is_envelope(packet) else Protocol.WIREGUARD
