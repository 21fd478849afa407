"""DNS settings for a node (reference §8.6)."""

from __future__ import annotations

import msgspec

from meshproto.addresses import IPAddress
from meshproto.messages.base import Message, always


class Resolver(Message, frozen=True, kw_only=True):
    """An upstream resolver: an IP, `ip:port`, a known DoH URL, or a peerapi `http://…/dns-query`."""

    addr: str = ""
    bootstrap_resolution: tuple[IPAddress, ...] = ()
    use_with_exit_node: bool = False


class DNSRecord(Message, frozen=True, kw_only=True):
    """An extra name. Type empty, `A` or `AAAA`: the value is an address."""

    name: str = always("")
    type: str = ""
    value: str = always("")


class DNSConfig(Message, frozen=True, kw_only=True):
    """Replaces the previous DNS configuration as a whole."""

    resolvers: tuple[Resolver, ...] = ()
    routes: dict[str, tuple[Resolver, ...] | None] = msgspec.field(default_factory=dict)
    """Suffix -> its resolvers; none means that MagicDNS answers. Send () rather than None: clients lose
    null routes when they copy the configuration."""
    fallback_resolvers: tuple[Resolver, ...] = ()
    domains: tuple[str, ...] = ()
    """Search domains, without trailing dot."""
    proxied: bool = False
    """MagicDNS is on."""
    nameservers: tuple[IPAddress, ...] = ()
    cert_domains: tuple[str, ...] = ()
    extra_records: tuple[DNSRecord, ...] = ()
    exit_node_filtered_set: tuple[str, ...] = ()
