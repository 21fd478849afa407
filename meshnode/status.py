"""The status document: this node and its peers, in the shape of Tailscale's `status --json` (node behaviour
§2.6).

Computed from values at one moment. The text of `meshnode status` is made from the same document.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from meshnode.backend_state import BackendState
from meshnode.dataplane import DropReason
from meshnode.dataplane_document import NO_OFFLOADS, Offloads, data_plane_document
from meshnode.disco.events import DiscoDrop
from meshnode.netmap.derive import is_expired
from meshnode.netmap.lookup import region_code
from meshnode.netmap.session import NetworkMap
from meshnode.prefs import Prefs
from meshproto.addresses import AddrPort
from meshproto.gotime import ZERO_TIME
from meshproto.keys import NodePublic
from meshproto.messages import NetInfo, Node
from meshproto.routes import offers_exit

Document = dict[str, Any]

ACTIVE_WITHIN_S = 45.0
"""A peer counts as active for so long after we last sent to it."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went between us and one peer. Bytes are of UDP payload."""

    rx_bytes: int = 0
    tx_bytes: int = 0
    last_handshake: float | None = None
    """Unix time."""
    sent_ago_s: float | None = None
    """Seconds since we last sent to it."""
    address: AddrPort | None = None
    """Where it is reached directly, once it has answered from there."""
    relay: int = 0
    """The DERP region that data for it goes to now; 0 on any other way."""
    peer_relay: str = ""
    """The peer relay that data for it goes through now, as `ip:port:vni:N`; empty on any other way."""

    @property
    def is_active(self) -> bool:
        return self.sent_ago_s is not None and self.sent_ago_s < ACTIVE_WITHIN_S


class Way(enum.Enum):
    """How a WireGuard datagram travels. The value is the label `path` of Tailscale's metrics."""

    DIRECT_IPV4 = "direct_ipv4"
    DIRECT_IPV6 = "direct_ipv6"
    DERP = "derp"
    PEER_RELAY_IPV4 = "peer_relay_ipv4"
    PEER_RELAY_IPV6 = "peer_relay_ipv6"


class Flow(NamedTuple):
    """What went one way. Bytes are of WireGuard datagrams."""

    packets: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What the tunnel has counted since its start."""

    inbound: Mapping[Way, Flow] = field(default_factory=dict)
    outbound: Mapping[Way, Flow] = field(default_factory=dict)
    drops: Mapping[DropReason, int] = field(default_factory=dict)
    disco_drops: Mapping[DiscoDrop, int] = field(default_factory=dict)
    receive_overflow: int = 0
    """Datagrams that the kernel dropped because they came faster than we read."""
    handshakes: int = 0
    """Completed WireGuard handshakes."""
    path_changes: int = 0
    """Times that data for a peer was sent another way than before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusFacts:
    """All that the document is made from."""

    version: str
    state: BackendState
    node_key: NodePublic | None
    prefs: Prefs
    hostname: str
    network_map: NetworkMap | None = None
    auth_url: str = ""
    is_polling: bool = False
    """A map stream is alive: the coordinator sees us online."""
    endpoints: tuple[AddrPort, ...] = ()
    home_region: int = 0
    """The DERP region where we listen; 0 is none."""
    exit_node: Node | None = None
    traffic: Mapping[NodePublic, Traffic] = field(default_factory=dict)
    health: tuple[str, ...] = ()
    offloads: Offloads = NO_OFFLOADS
    wall: float = 0.0


NO_TRAFFIC = Traffic()


def status_document(now: StatusFacts, *, peers: bool = True) -> Document:
    """The whole document; without `peers` only what concerns this node."""
    network_map = now.network_map
    is_connected = now.state in (BackendState.STARTING, BackendState.RUNNING)
    addresses = _addresses(network_map.self_node) if network_map is not None and is_connected else []
    suffix = magic_dns_suffix(network_map)
    return {
        "Version": now.version,
        "TUN": True,
        "BackendState": now.state.label,
        "HaveNodeKey": now.node_key is not None,
        "AuthURL": now.auth_url,
        "TailscaleIPs": addresses,
        "Self": _self_status(now, addresses),
        "ExitNodeStatus": _exit_node_status(now),
        "Health": list(now.health),
        "MagicDNSSuffix": suffix,
        "CurrentTailnet": _tailnet(network_map, suffix),
        "CertDomains": None,
        "Peer": _peer_statuses(now) if peers and network_map is not None else None,
        "User": _users(network_map),
        "ClientVersion": None,
        "DataPlane": data_plane_document(now.offloads),
    }


def home_region(net_info: NetInfo | None) -> int:
    """The DERP region where we listen; 0 is none."""
    return net_info.preferred_derp if net_info is not None else 0


def magic_dns_suffix(network_map: NetworkMap | None) -> str:
    """What follows the first label of our own name, without the dot at the end."""
    if network_map is None:
        return ""
    return network_map.self_node.name.rstrip(".").partition(".")[2]


def _tailnet(network_map: NetworkMap | None, suffix: str) -> Document | None:
    if network_map is None:
        return None
    dns = network_map.dns_config
    return {
        "Name": network_map.domain,
        "MagicDNSSuffix": suffix,
        "MagicDNSEnabled": dns is not None and dns.proxied,
    }


def _exit_node_status(now: StatusFacts) -> Document | None:
    if not now.prefs.uses_exit_node:
        return None
    node = now.exit_node
    return {
        "ID": node.stable_id if node is not None else now.prefs.exit_node_id,
        "Online": node is not None and node.online is not False,
        "TailscaleIPs": [str(own) for own in node.addresses] if node is not None else [],
    }


def _users(network_map: NetworkMap | None) -> Document | None:
    if network_map is None:
        return None
    return {
        str(profile.id): {
            "ID": profile.id,
            "LoginName": profile.login_name,
            "DisplayName": profile.display_name,
            "ProfilePicURL": profile.profile_pic_url,
        }
        for profile in network_map.user_profiles.values()
    }


def _self_status(now: StatusFacts, addresses: list[str]) -> Document:
    if now.network_map is None:
        empty = _node_status(Node(online=now.is_polling), NO_TRAFFIC, wall=now.wall)
        key = str(now.node_key or NodePublic.zero())
        return empty | {"HostName": now.hostname, "OS": "linux", "PublicKey": key, "TailscaleIPs": []}
    status = _node_status(now.network_map.self_node, NO_TRAFFIC, wall=now.wall)
    return status | {
        "TailscaleIPs": addresses,
        "Addrs": [str(endpoint) for endpoint in now.endpoints],
        "Relay": region_code(now.network_map.derp_map, now.home_region),
        "Online": now.is_polling,
        "InNetworkMap": True,
        "InEngine": False,
        "LastSeen": _time(None),
    }


def _peer_statuses(now: StatusFacts) -> Document:
    assert now.network_map is not None
    chosen = now.exit_node.id if now.exit_node is not None else None
    return {
        str(peer.key): _node_status(peer, now.traffic.get(peer.key), wall=now.wall)
        | {"ExitNode": peer.id == chosen, "Relay": _relay(now, peer)}
        for peer in now.network_map.peers.values()
    }


def _node_status(node: Node, traffic: Traffic | None, *, wall: float) -> Document:
    seen = traffic or NO_TRAFFIC
    hostinfo = node.hostinfo
    granted = node.effective_allowed_ips
    return {
        "ID": node.stable_id,
        "NodeID": node.id,
        "PublicKey": str(node.key),
        "HostName": hostinfo.hostname if hostinfo is not None else "",
        "DNSName": node.name,
        "OS": hostinfo.os if hostinfo is not None else "",
        "UserID": node.user,
        "Tags": list(node.tags) or None,
        "TailscaleIPs": _addresses(node),
        "AllowedIPs": [str(prefix) for prefix in granted],
        "PrimaryRoutes": [str(prefix) for prefix in node.primary_routes] or None,
        "Addrs": None,
        "CurAddr": str(seen.address) if seen.address is not None and seen.is_active else "",
        "Relay": "",
        "PeerRelay": seen.peer_relay if seen.is_active else "",
        "RxBytes": seen.rx_bytes,
        "TxBytes": seen.tx_bytes,
        "Created": _time(node.created),
        "LastWrite": _unix_time(wall - seen.sent_ago_s if seen.sent_ago_s is not None else None),
        "LastSeen": _time(None if node.online else node.last_seen),
        "LastHandshake": _unix_time(seen.last_handshake),
        "Online": bool(node.online),
        "ExitNode": False,
        "ExitNodeOption": offers_exit(granted),
        "Active": seen.is_active,
        "PeerAPIURL": None,
        "Capabilities": list(node.cap_map) or None,
        "CapMap": {name: None if args is None else list(args) for name, args in node.cap_map.items()} or None,
        "InNetworkMap": True,
        "InMagicSock": traffic is not None,
        "InEngine": traffic is not None,
        "Expired": is_expired(node, wall),
        "KeyExpiry": _time(node.key_expiry) if node.key_expiry is not None else None,
    }


def _relay(now: StatusFacts, peer: Node) -> str:
    """The code of the DERP region that data goes to, or else would go to: the peer's home."""
    traffic = now.traffic.get(peer.key, NO_TRAFFIC)
    derp_map = now.network_map.derp_map if now.network_map is not None else None
    return region_code(derp_map, traffic.relay or peer.effective_home_derp)


def _addresses(node: Node) -> list[str]:
    return [str(own.network_address) for own in node.addresses]


def _time(time: datetime | None) -> str:
    return (time or ZERO_TIME).astimezone(UTC).isoformat().replace("+00:00", "Z")


def _unix_time(seconds: float | None) -> str:
    return _time(None if seconds is None else datetime.fromtimestamp(seconds, UTC))
