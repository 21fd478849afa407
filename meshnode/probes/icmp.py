"""One ICMP echo over IPv4: through a ping socket where the system lets us have one, else a raw one."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Final

from derp.dial import MarkSocket
from meshnode.netcheck.echo import echo_request, ipv4_payload_untrusted, is_reply_untrusted

__all__ = ["ping"]

_SEQUENCE: Final = 1
_MAX_PACKET: Final = 2048


async def ping(address: str, data: bytes, *, mark: MarkSocket, entropy: Callable[[int], bytes]) -> float:
    """The round trip in seconds. Waits for ever. Raises OSError: not permitted, no route, and the like."""
    loop = asyncio.get_running_loop()
    sock, is_raw = _open()
    with sock:
        mark(sock)
        sock.setblocking(False)
        sock.connect((address, 0))
        identifier = int.from_bytes(entropy(2), "big")
        begun_at = time.monotonic()
        await loop.sock_sendall(sock, echo_request(4, identifier, _SEQUENCE, data))
        while True:
            message = await loop.sock_recv(sock, _MAX_PACKET)
            if is_raw:
                message = ipv4_payload_untrusted(message)
            if is_reply_untrusted(message, 4, _SEQUENCE, data, identifier=identifier if is_raw else None):
                return time.monotonic() - begun_at


def _open() -> tuple[socket.socket, bool]:
    """A socket, and whether it is a raw one, which sees every reply, with its IP header."""
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP), False
    except PermissionError:  # as net.ipv4.ping_group_range says, for root too
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP), True
