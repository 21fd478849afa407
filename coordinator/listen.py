"""The public listener's sockets."""

from __future__ import annotations

import errno
import socket

from coordinator.config_values import ListenAddress
from coordinator.errors import StartupError

BACKLOG = 1024  # all nodes come back at once after a restart


def open_listeners(address: ListenAddress) -> list[socket.socket]:
    """Bound sockets for `address`: both families where it says any address, IPv6 only where the host has it.

    Port 0 takes a free one, the same for both families. Raises StartupError.
    """
    if not address.is_any:
        return [_bind(address, address.host, address.port)]
    first = _bind(address, "0.0.0.0", address.port)
    try:
        return [first, _bind(address, "::", first.getsockname()[1])]
    except _NoSuchFamily:
        return [first]
    except StartupError:
        first.close()
        raise


class _NoSuchFamily(Exception):
    """This host has no IPv6."""


def _bind(wanted: ListenAddress, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _NoSuchFamily from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if wanted.is_any and host == "::" and error.errno == errno.EADDRNOTAVAIL:
            raise _NoSuchFamily from error
        raise StartupError(f"listen_addr {wanted} {_reason(error)}") from error
    return listener


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "is in use by another program; stop that one, or set listen_addr to another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "is not an address of this machine; set listen_addr to one, or to 0.0.0.0:PORT for all"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "is not permitted; run as root, or set listen_addr to a port above 1023"
    return f"cannot be used: {error.strerror}"
