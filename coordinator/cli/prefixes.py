"""Routes on the command line: CIDR prefixes that say what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_interface

from coordinator.cli.invocation import CommandError

IPNetwork = IPv4Network | IPv6Network


def parse_prefixes(texts: Iterable[str]) -> list[IPNetwork]:
    """The prefixes in their order, each once. Raises CommandError that names the wrong one."""
    return list(dict.fromkeys(parse_prefix(text) for text in texts))


def parse_prefix(text: str) -> IPNetwork:
    """A prefix with its length and no host bits. Raises CommandError."""
    try:
        interface = ip_interface(text)
    except ValueError:
        raise CommandError(
            f'"{text}" is not a route: write an address prefix like 192.168.0.0/24 or fd00:1::/64'
        ) from None
    network = interface.network
    if "/" not in text:
        raise CommandError(f'"{text}" has no prefix length; for this one address write {network}')
    if interface.ip != network.network_address:
        raise CommandError(f'"{text}" has host bits set; did you mean {network}?')
    return network
