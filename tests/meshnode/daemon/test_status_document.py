"""The status document where it speaks of paths and relays, and the lines about them in the health list."""

from __future__ import annotations

from typing import Any

import pytest

from meshnode.backend_state import BackendState
from meshnode.health import NO_RELAYS, UDP_BLOCKED, health_lines
from meshnode.netmap.session import NetworkMap
from meshnode.prefs import Prefs
from meshnode.status import StatusFacts, Traffic, status_document
from meshproto.addresses import AddrPort
from meshproto.messages import DERPMap, DERPRegion, NetInfo
from tests.meshnode.netmap.nodes import key, node

DIRECT = AddrPort("203.0.113.7", 41641)
REGIONS = {
    4: DERPRegion(region_id=4, region_code="fra", region_name="Frankfurt"),
    5: DERPRegion(region_id=5, region_code="ams", region_name="Amsterdam"),
}
MAP = NetworkMap(self_node=node(1), peers={2: node(2, home_derp=4)}, derp_map=DERPMap(regions=REGIONS))


def peer_status(traffic: Traffic | None) -> tuple[str, str, str]:
    """Relay, CurAddr and PeerRelay of node 2."""
    facts = StatusFacts(
        version="1",
        state=BackendState.RUNNING,
        node_key=key(1),
        prefs=Prefs(),
        hostname="node1",
        network_map=MAP,
        traffic={} if traffic is None else {key(2): traffic},
        home_region=5,
    )
    document = status_document(facts)
    assert document["Self"]["Relay"] == "ams"
    peer = document["Peer"][str(key(2))]
    return peer["Relay"], peer["CurAddr"], peer["PeerRelay"]


@pytest.mark.parametrize(
    ("traffic", "shown"),
    [
        (None, ("fra", "", "")),
        (Traffic(), ("fra", "", "")),
        (Traffic(sent_ago_s=1.0, relay=4), ("fra", "", "")),
        (Traffic(sent_ago_s=1.0, relay=5), ("ams", "", "")),
        (Traffic(sent_ago_s=1.0, relay=7), ("7", "", "")),
        (Traffic(sent_ago_s=1.0, address=DIRECT), ("fra", "203.0.113.7:41641", "")),
        (Traffic(sent_ago_s=100.0, address=DIRECT), ("fra", "", "")),
        (Traffic(sent_ago_s=1.0, peer_relay="192.0.2.1:1:vni:7"), ("fra", "", "192.0.2.1:1:vni:7")),
        (Traffic(sent_ago_s=100.0, peer_relay="192.0.2.1:1:vni:7"), ("fra", "", "")),
    ],
)
def test_which_way_data_goes(traffic: Traffic | None, shown: tuple[str, str, str]) -> None:
    assert peer_status(traffic) == shown


def health(network_map: NetworkMap | None = MAP, **given: Any) -> tuple[str, ...]:
    usual: dict[str, Any] = {
        "login_error": "",
        "contact_failure": "",
        "silent_for_s": 0.0,
        "problems": (),
        "advice": (),
        "wall": 1_000_000_000.0,
    }
    return health_lines(network_map=network_map, **usual | given)


FINE = NetInfo(working_udp=True, preferred_derp=4)
UNREACHABLE = "The home relay cannot be reached: fra: connection refused"


@pytest.mark.parametrize(
    ("given", "lines"),
    [
        ({}, ()),
        ({"net_info": FINE}, ()),
        ({"net_info": NetInfo(preferred_derp=4)}, ()),
        ({"net_info": FINE, "relay_problem": "fra: connection refused"}, (UNREACHABLE,)),
        ({"net_info": NetInfo(working_udp=False, preferred_derp=4)}, (UDP_BLOCKED,)),
        ({"net_info": NetInfo(working_udp=False)}, (NO_RELAYS,)),
        (
            {
                "net_info": NetInfo(working_udp=False, preferred_derp=4),
                "relay_problem": "fra: connection refused",
            },
            (UNREACHABLE,),
        ),
        ({"net_info": NetInfo(), "relay_problem": "fra: connection refused"}, (UNREACHABLE,)),
        ({"network_map": None, "net_info": NetInfo(), "relay_problem": "fra: connection refused"}, ()),
        ({"network_map": NetworkMap(self_node=node(1)), "net_info": NetInfo(working_udp=True)}, ()),
    ],
)
def test_what_the_network_lacks(given: dict[str, Any], lines: tuple[str, ...]) -> None:
    assert health(**given) == lines


def test_the_gravest_lines_come_first() -> None:
    lines = health(
        login_error="refused",
        problems=("no routes",),
        contact_failure="timed out",
        silent_for_s=60.0,
        relay_problem="gone",
        advice=("routes are not accepted",),
    )
    assert [line.split(":")[0] for line in lines] == [
        "Login failed",
        "no routes",
        "No contact with the coordinator; known peers stay reachable",
        "The home relay cannot be reached",
        "routes are not accepted",
    ]
