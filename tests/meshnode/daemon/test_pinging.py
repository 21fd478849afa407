"""Pings for people: whom an address means, what is said where there is nobody, and the shape of an answer."""

from __future__ import annotations

import os
from ipaddress import ip_address
from typing import Any

import pytest

from meshnode.disco.destinations import AuxPath, DerpDestination, Destination, RelayPath
from meshnode.disco.events import PongReceived
from meshnode.disco.status import PathStatus
from meshnode.netmap.derive import LocalFacts, derive
from meshnode.netmap.session import NetworkMap
from meshnode.pinging import Mesh, Pinger, PingType
from meshnode.prefs import Prefs
from meshnode.tsmp import Tsmp
from meshproto.addresses import AddrPort, IPAddress
from meshproto.messages import DERPMap, DERPRegion
from tests.meshnode.fakes import FakeTunnel
from tests.meshnode.netmap.nodes import key, node, with_routes

FRANKFURT = DERPRegion(region_id=4, region_code="fra", region_name="Frankfurt")
DIRECT = AddrPort("203.0.113.7", 41641)
WALL = 1_000_000_000.0


def mesh(*peers: Any, prefs: Prefs | None = None) -> Mesh:
    """Node 1 among these peers, as the backend configures it."""
    network_map = NetworkMap(
        self_node=node(1), peers={peer.id: peer for peer in peers}, derp_map=DERPMap(regions={4: FRANKFURT})
    )
    return Mesh(network_map, derive(network_map, prefs or Prefs(), LocalFacts(), WALL).peers)


def speaks_disco(tunnel: FakeTunnel, number: int, via: Destination | None = None) -> None:
    """Let a peer be pinged; where `via` is given, it answers."""
    tunnel.known_paths[key(number)] = PathStatus(key(number), (), False, True, None, (), None, None)
    if via is not None:
        tunnel.pongs[key(number)] = PongReceived(key(number), bytes(12), via, 0.012, DIRECT)


async def unheard(address: IPAddress) -> None:
    raise OSError(101, "Network is unreachable")


def pinger(tunnel: FakeTunnel) -> Pinger:
    return Pinger(tunnel, Tsmp("lo", os.urandom), unheard)


ANSWER = {
    "IP": "100.64.0.2",
    "NodeIP": "100.64.0.2",
    "NodeName": "node2",
    "Err": "",
    "LatencySeconds": 0.012,
    "Endpoint": "",
    "PeerRelay": "",
    "DERPRegionID": 0,
    "DERPRegionCode": "",
    "PeerAPIPort": 0,
    "PeerAPIURL": "",
}


@pytest.mark.parametrize(
    ("via", "fields"),
    [
        (DIRECT, {"Endpoint": "203.0.113.7:41641"}),
        (AddrPort("2001:db8::7", 1), {"Endpoint": "[2001:db8::7]:1"}),
        (AuxPath(DIRECT, 17), {"Endpoint": "203.0.113.7:41641"}),
        (DerpDestination(4, key(2)), {"DERPRegionID": 4, "DERPRegionCode": "fra"}),
        (DerpDestination(9, key(2)), {"DERPRegionID": 9, "DERPRegionCode": "9"}),
        (RelayPath(DIRECT, 7), {"PeerRelay": "203.0.113.7:41641:vni:7"}),
    ],
)
async def test_an_answer_says_which_way_it_came(via: Destination, fields: dict[str, Any]) -> None:
    tunnel = FakeTunnel()
    speaks_disco(tunnel, 2, via)
    found = await pinger(tunnel).ping(mesh(node(2)), ip_address("100.64.0.2"), PingType.DISCO)
    assert found == ANSWER | fields


async def test_an_address_behind_a_peer_means_the_peer() -> None:
    tunnel = FakeTunnel()
    speaks_disco(tunnel, 3, DIRECT)
    router = with_routes(3, "192.168.5.0/24")
    accepting = mesh(node(2), router, prefs=Prefs(route_all=True))
    found = await pinger(tunnel).ping(accepting, ip_address("192.168.5.9"), PingType.DISCO)
    assert (found["IP"], found["NodeIP"], found["NodeName"]) == ("192.168.5.9", "100.64.0.3", "node3")


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("100.64.0.1", "100.64.0.1 is local Tailscale IP"),
        ("fd7a:115c:a1e0::1", "fd7a:115c:a1e0::1 is local Tailscale IP"),
        ("100.64.0.99", 'no peer has the address 100.64.0.99; "meshnode status" lists them'),
        ("192.168.5.9", "192.168.5.9 is behind node3, and this node does not use its routes; accept them"),
        ("100.64.0.4", "the key of node4 is not valid any more"),
        ("100.64.0.2", "node2 does not speak disco; use --icmp"),
    ],
)
async def test_nobody_to_ping(address: str, says: str) -> None:
    peers = mesh(node(2), with_routes(3, "192.168.5.0/24"), node(4, expired=True))
    found = await pinger(FakeTunnel()).ping(peers, ip_address(address), PingType.DISCO)
    assert says in found["Err"]
    assert found.get("IsLocalIP", False) is ("local" in says)


async def test_a_node_without_a_map_pings_nobody() -> None:
    found = await pinger(FakeTunnel()).ping(Mesh(None, ()), ip_address("100.64.0.2"), PingType.DISCO)
    assert found["Err"] == 'this node is not connected; connect it with "meshnode up"'


async def test_silence_is_a_timeout() -> None:
    tunnel = FakeTunnel()
    speaks_disco(tunnel, 2)
    with pytest.raises(TimeoutError):
        await pinger(tunnel).ping(mesh(node(2)), ip_address("100.64.0.2"), PingType.DISCO)


@pytest.mark.parametrize(
    ("kind", "says"), [(PingType.TSMP, "not available"), (PingType.ICMP, "Network is unreachable")]
)
async def test_what_the_host_refuses_is_said(kind: PingType, says: str) -> None:
    found = await pinger(FakeTunnel()).ping(mesh(node(2)), ip_address("100.64.0.2"), kind)
    assert says in found["Err"]
    assert "100.64.0.2" in found["Err"]
