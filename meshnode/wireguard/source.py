"""Where a datagram came from, as WireGuard sees it."""

from __future__ import annotations

import ipaddress
from typing import TypeAlias

__all__ = ["Source", "address_bytes"]

Source: TypeAlias = tuple[str, int]
"""The text of an address, and a port. `meshproto.addresses.AddrPort` is one."""


def address_bytes(source: Source) -> bytes:
    """4 or 16 bytes of the address. A host that is no address (a relay's name) stands for itself."""
    try:
        return ipaddress.ip_address(source[0]).packed
    except ValueError:
        return source[0].encode()
