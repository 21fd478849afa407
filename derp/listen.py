"""The sockets that a relay listens on."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass
from ipaddress import ip_address

BACKLOG = 4096  # all clients come back at once after a restart


class CannotListen(Exception):
    """An address cannot be listened on; `str()` says why and what to do."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """An unspecified host (`0.0.0.0`, `::` or none) means every address of both families."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> ListenAddress:
        """`ADDRESS:PORT`, `[IPV6]:PORT` or `:PORT`. Raises ValueError."""
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not (colon and port.isascii() and port.isdecimal() and int(port) < 65536):
            raise ValueError(f"{text!r} has no port between 0 and 65535 after its colon")
        try:
            return cls(str(ip_address(host)) if host else "", int(port))
        except ValueError as error:
            raise ValueError(f"{text!r} is not an IP address and port, such as 0.0.0.0:443") from error

    @property
    def is_any(self) -> bool:
        return self.host in ("", "0.0.0.0", "::")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def open_listeners(address: ListenAddress) -> list[socket.socket]:
    """Listening sockets, IPv6 only where the host has it. Port 0 takes a free one. Raises CannotListen."""
    if not address.is_any:
        return [_listen(address)]
    first = _listen(ListenAddress("0.0.0.0", address.port))
    try:
        return [first, _listen(ListenAddress("::", first.getsockname()[1]))]
    except _NoSuchFamily:
        return [first]
    except CannotListen:
        first.close()
        raise


class _NoSuchFamily(CannotListen):
    """This host has no IPv6."""


def _listen(address: ListenAddress) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise _NoSuchFamily(f"{address}: this machine has no IPv6") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address.host, address.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if address.is_any and error.errno == errno.EADDRNOTAVAIL:
            raise _NoSuchFamily(f"{address}: this machine has no IPv6") from error
        raise CannotListen(f"{address} {_reason(error)}") from error
    return listener


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "is in use by another program; stop that one, or choose another port"
    if error.errno == errno.EADDRNOTAVAIL:
        return "is not an address of this machine; choose one, or 0.0.0.0 for all"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "is not permitted; run as root, or choose a port above 1023"
    return f"cannot be used: {error.strerror}"
