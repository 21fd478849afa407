"""The nftables tables of a node, as chains of rules. Pure.

The table `inet meshnode-<interface>`:

    input        an address of a peer may come in by the tunnel only
    forward      from the tunnel to what we serve, and nothing else; TCP segments made to fit the tunnel
    postrouting  what is forwarded from the tunnel leaves under our address (snat)
    prerouting   with an exit node in use: an answer leaves by the interface by which the question came, and
    output       what arrives there passes a strict reverse-path filter

and, with an exit node in use on a host with such a filter, `arp meshnode-<interface>`, because the filter
also judges who may ask for our link-layer address.

An `accept` here does not overrule a `drop` in another table (ufw, firewalld, Docker); see docs/adr/0003.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import IPv4Network, IPv6Network

from meshnode.linux.marks import Ownership
from meshnode.linux.nft_json import (
    ACCEPT,
    COUNTER,
    DROP,
    FILTER,
    MANGLE,
    MASQUERADE,
    NFPROTO,
    RETURN,
    SRCNAT,
    Chain,
    Command,
    Statement,
    address_in,
    address_is,
    address_type,
    connection_is,
    ct,
    has_our_mark,
    lower_segment_size,
    match,
    meta,
    payload,
    set_our_mark,
)
from meshnode.linux.router_config import FAMILIES, RouterConfig
from meshproto.addresses import IPNetwork
from meshproto.routes import CGNAT_RANGE, sorted_prefixes

Tables = dict[str, tuple[Chain, ...]]
"""By nft family: the chains of the table of our name."""

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


def tables(config: RouterConfig, own: Ownership, *, strict: bool = False) -> Tables:
    """The tables for `config`; none for an empty one. `strict`: the host has a strict reverse-path filter."""
    if config.is_empty:
        return {}
    chains = [
        Chain("input", "filter", "input", FILTER, tuple(_input(config, own))),
        Chain("forward", "filter", "forward", FILTER, tuple(_forward(config, own))),
        Chain("postrouting", "nat", "postrouting", SRCNAT, tuple(_postrouting(config, own))),
    ]
    if not any(config.uses_exit(version) for version in FAMILIES):
        return {"inet": tuple(chains)}
    chains.append(Chain("prerouting", "filter", "prerouting", MANGLE, tuple(_prerouting(config, own))))
    chains.append(Chain("output", "route", "output", MANGLE, tuple(_output())))
    if not (strict and config.uses_exit(4)):
        return {"inet": tuple(chains)}
    return {"inet": tuple(chains), "arp": (Chain("input", "filter", "input", FILTER, tuple(_arp(own))),)}


def transaction(wanted: Tables, own: Ownership, present: Collection[str]) -> list[Command]:
    """The commands that leave exactly the wanted tables, given the families in which we have one now."""
    commands = []
    for family in sorted({*wanted, *present}):
        table = {"table": {"family": family, "name": own.nft_table}}
        # Adding first, so that removing does not fail if someone else has removed it in the meantime.
        commands += [{"add": table}, {"delete": table}]
        if family in wanted:
            commands.append({"add": table})
            for chain in wanted[family]:
                commands += chain.commands(family, own.nft_table)
    return commands


def _from(own: Ownership) -> Statement:
    return match(meta("iifname"), own.interface)


def _to(own: Ownership, op: str = "==") -> Statement:
    return match(meta("oifname"), own.interface, op)


def _input(config: RouterConfig, own: Ownership) -> Iterator[list[Statement]]:
    """Spoofing: only packets from a real network (Ethernet, Wi-Fi) are judged, not those of other tunnels."""
    yield [_from(own), ACCEPT]
    if config.listen_port:
        # WireGuard knows peers by their keys: a provider may well give one the address that another has here.
        yield [match(payload("udp", "dport"), config.listen_port), ACCEPT]
    yield [connection_is("established", "related"), ACCEPT]
    for version in FAMILIES:
        if sources := config.peer_routes(version):
            # In this order: nft would take a leading iiftype for a promise about the link-layer header.
            yield [address_in(version, "saddr", sources), match(meta("iiftype"), "ether"), COUNTER, DROP]


def _forward(config: RouterConfig, own: Ownership) -> Iterator[list[Statement]]:
    for interface in (_from(own), _to(own)):
        for version in FAMILIES:
            size = config.mtu - HEADERS[version]
            yield [interface, match(meta("nfproto"), NFPROTO[version]), *lower_segment_size(size)]
    yield [_from(own), connection_is("established", "related"), ACCEPT]
    yield [_from(own), match(ct("status"), "dnat", "in"), ACCEPT]  # a port published here
    for version in FAMILIES:
        for destination in _served(config, version):
            yield [_from(own), destination, ACCEPT]
    yield [_from(own), COUNTER, DROP]


def _postrouting(config: RouterConfig, own: Ownership) -> Iterator[list[Statement]]:
    if not config.snat:
        return
    for version in FAMILIES:
        for destination in _served(config, version):
            yield [_from(own), _to(own, "!="), destination, MASQUERADE]


def _served(config: RouterConfig, version: int) -> Iterator[Statement]:
    """Matches for what may be forwarded to: the subnets we serve, and the internet for an exit node."""
    if subnets := config.served(version):
        yield address_in(version, "daddr", subnets)
    if config.offers_exit(version):
        yield address_in(version, "daddr", NOT_INTERNET[version], "!=")


def _prerouting(config: RouterConfig, own: Ownership) -> Iterator[list[Statement]]:
    """What arrives by another interface than the tunnel.

    To the tunnel's address: dropped, since someone near us could probe the tunnel's connections by it
    (CVE-2019-14899); not if it comes from ourselves or from networks that bypass the tunnel.
    To us: the packet is marked, so that the reverse-path filter (where src_valid_mark is set, sysctl_plan.py)
    looks for the way back in the main table; so is the connection, for the answers. An answer gets that mark.
    """
    yield [_from(own), RETURN]
    for version in FAMILIES:
        if addresses := [address.ip for address in config.addresses if address.version == version]:
            foreign = [address_type("saddr", "local", op="!=")]
            if local := _local(config, version):
                foreign.append(address_in(version, "saddr", local, "!="))
            yield [address_is(version, "daddr", addresses), *foreign, COUNTER, DROP]
    to_us = address_type("daddr", "local", "broadcast", "multicast")
    yield [match(ct("direction"), "original"), to_us, set_our_mark(ct("mark")), set_our_mark(meta("mark"))]
    yield [match(ct("direction"), "reply"), has_our_mark(ct("mark")), set_our_mark(meta("mark"))]


def _local(config: RouterConfig, version: int) -> tuple[IPNetwork, ...]:
    return sorted_prefixes(net for net in config.local_routes if net.version == version)


def _output() -> Iterator[list[Statement]]:
    """Own connections are remembered by their mark; answers to others leave by the main table.

    Not only new connections: those of the daemon are there before an exit node is chosen.
    """
    yield [has_our_mark(meta("mark")), set_our_mark(ct("mark"))]
    yield [match(ct("direction"), "reply"), has_our_mark(ct("mark")), set_our_mark(meta("mark"))]


def _arp(own: Ownership) -> Iterator[list[Statement]]:
    yield [match(meta("iifname"), own.interface, "!="), set_our_mark(meta("mark"))]
