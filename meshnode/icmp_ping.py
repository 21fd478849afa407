"""ICMP pings through the tunnel: the host of the peer answers, if its firewall lets it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Final

from meshnode.dataplane.checksum import internet_checksum
from meshnode.inner_socket import InnerSocket
from meshproto.addresses import IPAddress

_HEADER = struct.Struct(">BBHHH")  # type, code, checksum, identifier, sequence number
_DATA_SIZE: Final = 16
_ICMP: Final = 1
_ICMPV6: Final = 58
_TYPES: Final = {4: (8, 0), 6: (128, 129)}
"""Echo request and reply, by IP version."""


async def icmp_ping(interface: str, address: IPAddress, entropy: Callable[[int], bytes]) -> None:
    """Send one echo request through `interface`, and return when the reply is here, however long it takes.

    Raises OSError where it cannot be sent.
    """
    loop = asyncio.get_running_loop()
    opened = InnerSocket(interface, address.version, _ICMPV6 if address.version == 6 else _ICMP)
    request = _echo_request(address.version, entropy(2), entropy(_DATA_SIZE))
    answered = asyncio.Event()

    def on_readable() -> None:
        while (packet := opened.receive()) is not None:
            if packet.source == address and _is_reply_untrusted(packet.payload, request, address.version):
                answered.set()

    try:
        loop.add_reader(opened.fileno(), on_readable)
        opened.send(address, request)
        await answered.wait()
    finally:
        loop.remove_reader(opened.fileno())
        opened.close()


def _echo_request(version: int, identifier: bytes, data: bytes) -> bytes:
    """With its checksum for IPv4; that of IPv6 covers the addresses, and the kernel puts it in."""
    header = (_TYPES[version][0], 0, 0, int.from_bytes(identifier, "big"), 1)
    if version == 6:
        return _HEADER.pack(*header) + data
    kind, code, _, *rest = header
    checksum = internet_checksum(_HEADER.pack(*header) + data)
    return _HEADER.pack(kind, code, checksum, *rest) + data


def _is_reply_untrusted(payload: bytes, request: bytes, version: int) -> bool:
    """Whether it repeats the request from the identifier on, as a reply does."""
    return payload[:1] == bytes([_TYPES[version][1]]) and payload[4:] == request[4:]
