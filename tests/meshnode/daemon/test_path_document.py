"""What is told of the paths to a peer."""

from __future__ import annotations

from meshnode.disco.candidates import Origin
from meshnode.disco.destinations import AuxPath, DerpDestination, RelayPath
from meshnode.disco.status import CandidateStatus, PathStatus, RelayReason
from meshnode.path_document import path_document
from meshproto.addresses import AddrPort
from meshproto.messages import DERPMap, DERPRegion
from tests.meshnode.netmap.nodes import key, node

FRANKFURT = DERPRegion(region_id=4, region_code="fra", region_name="Frankfurt")
MAP = DERPMap(regions={4: FRANKFURT})
HOME = AddrPort("203.0.113.7", 41641)
LAN = AddrPort("192.168.1.7", 41641)


def candidate(path: AddrPort | AuxPath | RelayPath, origin: Origin, **fields: object) -> CandidateStatus:
    usual = {
        "is_best": False,
        "latency": None,
        "last_ping_age": None,
        "last_pong_age": None,
        "wire_mtu": 1280,
    }
    return CandidateStatus(path, origin, **usual | fields)  # type: ignore[arg-type]


STATUS = PathStatus(
    peer=key(2),
    destinations=(HOME, DerpDestination(4, key(2))),
    is_direct=False,
    is_active=True,
    relay_reason=RelayReason.PATH_LOST,
    candidates=(
        candidate(
            HOME,
            Origin.NETMAP | Origin.PING,
            is_best=True,
            latency=0.0091234,
            last_ping_age=1.23456,
            last_pong_age=1.2254,
            wire_mtu=1500,
        ),
        candidate(LAN, Origin.CALL_ME_MAYBE, last_ping_age=30.0),
        candidate(AuxPath(LAN, 17), Origin.NOBODY),
        candidate(RelayPath(HOME, 7), Origin.RELAY),
    ),
    last_call_sent_age=4.0,
    last_call_received_age=None,
)
PEER = {
    "Name": "node2",
    "PublicKey": str(key(2)),
    "TailscaleIPs": ["100.64.0.2", "fd7a:115c:a1e0::2"],
    "Online": True,
    "HomeRelay": "fra",
}


def test_everything_that_is_known() -> None:
    document = path_document(node(2, home_derp=4), STATUS, MAP)
    candidates = document.pop("Candidates")
    assert document == PEER | {
        "SpeaksDisco": True,
        "Active": True,
        "Direct": False,
        "Destinations": ["203.0.113.7:41641", "DERP(fra)"],
        "RelayReason": "path_lost",
        "CallMeMaybeSentAgo": 4.0,
        "CallMeMaybeReceivedAgo": None,
    }
    assert candidates[0] == {
        "Path": "203.0.113.7:41641",
        "Kind": "udp",
        "Origins": ["map", "ping"],
        "InUse": True,
        "LatencySeconds": 0.0091234,
        "LastPingAgo": 1.235,
        "LastPongAgo": 1.225,
        "WireMTU": 1500,
    }
    shown = [(one["Path"], one["Kind"], one["Origins"]) for one in candidates[1:]]
    assert shown == [
        ("192.168.1.7:41641", "udp", ["call"]),
        ("192.168.1.7:41641 (socket 17)", "spray", []),
        ("peer-relay(203.0.113.7:41641:vni:7)", "peer-relay", ["relay"]),
    ]


def test_a_peer_without_disco_has_only_its_name() -> None:
    plain = path_document(node(2, home_derp=4), None, MAP)
    assert plain == PEER | {"SpeaksDisco": False}


def test_a_region_that_the_map_lacks_is_a_number() -> None:
    assert path_document(node(2, home_derp=9), None, MAP)["HomeRelay"] == "9"
    assert path_document(node(2, derp="127.3.3.40:4"), None, MAP)["HomeRelay"] == "fra"
    assert path_document(node(2), None, None)["HomeRelay"] == ""
