"""From map and preferences to peers, routes and advice: what a reviewer would check by eye."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from meshnode.disco.events import PeerInfo
from meshnode.linux.router_config import RouterConfig
from meshnode.netmap import derive as derive_module
from meshnode.netmap.derive import ROUTES_NOT_ACCEPTED, Configuration, LocalFacts, derive
from meshnode.netmap.session import NetworkMap
from meshnode.prefs import Prefs
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic, NodePublic
from meshproto.messages import Hostinfo, NetInfo, Node
from tests.meshnode.netmap.nodes import key, node, with_routes

WALL = 1_800_000_000.0
NOW = datetime.fromtimestamp(WALL, UTC)
LAN = ip_network("192.168.1.0/24")
FACTS = LocalFacts(lan_prefixes=(LAN,), mtu=1280, listen_port=41641)
EXIT = ("0.0.0.0/0", "::/0")


def network_map(*peers: Node, self_node: Node | None = None) -> NetworkMap:
    return NetworkMap(self_node=self_node or node(1), peers={peer.id: peer for peer in peers})


def configuration(*peers: Node, self_node: Node | None = None, **prefs: Any) -> Configuration:
    return derive(network_map(*peers, self_node=self_node), Prefs(**prefs), FACTS, WALL)


def allowed(result: Configuration) -> dict[int, set[str]]:
    """Peer ID -> its allowed IPs."""
    return {
        number: {str(prefix) for prefix in peer.allowed_ips}
        for peer in result.peers
        for number in range(1, 20)
        if peer.public_key == key(number)
    }


def routes(result: Configuration) -> set[str]:
    return {str(prefix) for prefix in result.router.routes}


OWN = {2: {"100.64.0.2/32", "fd7a:115c:a1e0::2/128"}, 3: {"100.64.0.3/32", "fd7a:115c:a1e0::3/128"}}


def test_plain_peers() -> None:
    result = configuration(node(2), node(3))
    assert allowed(result) == OWN
    assert routes(result) == {"100.64.0.2/32", "100.64.0.3/32", "fd7a:115c:a1e0::/48"}
    assert [str(own) for own in result.router.addresses] == ["100.64.0.1/32", "fd7a:115c:a1e0::1/128"]
    assert result.router.mtu == 1280
    assert result.router.listen_port == 41641
    assert result.advice == ()


def test_absent_allowed_ips_mean_the_addresses_and_empty_ones_mean_none() -> None:
    result = configuration(node(2, allowed_ips=None), node(3, allowed_ips=()))
    assert allowed(result) == {2: OWN[2], 3: set()}


def test_subnet_routes_are_for_those_who_accept_them() -> None:
    router = with_routes(2, "192.168.0.0/24", "10.0.0.7/32")
    refused = configuration(router)
    assert allowed(refused) == {2: OWN[2]}
    assert "192.168.0.0/24" not in routes(refused)
    assert refused.advice == (ROUTES_NOT_ACCEPTED,)
    accepted = configuration(router, route_all=True)
    assert allowed(accepted) == {2: OWN[2] | {"192.168.0.0/24", "10.0.0.7/32"}}
    assert {"192.168.0.0/24", "10.0.0.7/32"} <= routes(accepted)
    assert accepted.advice == ()


@pytest.mark.parametrize("chosen", [{"exit_node_id": "n3"}, {"exit_node_ip": "100.64.0.3"}])
def test_only_the_chosen_exit_node_gets_everything(chosen: dict[str, str]) -> None:
    result = configuration(with_routes(2, *EXIT), with_routes(3, *EXIT), **chosen)
    assert allowed(result) == {2: OWN[2], 3: OWN[3] | set(EXIT)}
    assert set(EXIT) <= routes(result)
    assert result.exit_node is not None
    assert result.exit_node.id == 3
    assert result.router.local_routes == frozenset()


def test_without_a_choice_nobody_is_an_exit_node() -> None:
    result = configuration(with_routes(2, *EXIT))
    assert not routes(result) & set(EXIT)
    assert result.exit_node is None


@pytest.mark.parametrize(
    ("peer", "says"),
    [
        (None, "not in the network"),
        (node(3), "not approved"),
        (with_routes(3, "0.0.0.0/0"), "not approved"),
        (with_routes(3, *EXIT, key_expiry=NOW - timedelta(hours=1)), "not in the network"),
    ],
)
def test_an_exit_node_that_cannot_carry_traffic_blocks_it(peer: Node | None, says: str) -> None:
    result = configuration(*([] if peer is None else [peer]), exit_node_id="n3")
    assert set(EXIT) <= routes(result), "traffic would leave in the clear"
    assert not any(prefix.prefixlen == 0 for given in result.peers for prefix in given.allowed_ips)
    assert result.exit_node is None
    assert any(says in line for line in result.advice)


def test_an_exit_node_that_is_reported_offline_is_still_used() -> None:
    result = configuration(with_routes(3, *EXIT, online=False), exit_node_id="n3")
    assert allowed(result)[3] >= set(EXIT)
    assert any("offline" in line for line in result.advice)


def test_lan_access_with_an_exit_node_is_asked_for() -> None:
    exit_node = with_routes(3, *EXIT)
    assert configuration(exit_node, exit_node_id="n3").router.local_routes == frozenset()
    result = configuration(exit_node, exit_node_id="n3", exit_node_allow_lan_access=True)
    assert result.router.local_routes == {LAN}


def test_what_we_serve_is_advertised_and_approved() -> None:
    wanted = {"advertise_routes": ("192.168.0.0/24", "10.0.0.0/8", *EXIT)}
    nothing = configuration(**wanted)
    assert nothing.router.subnet_routes == frozenset()
    assert not nothing.router.exit_node_offered
    some = configuration(self_node=with_routes(1, "192.168.0.0/24", "172.16.0.0/12"), **wanted)
    assert some.router.subnet_routes == {ip_network("192.168.0.0/24")}
    assert not some.router.exit_node_offered
    everything = configuration(self_node=with_routes(1, "10.0.0.0/8", *EXIT), no_snat=True, **wanted)
    assert everything.router.subnet_routes == {ip_network("10.0.0.0/8")}
    assert everything.router.exit_node_offered
    assert not everything.router.snat


def test_expired_peers_are_cut_off() -> None:
    result = configuration(
        node(2, expired=True), node(3, key_expiry=NOW), node(4, key_expiry=NOW + timedelta(1))
    )
    assert set(allowed(result)) == {4}
    assert [path.node_key for path in result.paths] == [key(4)]


@pytest.mark.parametrize(
    "odd",
    [
        node(3, key=NodePublic.zero()),
        node(3, key=key(1)),
        node(3, key=key(2)),
    ],
    ids=["no key", "our key", "another's key"],
)
def test_a_peer_that_makes_no_sense_costs_only_itself(odd: Node) -> None:
    assert allowed(configuration(node(2), odd, node(4))).keys() == {2, 4}


def test_a_network_is_no_address_of_a_node() -> None:
    odd = node(2, addresses=(ip_network("0.0.0.0/0"),), allowed_ips=(ip_network("0.0.0.0/0"),))
    result = configuration(odd, self_node=node(1, addresses=(ip_network("10.0.0.0/8"),)))
    assert allowed(result) == {2: set()}
    assert routes(result) == set()
    assert result.router.addresses == ()


@pytest.mark.parametrize(
    "own",
    [node(1, expired=True), node(1, key_expiry=NOW), node(1, machine_authorized=False)],
    ids=["expired", "past its expiry", "not authorized"],
)
def test_a_node_that_may_not_run_has_nothing(own: Node) -> None:
    result = configuration(node(2), self_node=own, exit_node_id="n2")
    assert result == Configuration()
    assert result.router == RouterConfig()


def test_candidates_are_addresses_outside_the_tunnel() -> None:
    endpoints = (
        AddrPort("192.0.2.9", 41641),
        AddrPort("2001:db8::9", 41641),
        AddrPort("100.64.0.9", 41641),
        AddrPort("fd7a:115c:a1e0::9", 41641),
        AddrPort("fe80::9", 41641),
        AddrPort("192.0.2.9", 0),
    )
    result = configuration(node(2, endpoints=endpoints), node(3, endpoints=None))
    assert {path.node_key: path.endpoints for path in result.paths} == {key(2): endpoints[:2], key(3): ()}


def test_paths_begin_with_what_the_map_says_of_a_peer() -> None:
    disco = DiscoPublic(bytes([7]) * 32)
    net_info = NetInfo(mapping_varies_by_dest_ip=True)
    peers = (
        node(2, disco_key=disco, home_derp=5, hostinfo=Hostinfo(net_info=net_info)),
        node(3, derp="127.3.3.40:6", disco_key=DiscoPublic.zero()),
    )
    assert configuration(*peers).paths == (
        PeerInfo(key(2), disco, (), home_region=5, mapping_varies=True),
        PeerInfo(key(3), None, (), home_region=6),
    )


def test_many_peers_share_one_route(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derive_module, "MAX_PEER_ROUTES", 2)
    assert "100.64.0.0/10" not in routes(configuration(node(2), node(3)))
    assert routes(configuration(node(2), node(3), node(4))) == {"100.64.0.0/10", "fd7a:115c:a1e0::/48"}


def test_the_same_inputs_give_the_same_configuration() -> None:
    peers = (with_routes(2, "192.168.0.0/24"), with_routes(3, *EXIT))
    wanted = {"route_all": True, "exit_node_id": "n3"}
    assert configuration(*peers, **wanted) == configuration(*peers, **wanted)
