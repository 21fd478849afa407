"""A cut cable, for one socket: a packet filter makes the kernel drop everything that comes."""

from __future__ import annotations

import ctypes
import socket
from typing import Protocol

from tests.derp.relays import RunningRelay

_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_RETURN = 0x06  # BPF_RET | BPF_K: keep so many bytes of the packet


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(_Instruction))]


class _Socket(Protocol):
    def setsockopt(self, level: int, option: int, value: int | bytes, /) -> None: ...


def cut(sock: _Socket) -> None:
    """Drop what comes from now on: data, acknowledgements, and requests for connections."""
    instruction = _Instruction(_RETURN, 0, 0, 0)
    program = _Program(1, ctypes.pointer(instruction))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, bytes(program))


def mend(sock: _Socket) -> None:
    """Undo `cut`."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)


def cut_off(relay: RunningRelay) -> None:
    """Let nothing reach the relay, neither on its connections nor by new ones."""
    for connection in relay.server._connections.values():
        cut(connection._transport.get_extra_info("socket"))
    for listening in relay.listener.sockets:
        cut(listening)


def reach_again(relay: RunningRelay) -> None:
    """New connections to the relay work again; old ones stay cut."""
    for listening in relay.listener.sockets:
        mend(listening)
