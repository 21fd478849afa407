"""What this network's nodes are told about DNS, and the `DNSConfig` made of it (coordinator-behaviour §9).

Clients answer names of nodes and extra records themselves, on 100.100.100.100 (MagicDNS). All nodes are told
the same, except of NextDNS resolvers: those learn which device asks.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from coordinator.model import NodeRecord
from meshproto.messages import DNSConfig, DNSRecord, Resolver

NEXTDNS = "https://dns.nextdns.io"
NEXTDNS_ATTRIBUTE = "nextdns:"
NEXTDNS_NO_DEVICE = "nextdns:no-device-info"
_NEXTDNS_PROFILE = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True)
class DnsSettings:
    """The DNS of the network. Names are in lower case and without a dot at the end.

    `nameservers` are for everything else, replacing a node's own if `overrides_local`; `split` maps a suffix
    to the resolvers for names below it. `domains` complete short names. `reverse_zones` are those of the
    network's addresses.
    """

    magic_dns: bool = False
    overrides_local: bool = False
    nameservers: tuple[str, ...] = ()
    split: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    domains: tuple[str, ...] = ()
    reverse_zones: tuple[str, ...] = ()
    extra_records: tuple[DNSRecord, ...] = ()

    @cached_property
    def shared(self) -> DNSConfig:
        """What every node is told, if no resolver has to know the device."""
        resolvers = _resolvers(self.nameservers)
        routes = {suffix: _resolvers(addresses) for suffix, addresses in self.split.items()}
        if self.magic_dns:
            routes.update(dict.fromkeys(self.reverse_zones, ()))
        return DNSConfig(
            proxied=self.magic_dns,
            domains=self.domains,
            resolvers=resolvers if self.overrides_local else (),
            fallback_resolvers=() if self.overrides_local else resolvers,
            routes=dict(routes),
            extra_records=self.extra_records,
        )

    @cached_property
    def is_personal(self) -> bool:
        """Whether nodes are told different things."""
        return any(
            map(is_nextdns, [*self.nameservers, *(one for many in self.split.values() for one in many)])
        )

    def config_for(self, node: NodeRecord, attributes: Collection[str]) -> DNSConfig:
        """What `node` is told; the very same object for all nodes wherever that is possible.

        Of its attributes, `nextdns:PROFILE` replaces the profile of NextDNS resolvers (the first by name
        where there are several), and `nextdns:no-device-info` keeps the device's name, system and address
        to ourselves.
        """
        if not self.is_personal:
            return self.shared
        profile = _profile(attributes)
        device = {} if NEXTDNS_NO_DEVICE in attributes else _device(node)

        def personal(resolvers: tuple[Resolver, ...]) -> tuple[Resolver, ...]:
            return tuple(_personal(resolver, profile, device) for resolver in resolvers)

        shared = self.shared
        return msgspec.structs.replace(
            shared,
            resolvers=personal(shared.resolvers),
            fallback_resolvers=personal(shared.fallback_resolvers),
            routes={suffix: personal(resolvers or ()) for suffix, resolvers in shared.routes.items()},
        )


def is_nextdns(address: str) -> bool:
    """Whether a resolver is NextDNS itself, not a host whose name only begins like it."""
    return address == NEXTDNS or address.startswith((f"{NEXTDNS}/", f"{NEXTDNS}?"))


def reverse_zones(v4: IPv4Network | None, v6: IPv6Network | None) -> tuple[str, ...]:
    """The zones under in-addr.arpa and ip6.arpa that hold the names of the prefixes' addresses.

    A prefix that ends inside an octet or nibble gives a zone for each value that it covers.
    """
    zones: list[str] = []
    for prefix, digit_bits in ((v4, 8), (v6, 4)):
        if prefix is None:
            continue
        whole = -(-prefix.prefixlen // digit_bits) or 1
        for part in prefix.subnets(new_prefix=whole * digit_bits):
            labels = part.network_address.reverse_pointer.split(".")
            zones.append(".".join(labels[prefix.max_prefixlen // digit_bits - whole :]))
    return tuple(zones)


def _resolvers(addresses: Iterable[str]) -> tuple[Resolver, ...]:
    return tuple(Resolver(addr=address) for address in addresses)


def _profile(attributes: Collection[str]) -> str:
    named = (
        attribute.removeprefix(NEXTDNS_ATTRIBUTE)
        for attribute in attributes
        if attribute.startswith(NEXTDNS_ATTRIBUTE) and attribute != NEXTDNS_NO_DEVICE
    )
    return min((name for name in named if _NEXTDNS_PROFILE.fullmatch(name)), default="")


def _device(node: NodeRecord) -> dict[str, str]:
    device = {"device_name": node.hostname, "device_model": node.hostinfo.os}
    if node.addresses:
        device["device_ip"] = str(node.addresses[0])
    return device


def _personal(resolver: Resolver, profile: str, device: Mapping[str, str]) -> Resolver:
    if not is_nextdns(resolver.addr):
        return resolver
    url = urlsplit(f"{NEXTDNS}/{profile}" if profile else resolver.addr)
    query = {**dict(parse_qsl(url.query, keep_blank_values=True)), **device}
    # Sorted, as Go writes a query: the same node is told the same URL by either server.
    address = urlunsplit(url._replace(query=urlencode(sorted(query.items())))) if device else url.geturl()
    return msgspec.structs.replace(resolver, addr=address)
