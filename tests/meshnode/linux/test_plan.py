"""From a configuration to rules, routes and firewall: the files in golden/ are what a reviewer reads.

After a deliberate change, write them anew with `UPDATE_GOLDEN=1` in the environment and read the difference.
"""

from __future__ import annotations

import json
import os
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.linux.marks import PHASE_EXIT, PHASE_LAN, PHASE_PEERS, PHASE_SUBNETS, ownership
from meshnode.linux.plan import TABLE_MAIN, Ipv6, Plan, Route, RouteKind, describe, make_plan
from meshnode.linux.router_config import RouterConfig
from meshnode.linux.ruleset import tables, transaction
from meshproto.addresses import IPAddress, IPNetwork
from tests.meshnode.linux.configurations import CONFIGURATIONS, EXIT, IPV6, LAN, OWN, PEERS, STRICT, nets

GOLDEN = Path(__file__).parent / "golden"
MESH0 = ownership("mesh0")


def dump(name: str) -> str:
    config = CONFIGURATIONS[name]
    commands = transaction(tables(config, MESH0, strict=name in STRICT), MESH0, present=[])
    plan = describe(make_plan(config, MESH0, IPV6.get(name, Ipv6.USABLE)), MESH0)
    return "\n".join([*plan, "", *map(describe_command, commands), ""])


def describe_command(command: dict[str, Any]) -> str:
    """A line for one nft command: the action, the object, and of a rule its chain and what it does."""
    [(action, target)] = command.items()
    [(kind, content)] = target.items()
    words = {key: value for key, value in content.items() if key != "table"}
    if kind == "rule":
        return f"{words['chain']}: {json.dumps(words['expr'])}"
    return f"{action} {kind} {' '.join(str(value) for value in words.values())}"


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_plan_of(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(dump(name))
    assert dump(name) == path.read_text()


def test_every_golden_file_has_a_configuration() -> None:
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(CONFIGURATIONS)


def test_without_ipv6_in_the_kernel_the_rest_is_planned_and_the_gap_is_said() -> None:
    plan = make_plan(CONFIGURATIONS["exit_node"], MESH0, Ipv6.ABSENT)
    assert {rule.version for rule in plan.rules} == {4}
    assert {route.destination.version for route in plan.routes} == {4}
    assert plan.addresses == OWN[:1]
    assert plan.notes == ("this kernel has no IPv6: the tunnel carries IPv4 only",)


def test_without_ipv6_nothing_is_said_to_a_node_that_does_not_want_it() -> None:
    config = RouterConfig(addresses=OWN[:1], routes=nets("100.64.0.2/32"))
    assert make_plan(config, MESH0, Ipv6.OFF_ON_INTERFACE).notes == ()


def test_an_exit_node_without_ipv6_in_the_tunnel_blocks_ipv6_instead_of_letting_it_pass() -> None:
    plan = make_plan(CONFIGURATIONS["exit_node"], MESH0, Ipv6.OFF_ON_INTERFACE)
    assert lookup(plan, ip_address("2001:db8:99::1"), main=nets("::/0")) == "unreachable"
    assert "blocked" in plan.notes[0]


def test_rules_without_the_tunnels_interface_do_not_depend_on_what_else_is_configured() -> None:
    """Two nodes in one namespace have the same words for their own packets, at different priorities."""
    one, other = (
        make_plan(CONFIGURATIONS["peers"], ownership(name), Ipv6.USABLE) for name in ("mesh0", "mesh7")
    )
    assert [rule.priority + 7 for rule in one.rules] == [rule.priority for rule in other.rules]


@pytest.mark.parametrize("mtu", [0, 575, 65536])
def test_an_impossible_mtu_is_refused(mtu: int) -> None:
    with pytest.raises(ValueError, match="MTU"):
        RouterConfig(mtu=mtu)


# Where packets go: the plan, interpreted as the kernel does, slowly.


def lookup(plan: Plan, destination: IPAddress, *, main: frozenset[IPNetwork], marked: bool = False) -> str:
    """ "tunnel", "main", "unreachable" or "none", for a packet that this host sends."""
    ours = {route.destination: route for route in plan.routes}
    for rule in sorted(plan.rules, key=lambda rule: rule.priority):
        if rule.version != destination.version or rule.from_tunnel or (rule.own_mark and not marked):
            continue
        if rule.to is not None and destination not in rule.to:
            continue
        if rule.table is None:
            return "unreachable"
        if rule.table not in (MESH0.table, TABLE_MAIN):
            continue
        found = longest(destination, main if rule.table == TABLE_MAIN else ours)
        if found is None or (rule.suppress is not None and found.prefixlen <= rule.suppress):
            continue
        if rule.table == TABLE_MAIN:
            return "main"
        route = ours[found]
        if route.kind is not RouteKind.THROW:
            return "tunnel" if route.kind is RouteKind.UNICAST else "unreachable"
    return "main" if longest(destination, main) else "none"


def longest(
    destination: IPAddress, networks: frozenset[IPNetwork] | dict[IPNetwork, Route]
) -> IPNetwork | None:
    fitting = (net for net in networks if net.version == destination.version and destination in net)
    return max(fitting, key=lambda net: net.prefixlen, default=None)


HOME = LAN | nets("0.0.0.0/0", "::/0")
CGNAT_UPLINK = nets("100.64.0.0/10", "0.0.0.0/0")


@pytest.mark.parametrize(
    ("name", "main", "destination", "way"),
    [
        ("peers", HOME, "100.64.0.2", "tunnel"),
        ("peers", HOME, "100.64.0.9", "main"),
        ("peers", CGNAT_UPLINK, "100.64.0.2", "tunnel"),
        ("peers", CGNAT_UPLINK, "100.64.0.9", "main"),
        ("peers", HOME, "fd7a:115c:a1e0::2", "tunnel"),
        ("peers", HOME, "192.168.1.7", "main"),
        ("peers", HOME, "198.51.100.1", "main"),
        ("accept_subnets", HOME, "192.168.1.7", "main"),
        ("accept_subnets", HOME, "192.168.2.7", "tunnel"),
        ("accept_subnets", HOME, "fd00:1::7", "tunnel"),
        ("accept_subnet_of_own_lan", HOME, "192.168.1.7", "main"),
        ("accept_subnet_of_own_lan", HOME, "192.168.1.200", "main"),
        ("exit_node", HOME, "198.51.100.1", "tunnel"),
        ("exit_node", HOME, "2001:db8:99::1", "tunnel"),
        ("exit_node", HOME, "192.168.1.7", "tunnel"),
        ("exit_node", HOME | nets("0.0.0.0/1", "128.0.0.0/1"), "198.51.100.1", "tunnel"),
        ("exit_node_allow_lan", HOME, "192.168.1.7", "main"),
        ("exit_node_allow_lan", HOME, "2001:db8:1::7", "main"),
        ("exit_node_allow_lan", HOME, "198.51.100.1", "tunnel"),
        ("exit_node_allow_lan", HOME | nets("0.0.0.0/1", "128.0.0.0/1"), "198.51.100.1", "tunnel"),
        ("exit_node_allow_lan", CGNAT_UPLINK, "100.64.0.2", "tunnel"),
        ("exit_node_ipv4_only", HOME, "2001:db8:99::1", "main"),
        ("exit_node_without_ipv6", HOME, "2001:db8:99::1", "unreachable"),
        ("exit_node_without_ipv6", HOME, "2001:db8:1::7", "main"),
        ("exit_node_without_ipv6", HOME, "198.51.100.1", "tunnel"),
    ],
)
def test_a_packet_goes(name: str, main: frozenset[IPNetwork], destination: str, way: str) -> None:
    plan = make_plan(CONFIGURATIONS[name], MESH0, IPV6.get(name, Ipv6.USABLE))
    assert lookup(plan, ip_address(destination), main=main) == way


def networks(version: int) -> st.SearchStrategy[IPNetwork]:
    """Prefixes that often hold each other."""
    base, longest_prefix = (0x0A00_0000, 32) if version == 4 else (0xFD << 120, 128)
    lengths = st.sampled_from([0, 8, 16, 24, longest_prefix])

    def build(length: int, bits: int) -> IPNetwork:
        text = ip_address(base | bits << (longest_prefix - 26))
        return ip_network(f"{text}/{length}", strict=False)

    return st.builds(build, lengths, st.integers(0, 3))


SETS = st.frozensets(networks(4) | networks(6), max_size=6)


@given(routes=SETS, local=SETS, main=SETS, destination=networks(4) | networks(6))
def test_own_packets_never_enter_the_tunnel(
    routes: frozenset[IPNetwork],
    local: frozenset[IPNetwork],
    main: frozenset[IPNetwork],
    destination: IPNetwork,
) -> None:
    plan = make_plan(RouterConfig(OWN, routes=routes | PEERS, local_routes=local), MESH0, Ipv6.USABLE)
    way = lookup(plan, destination.network_address, main=main, marked=True)
    assert way == ("main" if longest(destination.network_address, main) else "unreachable")


@given(routes=SETS, local=SETS, main=SETS, destination=networks(4) | networks(6))
def test_with_an_exit_node_only_local_routes_leave_the_tunnel(
    routes: frozenset[IPNetwork],
    local: frozenset[IPNetwork],
    main: frozenset[IPNetwork],
    destination: IPNetwork,
) -> None:
    config = RouterConfig(OWN, routes=routes | PEERS | EXIT, local_routes=local)
    way = lookup(make_plan(config, MESH0, Ipv6.USABLE), destination.network_address, main=main)
    if longest(destination.network_address, local) is None:
        assert way == "tunnel"


@given(routes=SETS, local=SETS, main=SETS, destination=networks(4) | networks(6))
def test_without_an_exit_node_what_main_knows_better_than_by_default_stays_there(
    routes: frozenset[IPNetwork],
    local: frozenset[IPNetwork],
    main: frozenset[IPNetwork],
    destination: IPNetwork,
) -> None:
    config = RouterConfig(OWN, routes=(routes | PEERS) - EXIT, local_routes=local)
    way = lookup(make_plan(config, MESH0, Ipv6.USABLE), destination.network_address, main=main)
    known = longest(destination.network_address, main)
    if known is not None and known.prefixlen > 0:
        assert way == "main"


@given(routes=SETS, local=SETS, main=SETS)
def test_the_addresses_of_peers_always_win(
    routes: frozenset[IPNetwork], local: frozenset[IPNetwork], main: frozenset[IPNetwork]
) -> None:
    against = nets("100.64.0.0/10", "100.64.0.2/32", "0.0.0.0/0")
    config = RouterConfig(OWN, routes=routes | PEERS, local_routes=local | against)
    plan = make_plan(config, MESH0, Ipv6.USABLE)
    assert lookup(plan, ip_address("100.64.0.2"), main=main | against) == "tunnel"
    assert len({route.destination for route in plan.routes}) == len(plan.routes)


def test_phases_come_in_their_order_whatever_the_interface() -> None:
    """The peers of one node before the exit node of another."""
    slots = [ownership(name).slot for name in ("mesh0", "mesh99", "wg-home", "tun.7")]
    assert max(PHASE_PEERS + slot for slot in slots) < min(PHASE_LAN + slot for slot in slots)
    assert max(PHASE_SUBNETS + slot for slot in slots) < min(PHASE_EXIT + slot for slot in slots)
