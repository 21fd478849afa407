"""What the kernel knows of a TCP connection (linux/tcp.h, struct tcp_info)."""

from __future__ import annotations

import asyncio
import socket
import struct

_TCP_INFO_SIZE = 104
_RETRANSMITS = 2  # u8: tries in a row of what is unanswered
_LAST_ACK_RECEIVED = 56  # u32: milliseconds ago


def is_stalled(transport: asyncio.BaseTransport, for_s: float) -> bool:
    """Whether TCP is repeating itself, and nothing at all has come from the other end for so many seconds.

    A second repetition is enough by itself: when a path is cut in one direction only, the other end goes on
    talking, without acknowledging anything new. False when nothing can be told.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    except OSError:
        return False
    if len(info) < _LAST_ACK_RECEIVED + 4:
        return False
    (last_ack_ms,) = struct.unpack_from("=I", info, _LAST_ACK_RECEIVED)
    repeated = info[_RETRANSMITS]
    return repeated >= 2 or (repeated == 1 and bool(last_ack_ms >= for_s * 1000))
