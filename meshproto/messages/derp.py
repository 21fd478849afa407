"""The relays that a coordinator offers (reference §8.5), and the relay's admission question (§2.1)."""

from __future__ import annotations

import msgspec

from meshproto.addresses import IPAddress
from meshproto.keys import NodePublic
from meshproto.messages.base import Int64, Message, always


class DERPNode(Message, frozen=True, kw_only=True):
    """One relay or STUN server of a region. Ports: 0 means the default, STUN -1 means off."""

    name: str = always("")
    region_id: Int64 = always(0)
    host_name: str = always("")
    cert_name: str = ""
    ipv4: str = ""
    """A literal address, empty to resolve `host_name`, or `none` to disable the family."""
    ipv6: str = ""
    stun_port: Int64 = 0
    stun_only: bool = False
    derp_port: Int64 = 0
    insecure_for_tests: bool = False
    stun_test_ip: str = ""
    can_port80: bool = False


class DERPRegion(Message, frozen=True, kw_only=True):
    """Relays that are near each other and interchangeable. `region_id` must equal its key in the map."""

    region_id: Int64 = always(0)
    region_code: str = always("")
    region_name: str = always("")
    latitude: float = 0.0
    longitude: float = 0.0
    avoid: bool = False
    no_measure_no_home: bool = False
    nodes: tuple[DERPNode, ...] = always(())


class DERPHomeParams(Message, frozen=True, kw_only=True):
    """Weights for the choice of a home region."""

    region_score: dict[Int64, float] = msgspec.field(default_factory=dict)
    """Region id -> factor on its measured latency."""


class DERPMap(Message, frozen=True, kw_only=True):
    """All relay regions. `regions` absent (None) keeps the regions known before."""

    home_params: DERPHomeParams | None = None
    regions: dict[Int64, DERPRegion] | None = None
    omit_default_regions: bool = msgspec.field(name="omitDefaultRegions", default=False)


class DERPAdmitClientRequest(Message, frozen=True, kw_only=True):
    """A relay asks the coordinator's `/verify` whether a node may use it."""

    node_public: NodePublic = always(NodePublic.zero())
    source: IPAddress


class DERPAdmitClientResponse(Message, frozen=True, kw_only=True):
    """The answer of `/verify`."""

    allow: bool = always(False)
