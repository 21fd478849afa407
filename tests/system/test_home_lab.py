"""The main job on real traffic: a full mesh, a subnet router, an exit node, and what the wire shows.

One network for the whole module; the tests run in order and each leaves it as it found it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.netlab import Lab, iperf3, wait_for
from tests.netlab.homelab import (
    CAFE_UPLINK,
    EXIT_UPLINK,
    EXIT_UPLINK_V6,
    HOME_LAN,
    HOME_LAN_ADDRESS,
    SITE_ADDRESS_V6,
    HomeMesh,
    address_seen_by_site,
    fetches_web_page,
)
from tests.system.traffic import kind_of

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def mesh() -> Iterator[HomeMesh]:
    with Lab("home") as lab:
        mesh = HomeMesh(lab)
        mesh.start_coordinator()
        for name in mesh.nodes:
            mesh.join(name)
        yield mesh


def test_all_nodes_reach_each_other_over_both_families(mesh: HomeMesh) -> None:
    for source, destination in mesh.pairs():
        source.wait_to_reach(destination)


def test_a_subnet_is_reached_only_after_its_route_is_approved(mesh: HomeMesh) -> None:
    laptop = mesh.nodes["laptop"]
    assert not fetches_web_page(laptop.host)
    offers = {node["givenName"]: node for node in mesh.coordinator.query("nodes", "list-routes")}
    assert offers["home"]["availableRoutes"] == [HOME_LAN]
    assert offers["home"]["approvedRoutes"] == []
    mesh.coordinator.approve("home", HOME_LAN)
    wait_for(lambda: fetches_web_page(laptop.host), 15, what="the page behind the subnet router")
    assert mesh.network.web_log.output().split()[-2:] == [HOME_LAN_ADDRESS, "/"]
    mesh.coordinator.approve("home")
    wait_for(lambda: not fetches_web_page(laptop.host), 15, what="the route's withdrawal")
    mesh.coordinator.approve("home", HOME_LAN)
    wait_for(lambda: fetches_web_page(laptop.host), 15, what="the page again")


def test_a_node_that_does_not_accept_routes_gets_none(mesh: HomeMesh) -> None:
    assert not fetches_web_page(mesh.nodes["server"].host)
    mesh.nodes["server"].run("set", "--accept-routes")
    wait_for(lambda: fetches_web_page(mesh.nodes["server"].host), 10, what="the page at the server")
    mesh.nodes["server"].run("set", "--accept-routes=false")
    wait_for(lambda: not fetches_web_page(mesh.nodes["server"].host), 10, what="the route's removal")


def test_traffic_leaves_by_the_exit_node_while_it_is_set(mesh: HomeMesh) -> None:
    laptop = mesh.nodes["laptop"]
    assert address_seen_by_site(laptop.host) == CAFE_UPLINK
    mesh.coordinator.approve("exit", "0.0.0.0/0", "::/0")
    wait_for(lambda: (mesh.nodes["laptop"].peer("exit") or {}).get("ExitNodeOption"), 10, what="the offer")
    laptop.run("set", "--exit-node", "exit")
    wait_for(lambda: address_seen_by_site(laptop.host) == EXIT_UPLINK, 10, what="the exit node's uplink")
    assert address_seen_by_site(laptop.host, SITE_ADDRESS_V6) == EXIT_UPLINK_V6
    assert not laptop.host.reaches("10.20.0.1"), (
        "the café's LAN is reachable without --exit-node-allow-lan-access"
    )
    for other in ("home", "server", "exit"):
        laptop.wait_to_reach(mesh.nodes[other])
    laptop.run("set", "--exit-node-allow-lan-access")
    wait_for(lambda: laptop.host.reaches("10.20.0.1"), 10, what="the café's LAN")
    assert address_seen_by_site(laptop.host) == EXIT_UPLINK
    laptop.run("set", "--exit-node=")
    wait_for(lambda: address_seen_by_site(laptop.host) == CAFE_UPLINK, 10, what="the café's uplink again")


def test_everything_between_two_nodes_is_wireguard_or_sealed_disco(mesh: HomeMesh) -> None:
    server, home = mesh.nodes["server"], mesh.nodes["home"]
    with server.host.capture("eth0", "udp and ( host 203.0.113.20 or host 2001:db8::20 )") as capture:
        server.run("down")  # so that the recording has a handshake
        server.run("up")
        server.wait_to_reach(home)
        wait_for(lambda: (home.peer("server") or {}).get("CurAddr"), 10, what="a direct path")
        iperf3.transfer(server.host, home.host, home.ipv4, "--time", "1")
    payloads = [datagram.payload for datagram in capture.udp_datagrams()]
    assert {kind_of(payload) for payload in payloads} == {"WireGuard", "disco"}
    wireguard = [payload for payload in payloads if kind_of(payload) == "WireGuard"]
    sizes = {1: 148, 2: 92, 3: 64}  # handshakes, which the relay may have carried
    for payload in wireguard:
        assert len(payload) == sizes.get(payload[0], len(payload))
        assert payload[0] != 4 or len(payload) >= 32
