"""Cryptokey routing: from an address to the peer that owns the longest prefix around it (reference §3.8).

One table serves both directions and all peers: the destination of what leaves, the source of what arrives.
A prefix has one owner; inserting it for another peer moves it.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from meshnode.dataplane.types import NO_PEER, IPNetwork

__all__ = ["AllowedIPs"]

MAX_CACHED_ADDRESSES: Final = 4096  # per family; the cache is emptied when full


class _Family:
    """The prefixes of one address family, a dictionary per prefix length, tried from the longest."""

    __slots__ = ("_bits", "_cache", "_lengths", "_tables")

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._tables: dict[int, dict[int, int]] = {}  # prefix length -> leading bits -> peer
        self._lengths: list[tuple[int, dict[int, int]]] = []  # (shift, table), longest prefix first
        self._cache: dict[bytes, int] = {}

    def insert(self, network: int, length: int, peer: int) -> None:
        self._tables.setdefault(length, {})[network >> (self._bits - length)] = peer
        self._changed()

    def remove(self, network: int, length: int, peer: int) -> None:
        table = self._tables.get(length, {})
        leading = network >> (self._bits - length)
        if table.get(leading) == peer:
            del table[leading]
            self._changed()

    def remove_peer(self, peer: int) -> None:
        for length, table in self._tables.items():
            self._tables[length] = {leading: owner for leading, owner in table.items() if owner != peer}
        self._changed()

    def prefixes_of(self, peer: int) -> list[tuple[int, int]]:
        return [
            (leading << (self._bits - length), length)
            for length, table in self._tables.items()
            for leading, owner in table.items()
            if owner == peer
        ]

    def lookup(self, address: bytes) -> int:
        peer = self._cache.get(address)
        if peer is None:
            peer = self._search(int.from_bytes(address, "big"))
            if len(self._cache) >= MAX_CACHED_ADDRESSES:
                self._cache.clear()
            self._cache[address] = peer
        return peer

    def _search(self, address: int) -> int:
        for shift, table in self._lengths:
            peer = table.get(address >> shift)
            if peer is not None:
                return peer
        return NO_PEER

    def _changed(self) -> None:
        self._tables = {length: table for length, table in self._tables.items() if table}
        self._lengths = [
            (self._bits - length, self._tables[length]) for length in sorted(self._tables, reverse=True)
        ]
        self._cache.clear()


class AllowedIPs:
    """Prefix -> peer, a peer being an integer >= 0 of the caller's choice."""

    __slots__ = ("_ipv4", "_ipv6")

    def __init__(self) -> None:
        self._ipv4 = _Family(32)
        self._ipv6 = _Family(128)

    def insert(self, prefix: IPNetwork, peer: int) -> None:
        """Give `prefix` to `peer`, taking it from another if need be."""
        self._family(prefix).insert(int(prefix.network_address), prefix.prefixlen, peer)

    def remove(self, prefix: IPNetwork, peer: int) -> None:
        """Take `prefix` from `peer`. Nothing happens when it belongs to another or to nobody."""
        self._family(prefix).remove(int(prefix.network_address), prefix.prefixlen, peer)

    def remove_peer(self, peer: int) -> None:
        """Take all prefixes of `peer`."""
        self._ipv4.remove_peer(peer)
        self._ipv6.remove_peer(peer)

    def lookup(self, address: bytes) -> int:
        """The owner of the longest prefix around `address` (4 or 16 bytes), or NO_PEER."""
        if len(address) == 4:
            return self._ipv4.lookup(address)
        return self._ipv6.lookup(address) if len(address) == 16 else NO_PEER

    def prefixes_of(self, peer: int) -> frozenset[IPNetwork]:
        """The prefixes that `peer` owns now."""
        ipv4: set[IPNetwork] = {ipaddress.IPv4Network(found) for found in self._ipv4.prefixes_of(peer)}
        return frozenset(ipv4 | {ipaddress.IPv6Network(found) for found in self._ipv6.prefixes_of(peer)})

    def _family(self, prefix: IPNetwork) -> _Family:
        return self._ipv4 if prefix.version == 4 else self._ipv6
