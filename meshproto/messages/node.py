"""A node as the map describes it, and the smallest change to one (reference §8.3, §8.4)."""

from __future__ import annotations

import msgspec

from meshproto.addresses import AddrPorts, Endpoints, IPAddress, IPNetwork
from meshproto.gotime import OptionalTime, Time
from meshproto.keys import DiscoPublic, MachinePublic, NodePublic
from meshproto.messages.base import CapMap, Int64, Message, always
from meshproto.messages.dns import Resolver
from meshproto.messages.hostinfo import Hostinfo


class Node(Message, frozen=True, kw_only=True):
    """One node of the tailnet: the receiver itself or a peer.

    None differs from empty where Go tells nil from empty: `allowed_ips` (None: same as `addresses`) and
    `endpoints` (None: unchanged in `peers_changed`). Zero times and zero keys read as None.
    """

    id: Int64 = always(0)
    stable_id: str = always("")
    name: str = always("")
    """Fully qualified, with trailing dot."""
    user: Int64 = always(0)
    sharer: Int64 = 0
    key: NodePublic = always(NodePublic.zero())
    key_expiry: OptionalTime = None
    key_signature: bytes | None = None
    machine: MachinePublic | None = None
    disco_key: DiscoPublic | None = None
    addresses: tuple[IPNetwork, ...] = always(())
    """The node's own tailnet addresses as /32 and /128."""
    allowed_ips: tuple[IPNetwork, ...] | None = None
    """Addresses plus served subnet and exit routes; see `effective_allowed_ips`."""
    endpoints: Endpoints | None = None
    """Candidates for a direct path."""
    derp: str = ""
    """Legacy form of `home_derp`: `127.3.3.40:<region id>`."""
    home_derp: Int64 = 0
    hostinfo: Hostinfo | None = None
    created: OptionalTime = None
    cap: Int64 = 0
    tags: tuple[str, ...] = ()
    primary_routes: tuple[IPNetwork, ...] = ()
    """Subnet routes that this node serves now; never exit routes."""
    last_seen: OptionalTime = None
    online: bool | None = None
    """Send it always: a client ignores changes from and to "not known"."""
    machine_authorized: bool = False
    capabilities: tuple[str, ...] = ()
    cap_map: CapMap = msgspec.field(default_factory=dict)
    unsigned_peer_api_only: bool = False
    computed_name: str = ""
    computed_name_with_host: str = ""
    data_plane_audit_log_id: str = ""
    expired: bool = False
    self_node_v4_masq_addr_for_this_peer: IPAddress | None = None
    self_node_v6_masq_addr_for_this_peer: IPAddress | None = None
    is_wireguard_only: bool = False
    is_jailed: bool = False
    exit_node_dns_resolvers: tuple[Resolver, ...] = ()

    def __post_init__(self) -> None:
        if self.endpoints is not None and not isinstance(self.endpoints, AddrPorts):
            msgspec.structs.force_setattr(self, "endpoints", AddrPorts(self.endpoints))
        if self.disco_key is not None and self.disco_key.is_zero:
            msgspec.structs.force_setattr(self, "disco_key", None)
        if self.machine is not None and self.machine.is_zero:
            msgspec.structs.force_setattr(self, "machine", None)

    @property
    def effective_allowed_ips(self) -> tuple[IPNetwork, ...]:
        """What the node may send from: absent `allowed_ips` means its addresses."""
        return self.addresses if self.allowed_ips is None else self.allowed_ips

    @property
    def effective_home_derp(self) -> int:
        """Region id of the home relay, from either form; 0 is not known."""
        if self.home_derp:
            return self.home_derp
        host, _, region = self.derp.rpartition(":")
        return int(region) if host == "127.3.3.40" and region.isascii() and region.isdigit() else 0


class PeerChange(Message, frozen=True, kw_only=True):
    """A patch of one known peer; None means unchanged."""

    node_id: Int64 = always(0)
    derp_region: Int64 = 0
    cap: Int64 = 0
    cap_map: CapMap | None = None
    endpoints: Endpoints | None = None
    key: NodePublic | None = None
    key_signature: bytes | None = None
    disco_key: DiscoPublic | None = None
    online: bool | None = None
    last_seen: OptionalTime = None
    key_expiry: Time | None = None
    """`ZERO_TIME` removes the expiry."""

    def __post_init__(self) -> None:
        if self.endpoints is not None and not isinstance(self.endpoints, AddrPorts):
            msgspec.structs.force_setattr(self, "endpoints", AddrPorts(self.endpoints))
