"""What the kernel dropped at a UDP socket, as it tells since Linux 4.12 (`linux/sock_diag.h`)."""

from __future__ import annotations

import socket
import struct
from typing import Final

_SO_MEMINFO: Final = 55  # asm-generic/socket.h; the socket module has no name for it
_MEMINFO: Final = struct.Struct("=9I")
_DROPS: Final = 8  # index in it: everything that the socket did not take


def dropped(sock: socket.socket) -> int:
    """Datagrams that a filter refused or a full buffer had no room for; 0 where the kernel does not tell."""
    try:
        info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
    except OSError:
        return 0
    return int(_MEMINFO.unpack(info)[_DROPS]) if len(info) == _MEMINFO.size else 0
