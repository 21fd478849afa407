"""The nftables table of a node, as the commands of one `nft -j` transaction. Pure.

The table is `inet meshnode-<interface>`, ours alone; it is replaced as a whole. Its chains:

    input        an address of a peer may come in by the tunnel only
    forward      from the tunnel to what we serve, and nothing else; TCP segments made to fit the tunnel
    postrouting  what is forwarded from the tunnel leaves under our address (snat)
    prerouting   with an exit node in use: an answer leaves by the interface by which the question came, and
    output       what arrives there passes a strict reverse-path filter

An `accept` here does not overrule a `drop` in another table (ufw, firewalld, Docker); see docs/adr/0003.
Syntax: libnftables-json(5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses
from typing import Any

from meshnode.linux.marks import FWMARK, FWMARK_MASK, Ownership
from meshnode.linux.router_config import FAMILIES, RouterConfig
from meshproto.addresses import IPNetwork
from meshproto.routes import CGNAT_RANGE

Statement = dict[str, Any]
Command = dict[str, Any]

# Bytes of IP and TCP headers without options, which an MTU has to hold besides the segment.
HEADERS = {4: 20 + 20, 6: 40 + 20}

# Not the internet: an exit node does not lead here. Its own LAN is reached where it is served as a subnet.
NOT_INTERNET: dict[int, tuple[IPNetwork, ...]] = {
    4: (
        IPv4Network("10.0.0.0/8"),
        CGNAT_RANGE,
        IPv4Network("169.254.0.0/16"),
        IPv4Network("172.16.0.0/12"),
        IPv4Network("192.168.0.0/16"),
        IPv4Network("224.0.0.0/4"),
    ),
    6: (IPv6Network("fc00::/7"), IPv6Network("fe80::/10"), IPv6Network("ff00::/8")),
}

IP = {4: "ip", 6: "ip6"}
NFPROTO = {4: "ipv4", 6: "ipv6"}

ACCEPT: Statement = {"accept": None}
DROP: Statement = {"drop": None}
RETURN: Statement = {"return": None}
MASQUERADE: Statement = {"masquerade": None}
COUNTER: Statement = {"counter": None}

# Hook priorities by the names of nft(8).
FILTER, MANGLE, SRCNAT = 0, -150, 100


def removal(own: Ownership) -> list[Command]:
    """Commands that remove our table, and succeed where there is none."""
    table = {"table": {"family": "inet", "name": own.nft_table}}
    return [{"add": table}, {"delete": table}]


def ruleset(config: RouterConfig, own: Ownership) -> list[Command]:
    """Commands that replace our table by the one for `config`; an empty config leaves no table."""
    if config.is_empty:
        return removal(own)
    chains = [
        _Chain("input", "filter", "input", FILTER, list(_input(config, own))),
        _Chain("forward", "filter", "forward", FILTER, list(_forward(config, own))),
        _Chain("postrouting", "nat", "postrouting", SRCNAT, list(_postrouting(config, own))),
    ]
    if any(config.uses_exit(version) for version in FAMILIES):
        chains.append(_Chain("prerouting", "filter", "prerouting", MANGLE, list(_prerouting(own))))
        chains.append(_Chain("output", "route", "output", MANGLE, list(_output())))
    table = {"table": {"family": "inet", "name": own.nft_table}}
    return [*removal(own), {"add": table}, *(command for chain in chains for command in chain.commands(own))]


def _input(config: RouterConfig, own: Ownership) -> Iterator[list[Statement]]:
    """Spoofing: only packets from a real network (Ethernet, Wi-Fi) are judged, not those of other tunnels."""
    yield [_from(own), ACCEPT]
    if config.listen_port:
        # WireGuard knows peers by their keys: a provider may well give one the address that another has here.
        yield [_match({"payload": {"protocol": "udp", "field": "dport"}}, config.listen_port), ACCEPT]
    yield [_ct_state("established", "related"), ACCEPT]
    for version in FAMILIES:
        if sources := config.peer_routes(version):
            # In this order: nft would take a leading iiftype for a promise about the link-layer header.
            yield [_address(version, "saddr", sources), _match(_meta("iiftype"), "ether"), COUNTER, DROP]


def _forward(config: RouterConfig, own: Ownership) -> Iterator[list[Statement]]:
    for interface in (_from(own), _to(own)):
        for version in FAMILIES:
            yield [interface, _match(_meta("nfproto"), NFPROTO[version]), *_clamp_mss(config.mtu, version)]
    yield [_from(own), _ct_state("established", "related"), ACCEPT]
    yield [_from(own), _match({"ct": {"key": "status"}}, "dnat", "in"), ACCEPT]  # a port published here
    for version in FAMILIES:
        for destination in _served(config, version):
            yield [_from(own), *destination, ACCEPT]
    yield [_from(own), COUNTER, DROP]


def _postrouting(config: RouterConfig, own: Ownership) -> Iterator[list[Statement]]:
    if not config.snat:
        return
    for version in FAMILIES:
        for destination in _served(config, version):
            yield [_from(own), _to(own, "!="), *destination, MASQUERADE]


def _served(config: RouterConfig, version: int) -> Iterator[list[Statement]]:
    """Matches for what may be forwarded to: the subnets we serve, and the internet for an exit node."""
    if subnets := config.served(version):
        yield [_address(version, "daddr", subnets)]
    if config.offers_exit(version):
        yield [_address(version, "daddr", NOT_INTERNET[version], "!=")]


def _prerouting(own: Ownership) -> Iterator[list[Statement]]:
    """What arrives by another interface than the tunnel.

    To us: marked, so that the reverse-path filter (where src_valid_mark is set, sysctl_plan.py) looks for the
    way back in the main table; and the connection is marked, for the answers. An answer: gets that mark.
    """
    local = {"fib": {"result": "type", "flags": ["daddr"]}}
    yield [_from(own), RETURN]
    to_us = _match(local, {"set": ["local", "broadcast", "multicast"]})
    yield [_match(_ct("direction"), "original"), to_us, _mark(_ct("mark")), _mark(_meta("mark"))]
    yield [_match(_ct("direction"), "reply"), _has_mark(_ct("mark")), _mark(_meta("mark"))]


def _output() -> Iterator[list[Statement]]:
    """Own connections are remembered by their mark; answers to others leave by the main table."""
    yield [_has_mark(_meta("mark")), _ct_state("new"), _mark(_ct("mark"))]
    yield [_match(_ct("direction"), "reply"), _has_mark(_ct("mark")), _mark(_meta("mark"))]


class _Chain:
    """A base chain with its rules."""

    def __init__(
        self, name: str, kind: str, hook: str, priority: int, rules: Sequence[list[Statement]]
    ) -> None:
        self._name = name
        self._base = {"type": kind, "hook": hook, "prio": priority, "policy": "accept"}
        self._rules = rules

    def commands(self, own: Ownership) -> Iterator[Command]:
        where = {"family": "inet", "table": own.nft_table}
        yield {"add": {"chain": {**where, "name": self._name, **self._base}}}
        for rule in self._rules:
            yield {"add": {"rule": {**where, "chain": self._name, "expr": rule}}}


# Matches and statements


def _match(left: Statement, right: Any, op: str = "==") -> Statement:
    return {"match": {"op": op, "left": left, "right": right}}


def _meta(key: str) -> Statement:
    return {"meta": {"key": key}}


def _ct(key: str) -> Statement:
    return {"ct": {"key": key}}


def _from(own: Ownership) -> Statement:
    return _match(_meta("iifname"), own.interface)


def _to(own: Ownership, op: str = "==") -> Statement:
    return _match(_meta("oifname"), own.interface, op)


def _ct_state(*states: str) -> Statement:
    return _match(_ct("state"), list(states), "in")


def _address(version: int, field: str, networks: Iterable[IPNetwork], op: str = "==") -> Statement:
    """Source or destination in one of the networks, which may overlap."""
    elements = [_prefix(net) for net in _collapse(networks)]
    return _match({"payload": {"protocol": IP[version], "field": field}}, {"set": elements}, op)


def _collapse(networks: Iterable[IPNetwork]) -> Iterator[IPNetwork]:
    mixed = list(networks)
    yield from collapse_addresses(net for net in mixed if isinstance(net, IPv4Network))
    yield from collapse_addresses(net for net in mixed if isinstance(net, IPv6Network))


def _prefix(net: IPNetwork) -> Any:
    if net.prefixlen == net.max_prefixlen:
        return str(net.network_address)
    return {"prefix": {"addr": str(net.network_address), "len": net.prefixlen}}


def _clamp_mss(mtu: int, version: int) -> list[Statement]:
    """Lower the segment size announced in a SYN to what the tunnel carries; nft never raises it."""
    flags = {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["syn", "rst"]]}
    size = {"tcp option": {"name": "maxseg", "field": "size"}}
    return [_match(flags, "syn"), _mangle(size, mtu - HEADERS[version])]


def _mangle(key: Statement, value: Any) -> Statement:
    return {"mangle": {"key": key, "value": value}}


def _has_mark(key: Statement) -> Statement:
    return _match({"&": [key, FWMARK_MASK]}, FWMARK)


def _mark(key: Statement) -> Statement:
    """Put our mark in, and leave the bits of others as they are."""
    return _mangle(key, {"|": [{"&": [key, FWMARK_MASK ^ 0xFFFF_FFFF]}, FWMARK]})
