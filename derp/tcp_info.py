"""What the kernel knows of a TCP connection (linux/tcp.h, struct tcp_info), and how much it keeps of ours."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios

from derp.liveness import STALLED_S, Delivery

UNSENT_LOW_WATER = 128 * 1024
"""Bytes that the kernel may keep unsent: packets that nobody can drop any more, only delay. Left to itself it
keeps megabytes on a slow path, and a tunnel would have seconds of latency."""

_TCP_NOTSENT_LOWAT = 25  # the socket module has no name for it
_SIZE = 128
_RETRANSMITS = 2  # u8: tries in a row of what is unanswered
_LAST_ACK_RECEIVED = struct.Struct("=56xI")  # milliseconds ago
_BYTES_ACKED = struct.Struct("=120xQ")
_INT = struct.Struct("=i")


def limit_unsent(transport: asyncio.Transport) -> None:
    """Have the kernel keep UNSENT_LOW_WATER at most, besides what is under way."""
    sock = _tcp_socket(transport)
    if sock is not None:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_LOW_WATER)


def position(transport: asyncio.Transport) -> int:
    """How many bytes will have been acknowledged when all that is written so far is; 0 if that is unknown."""
    sock = _tcp_socket(transport)
    info = _info(sock)
    if sock is None or not info:
        return 0
    queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
    acknowledged: int = _BYTES_ACKED.unpack_from(info)[0]
    unacknowledged: int = _INT.unpack(queued)[0]
    return acknowledged + unacknowledged + transport.get_write_buffer_size()


def delivery(transport: asyncio.Transport, until: int) -> Delivery:
    """What became of the bytes up to `until`, a `position`.

    TCP has stalled when it repeats itself and nothing at all has come for STALLED_S. A second repetition is
    enough by itself: when a path is cut in one direction only, the other end goes on talking, without
    acknowledging anything new.
    """
    info = _info(_tcp_socket(transport))
    if not info or _BYTES_ACKED.unpack_from(info)[0] >= until:
        return Delivery.DELIVERED
    repeated = info[_RETRANSMITS]
    is_silent = _LAST_ACK_RECEIVED.unpack_from(info)[0] >= STALLED_S * 1000
    return Delivery.STALLED if repeated >= 2 or (repeated == 1 and is_silent) else Delivery.UNDERWAY


def _tcp_socket(transport: asyncio.Transport) -> socket.socket | None:
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    return sock


def _info(sock: socket.socket | None) -> bytes:
    """Empty if there is none."""
    if sock is None:
        return b""
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SIZE)
    except OSError:
        return b""
    return info if len(info) == _SIZE else b""
