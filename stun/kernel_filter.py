"""Lets the kernel drop what can be no binding request: a flood of it reaches neither us nor our queue.

The filter is a program for the kernel's packet filter (Documentation/networking/filter.rst). It sees a
datagram from its UDP header on, and passes those whose first four bytes say what RFC 8489 §5 demands of a
binding request: its type, and the length that the datagram has. The rest is for the responder to judge.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Final

from stun.messages import HEADER_SIZE, MessageType

_SO_ATTACH_FILTER: Final = 26  # asm-generic/socket.h; the socket module has no name for it
_UDP_HEADER_SIZE: Final = 8

_INSTRUCTION: Final = struct.Struct("=HBBI")  # operation, steps if true, steps if false, operand
_PROGRAM: Final = struct.Struct("@HP")  # number of instructions, their address
_LOAD_HALF: Final = 0x28  # A = the two bytes at the operand
_LOAD_SIZE: Final = 0x80  # A = bytes in all
_ADD: Final = 0x04  # A += operand
_KEEP: Final = 0x07  # X = A
_IS_EQUAL: Final = 0x15  # A == operand?
_IS_EQUAL_TO_KEPT: Final = 0x1D  # A == X?
_RETURN: Final = 0x06  # pass as many bytes as the operand says

_INSTRUCTIONS: Final = (
    (_LOAD_HALF, 0, 0, _UDP_HEADER_SIZE),  # beyond the end of a short datagram, which is dropped then
    (_IS_EQUAL, 0, 6, MessageType.BINDING_REQUEST),
    (_LOAD_HALF, 0, 0, _UDP_HEADER_SIZE + 2),
    (_ADD, 0, 0, _UDP_HEADER_SIZE + HEADER_SIZE),
    (_KEEP, 0, 0, 0),
    (_LOAD_SIZE, 0, 0, 0),
    (_IS_EQUAL_TO_KEPT, 0, 1, 0),
    (_RETURN, 0, 0, 0xFFFF),
    (_RETURN, 0, 0, 0),
)


def attach(sock: socket.socket) -> None:
    """Filter what comes to a UDP socket from now on. Raises OSError where the kernel has no such filters."""
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in _INSTRUCTIONS)
    kept = ctypes.create_string_buffer(code, len(code))  # the kernel copies it during the call
    program = _PROGRAM.pack(len(_INSTRUCTIONS), ctypes.addressof(kept))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
