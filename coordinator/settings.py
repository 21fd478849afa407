"""What every map holds besides nodes and users: fixed by the configuration, part of the snapshot."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network

from coordinator.derp_map import Relays
from coordinator.dns_settings import DnsSettings
from meshproto.routes import CGNAT_RANGE, ULA_RANGE


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """The facts of this network.

    `server_url` is where nodes reach the coordinator, without a slash at the end; empty when only they
    know. `prefix_v4` and `prefix_v6` are where addresses come from; None leaves that family out.
    `random_allocation` picks addresses at random instead of in sequence. `base_domain` follows the node's
    name in maps; empty for bare names. `node_expiry` is the lifetime of a node key when the node asks for
    none; None: it never ends.
    """

    server_url: str = "http://127.0.0.1:8080"
    prefix_v4: IPv4Network | None = CGNAT_RANGE
    prefix_v6: IPv6Network | None = ULA_RANGE
    random_allocation: bool = False
    base_domain: str = ""
    node_expiry: timedelta | None = None
    relays: Relays = field(default_factory=Relays)
    dns: DnsSettings = field(default_factory=DnsSettings)
