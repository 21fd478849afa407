"""Words of nftables' JSON syntax (libnftables-json(5)): the few that our tables are written with. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Any

from meshnode.linux.marks import FWMARK, FWMARK_MASK
from meshproto.addresses import IPAddress, IPNetwork

Statement = dict[str, Any]
Command = dict[str, Any]

ACCEPT: Statement = {"accept": None}
DROP: Statement = {"drop": None}
RETURN: Statement = {"return": None}
MASQUERADE: Statement = {"masquerade": None}
COUNTER: Statement = {"counter": None}

# Hook priorities by the names of nft(8).
FILTER, MANGLE, SRCNAT = 0, -150, 100

IP = {4: "ip", 6: "ip6"}
NFPROTO = {4: "ipv4", 6: "ipv6"}


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain with its rules; what they say nothing of is accepted."""

    name: str
    kind: str
    hook: str
    priority: int
    rules: tuple[list[Statement], ...]

    def commands(self, family: str, table: str) -> Iterator[Command]:
        """What creates the chain in a table that has none of this name."""
        where = {"family": family, "table": table}
        base = {"type": self.kind, "hook": self.hook, "prio": self.priority, "policy": "accept"}
        yield {"add": {"chain": {**where, "name": self.name, **base}}}
        for rule in self.rules:
            yield {"add": {"rule": {**where, "chain": self.name, "expr": rule}}}


def match(left: Statement, right: Any, op: str = "==") -> Statement:
    """A condition; `op` "in" matches bits of a field."""
    return {"match": {"op": op, "left": left, "right": right}}


def meta(key: str) -> Statement:
    """A property of the packet: `mark`, `iifname` ..."""
    return {"meta": {"key": key}}


def ct(key: str) -> Statement:
    """A property of the connection: `mark`, `direction` ..."""
    return {"ct": {"key": key}}


def payload(protocol: str, field: str) -> Statement:
    """A header field."""
    return {"payload": {"protocol": protocol, "field": field}}


def connection_is(*states: str) -> Statement:
    """The connection is in one of these states."""
    return match(ct("state"), list(states), "in")


def address_type(flag: str, *types: str, op: str = "==") -> Statement:
    """To this host, source or destination (`flag`) is of one of these types: `local`, `broadcast` ..."""
    kinds = types[0] if len(types) == 1 else {"set": list(types)}
    return match({"fib": {"result": "type", "flags": [flag]}}, kinds, op)


def address_in(version: int, field: str, networks: Iterable[IPNetwork], op: str = "==") -> Statement:
    """Source or destination (`field`) is in one of the networks, which may overlap."""
    elements = [_prefix(net) for net in _collapse(networks)]
    return match(payload(IP[version], field), {"set": elements}, op)


def _collapse(networks: Iterable[IPNetwork]) -> Iterator[IPNetwork]:
    mixed = list(networks)
    yield from collapse_addresses(net for net in mixed if isinstance(net, IPv4Network))
    yield from collapse_addresses(net for net in mixed if isinstance(net, IPv6Network))


def _prefix(net: IPNetwork) -> Any:
    if net.prefixlen == net.max_prefixlen:
        return str(net.network_address)
    return {"prefix": {"addr": str(net.network_address), "len": net.prefixlen}}


def address_is(version: int, field: str, addresses: Iterable[IPAddress]) -> Statement:
    """Source or destination (`field`) is one of the addresses."""
    return match(payload(IP[version], field), {"set": [str(address) for address in addresses]})


def mangle(key: Statement, value: Any) -> Statement:
    """Set a field."""
    return {"mangle": {"key": key, "value": value}}


def lower_segment_size(size: int) -> list[Statement]:
    """In a TCP SYN, announce at most `size` bytes per segment; nft never raises what is there."""
    flags = {"&": [payload("tcp", "flags"), ["syn", "rst"]]}
    return [match(flags, "syn"), mangle({"tcp option": {"name": "maxseg", "field": "size"}}, size)]


def has_our_mark(key: Statement) -> Statement:
    """`key` (of packet or connection) carries our mark."""
    return match({"&": [key, FWMARK_MASK]}, FWMARK)


def set_our_mark(key: Statement) -> Statement:
    """Put our mark in, and leave the bits of others as they are."""
    return mangle(key, {"|": [{"&": [key, FWMARK_MASK ^ 0xFFFF_FFFF]}, FWMARK]})
