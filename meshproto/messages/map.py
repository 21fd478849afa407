"""The long poll: a node's map request (reference §7) and the stream of map responses (§8.2)."""

from __future__ import annotations

import msgspec

from meshproto.addresses import AddrPorts, Endpoints, OptionalIPAddress
from meshproto.gotime import OptionalTime
from meshproto.keys import DiscoPublic, NodePublic
from meshproto.messages.base import Int64, Message, always
from meshproto.messages.derp import DERPMap
from meshproto.messages.dns import DNSConfig
from meshproto.messages.filter import FilterRule
from meshproto.messages.hostinfo import Hostinfo
from meshproto.messages.node import Node, PeerChange
from meshproto.messages.ping import PingRequest
from meshproto.messages.ssh import SSHPolicy

COMPRESS_ZSTD = "zstd"


class MapRequest(Message, frozen=True, kw_only=True):
    """Body of `POST /machine/map`: a streaming poll (`stream`) or a lite update (`omit_peers` alone)."""

    version: Int64 = always(0)
    compress: str = ""
    """`COMPRESS_ZSTD` or empty."""
    keep_alive: bool = False
    node_key: NodePublic = always(NodePublic.zero())
    disco_key: DiscoPublic = always(DiscoPublic.zero())
    hardware_attestation_key: str = ""
    hardware_attestation_key_signature: bytes | None = None
    hardware_attestation_key_signature_timestamp: OptionalTime = None
    stream: bool = False
    hostinfo: Hostinfo | None = always(None)
    map_session_handle: str = ""
    map_session_seq: Int64 = 0
    endpoints: Endpoints = AddrPorts()
    endpoint_types: tuple[Int64, ...] = ()
    """Parallel to `endpoints`: 0 unknown, 1 local, 2 STUN, 3 mapped, 4 STUN and local port, 5 explicit."""
    tka_head: str = ""
    read_only: bool = False
    omit_peers: bool = False
    debug_flags: tuple[str, ...] = ()
    connection_handle_for_test: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.endpoints, AddrPorts):
            msgspec.structs.force_setattr(self, "endpoints", AddrPorts(self.endpoints))


class UserProfile(Message, frozen=True, kw_only=True):
    """What may be shown of a user; sent before or with the first node that has the id."""

    id: Int64 = always(0)
    login_name: str = always("")
    display_name: str = always("")
    profile_pic_url: str = ""
    groups: tuple[str, ...] = ()


class DisplayMessageAction(Message, frozen=True, kw_only=True):
    """A button of a display message."""

    url: str = ""
    label: str = ""


class DisplayMessage(Message, frozen=True, kw_only=True):
    """A notice from the coordinator; severity is `high`, `medium` or `low`."""

    title: str = ""
    text: str = ""
    severity: str = ""
    impacts_connectivity: bool = False
    primary_action: DisplayMessageAction | None = None


class Debug(Message, frozen=True, kw_only=True):
    """Orders to a node. `disable_log_tail` ends its log upload to Tailscale Inc. until the process ends."""

    sleep_seconds: float = 0.0
    disable_log_tail: bool = False
    exit: Int64 | None = None


class ClientVersion(Message, frozen=True, kw_only=True):
    """Whether newer client software exists."""

    running_latest: bool = False
    latest_version: str = ""
    urgent_security_update: bool = False
    notify: bool = False
    notify_url: str = ""
    notify_text: str = ""


class ControlIPCandidate(Message, frozen=True, kw_only=True):
    """One way to reach the coordinator."""

    ip: OptionalIPAddress = None
    ace_host: str = ""
    dial_start_delay_sec: float = 0.0
    dial_timeout_sec: float = 0.0
    priority: Int64 = 0


class ControlDialPlan(Message, frozen=True, kw_only=True):
    """Addresses to dial the coordinator at, besides DNS."""

    candidates: tuple[ControlIPCandidate, ...] = always(())


class TKAInfo(Message, frozen=True, kw_only=True):
    """State of tailnet lock; absent from the first map means off."""

    head: str = ""
    disabled: bool = False


class MapResponse(Message, frozen=True, kw_only=True):
    """One message of the map stream: everything at first, then what changed. None means unchanged.

    An empty `peers` also means unchanged. A non-empty one is the complete list, and every other field about
    peers in the same message is ignored.
    """

    map_session_handle: str = ""
    seq: Int64 = 0
    keep_alive: bool = False
    ping_request: PingRequest | None = None
    pop_browser_url: str = ""
    node: Node | None = None
    derp_map: DERPMap | None = None
    peers: tuple[Node, ...] = ()
    """Sorted by id."""
    peers_changed: tuple[Node, ...] = ()
    peers_removed: tuple[Int64, ...] = ()
    peers_changed_patch: tuple[PeerChange, ...] = ()
    peer_seen_change: dict[Int64, bool] = msgspec.field(default_factory=dict)
    online_change: dict[Int64, bool] = msgspec.field(default_factory=dict)
    dns_config: DNSConfig | None = None
    domain: str = ""
    collect_services: bool | None = None
    packet_filter: tuple[FilterRule, ...] | None = None
    """Stored under the name `base`; () blocks everything."""
    packet_filters: dict[str, tuple[FilterRule, ...] | None] | None = None
    """Named parts; None deletes one, and the name `*` with None deletes all of them first."""
    user_profiles: tuple[UserProfile, ...] = ()
    health: tuple[str, ...] | None = None
    """Replaces; () clears."""
    display_messages: dict[str, DisplayMessage | None] | None = None
    """Patch by id; None deletes one, and the id `*` with None deletes all of them first."""
    ssh_policy: SSHPolicy | None = None
    control_time: OptionalTime = None
    tka_info: TKAInfo | None = None
    domain_data_plane_audit_log_id: str = ""
    debug: Debug | None = None
    control_dial_plan: ControlDialPlan | None = None
    client_version: ClientVersion | None = None
    default_auto_update: bool | None = None
