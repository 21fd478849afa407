"""Whether an address is one of this host's own: the kernel is asked, by binding to it."""

from __future__ import annotations

import socket


def is_ours(address: tuple[str, int, *tuple[int, ...]]) -> bool:
    """`address` as `getsockname` of an IPv4 or IPv6 socket gives it; its port does not matter."""
    host, _, *rest = address
    family = socket.AF_INET6 if rest else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, 0, *rest))
        except OSError:
            return False
    return True
