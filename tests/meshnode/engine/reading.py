"""What the fast path reads, read singly: one receive of a socket, one read of a tunnel device."""

from __future__ import annotations

import os
from typing import NamedTuple

from meshnode.engine.fast_path import ANCILLARY_SIZE, SOL_UDP, UDP_GRO
from meshnode.engine.tun import Tun
from meshnode.engine.udp_socket import UdpSocket
from meshproto.addresses import AddrPort


class Datagrams(NamedTuple):
    """One receive: datagrams of `stride` bytes, the last maybe shorter."""

    length: int
    stride: int
    source: AddrPort


def receive_into(sock: UdpSocket, buffer: memoryview) -> Datagrams | None:
    """None when there is nothing to receive."""
    try:
        length, ancillary, _, address = sock.raw.recvmsg_into([buffer], ANCILLARY_SIZE)
    except BlockingIOError:
        return None
    strides = [value for level, kind, value in ancillary if (level, kind) == (SOL_UDP, UDP_GRO)]
    stride = int.from_bytes(strides[0], "little") if strides else length
    return Datagrams(length, stride, AddrPort(address[0], address[1]))


def read_into(tun: Tun, buffer: memoryview) -> int:
    """0 when there is nothing to read."""
    try:
        return os.readv(tun.fileno(), [buffer])
    except BlockingIOError:
        return 0
