"""What a node says of itself (reference §7.3)."""

from __future__ import annotations

import msgspec

from meshproto.addresses import IPNetwork
from meshproto.messages.base import Int64, Message, Uint16, always


class Service(Message, frozen=True, kw_only=True):
    """A listening service: `peerapi4` and `peerapi6` give the port on the node's own tailnet address."""

    proto: str = always("")
    port: Uint16 = always(0)
    description: str = ""


class NetInfo(Message, frozen=True, kw_only=True):
    """Result of a netcheck as the coordinator sees it; None means not known."""

    mapping_varies_by_dest_ip: bool | None = None
    hair_pinning: bool | None = None
    working_ipv6: bool | None = None
    os_has_ipv6: bool | None = None
    working_udp: bool | None = None
    working_icmpv4: bool | None = None
    have_port_map: bool = False
    upnp: bool | None = None
    pmp: bool | None = None
    pcp: bool | None = None
    preferred_derp: Int64 = 0
    """Region id of the home DERP; 0 is not known."""
    link_type: str = ""
    derp_latency: dict[str, float] = msgspec.field(default_factory=dict)
    """`<region>-v4` or `<region>-v6` -> seconds."""
    firewall_mode: str = ""


class Location(Message, frozen=True, kw_only=True):
    """Where a node is; `priority` ranks the exit nodes of one city."""

    country: str = ""
    country_code: str = ""
    city: str = ""
    city_code: str = ""
    latitude: float = 0.0
    longitude: float = 0.0
    priority: Int64 = 0


class Hostinfo(Message, frozen=True, kw_only=True):
    """Inventory, offers and wishes of a node. Every field is optional on the wire.

    `TPM`, free-form inventory that nobody reads, is left out: the coordinator passes a hostinfo on to peers,
    and what it passes on should have a known shape and depth.
    """

    ipn_version: str = ""
    frontend_log_id: str = ""
    backend_log_id: str = ""
    os: str = ""
    os_version: str = ""
    container: bool | None = None
    env: str = ""
    distro: str = ""
    distro_version: str = ""
    distro_code_name: str = ""
    app: str = ""
    desktop: bool | None = None
    package: str = ""
    device_model: str = ""
    push_device_token: str = ""
    hostname: str = ""
    shields_up: bool = False
    sharee_node: bool = False
    no_logs_no_support: bool = False
    wire_ingress: bool = False
    ingress_enabled: bool = False
    allows_update: bool = False
    remote_config: bool = False
    peer_relay: bool = False
    machine: str = ""
    go_arch: str = ""
    go_arch_var: str = ""
    go_version: str = ""
    routable_ips: tuple[IPNetwork, ...] = ()
    """Advertised routes, exit routes included."""
    request_tags: tuple[str, ...] = ()
    wol_macs: tuple[str, ...] = msgspec.field(name="WoLMACs", default=())
    services: tuple[Service, ...] = ()
    net_info: NetInfo | None = None
    ssh_host_keys: tuple[str, ...] = msgspec.field(name="sshHostKeys", default=())
    cloud: str = ""
    userspace: bool | None = None
    userspace_router: bool | None = None
    app_connector: bool | None = None
    services_hash: str = ""
    exit_node_id: str = ""
    location: Location | None = None
    state_encrypted: bool | None = None
