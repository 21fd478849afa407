"""Addresses as the control protocol writes them: `ip:port`, prefixes, and their JSON stand-ins.

Parsing follows Go's `netip` (reference §0): IPv6 in an `ip:port` needs brackets, a prefix needs its
decimal length. Host bits of a prefix are cleared rather than refused, because Go accepts them and one refused
prefix would cost the whole message.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple, overload

from meshproto.json_union import json_union

MAX_PORT = 65535
MAX_CACHED_TEXTS = 8192
"""Parsed prefixes, and parsed `ip:port`, that are remembered: maps repeat the same ones over and over."""
_SHOWN = 80  # characters of a malformed text that its error repeats
_MAX_ADDR_PORT_LENGTH = 80  # an IPv6 literal with an interface name fits; anything longer is made up

if TYPE_CHECKING:
    IPAddress = IPv4Address | IPv6Address
    IPNetwork = IPv4Network | IPv6Network
    OptionalIPAddress = IPv4Address | IPv6Address | None
else:
    IPAddress = json_union("IPAddress", IPv4Address, IPv6Address)
    IPNetwork = json_union("IPNetwork", IPv4Network, IPv6Network)
    # None where Go writes its zero address, the empty string.
    OptionalIPAddress = json_union("OptionalIPAddress", IPv4Address, IPv6Address, type(None))


class MalformedAddress(ValueError):
    """The text is not the address, prefix or `ip:port` it should be."""


def parse_address(text: str) -> IPAddress:
    """`100.64.0.1` or `fd7a:115c:a1e0::1`. Raises MalformedAddress."""
    try:
        return ip_address(text)
    except ValueError as error:
        raise MalformedAddress(f"not an IP address: {text[:_SHOWN]!r}") from error


def is_address(text: str) -> bool:
    """Whether it is an IP address, and so no name to look up."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _decimal(text: str, maximum: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= maximum):
        raise ValueError(text)
    return int(text)


@lru_cache(MAX_CACHED_TEXTS)
def parse_prefix(text: str) -> IPNetwork:
    """`192.168.1.0/24`; host bits are cleared. Raises MalformedAddress."""
    address, slash, length = text.partition("/")
    try:
        if not slash or "%" in address:
            raise ValueError(text)
        return ip_network(f"{address}/{_decimal(length, 128)}", strict=False)
    except ValueError as error:
        raise MalformedAddress(f"not a prefix: {text[:_SHOWN]!r}") from error


class AddrPort(NamedTuple):
    """An IP address literal and a UDP or TCP port, usable as a socket address."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> AddrPort:
        """`192.0.2.9:41641` or `[2001:db8::1]:41641`; the host comes out canonical.

        Raises MalformedAddress.
        """
        return _parse_addr_port(text)

    @property
    def address(self) -> IPAddress:
        """The host as an address object. Raises MalformedAddress when built from something else."""
        return parse_address(self.host)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@lru_cache(MAX_CACHED_TEXTS)
def _parse_addr_port(text: str) -> AddrPort:
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        if len(text) > _MAX_ADDR_PORT_LENGTH:
            raise ValueError(text)
        address = ip_address(host[1:-1] if bracketed else host)
        if bracketed != (address.version == 6):
            raise ValueError(text)
        return AddrPort(str(address), _decimal(port, MAX_PORT))
    except ValueError as error:
        raise MalformedAddress(f"not ip:port: {text[:_SHOWN]!r}") from error


class AddrPorts(Sequence[AddrPort]):
    """An immutable row of `AddrPort`, equal to any sequence of the same ones.

    Messages hold this instead of a tuple because the JSON library would write a tuple of tuples as arrays
    and never ask how an `AddrPort` is spelt.
    """

    __slots__ = ("_items",)

    def __init__(self, items: Iterable[AddrPort] = ()) -> None:
        self._items = tuple(items)

    @overload
    def __getitem__(self, index: int) -> AddrPort: ...
    @overload
    def __getitem__(self, index: slice) -> AddrPorts: ...
    def __getitem__(self, index: int | slice) -> AddrPort | AddrPorts:
        return AddrPorts(self._items[index]) if isinstance(index, slice) else self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[AddrPort]:
        return iter(self._items)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AddrPorts | tuple | list):
            return NotImplemented
        return self._items == tuple(other)

    def __hash__(self) -> int:
        return hash(self._items)

    def __repr__(self) -> str:
        return f"AddrPorts({', '.join(map(str, self._items))})"


if TYPE_CHECKING:
    # What a message takes and gives: any sequence goes in, and is stored as AddrPorts.
    Endpoints = Sequence[AddrPort]
else:
    Endpoints = AddrPorts
