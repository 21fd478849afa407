"""Following the host's network: what a notification means, what the state is, and changes in a namespace."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.linux import netmon
from meshnode.linux.marks import PHASE_PEERS, PROTOCOL, ownership
from meshnode.linux.netlink_events import EVERYTHING, NFT, Event, read_firewall, read_routing
from meshnode.linux.netstate import AddressFact, DefaultRoute, LinkFact, NetworkState, network_state
from tests.meshnode.linux.configurations import nets
from tests.meshnode.linux.node_process import PlainNode
from tests.netlab import Lab, wait_for

MESH0 = ownership("mesh0")


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def route(kind: int, *, table: int, protocol: int = 3, dst_len: int = 24, flags: int = 0) -> bytes:
    header = struct.pack("=8BI", socket.AF_INET, dst_len, 0, 0, min(table, 252), protocol, 0, 1, flags)
    return message(kind, header + attribute(15, struct.pack("=I", table)))


def rule(*, priority: int, protocol: int) -> bytes:
    header = struct.pack("=8BI", socket.AF_INET6, 0, 0, 0, 254, 0, 0, 1, 0)
    return message(33, header + attribute(21, bytes([protocol])) + attribute(6, struct.pack("=I", priority)))


def link(kind: int, name: str) -> bytes:
    return message(kind, bytes(16) + attribute(3, name.encode() + b"\0"))


def nft(kind: int, table: str) -> bytes:
    return message(NFT | kind, bytes(4) + attribute(1, table.encode() + b"\0"))


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (link(16, "eth0"), Event.CHANGED),
        (link(17, "mesh0"), EVERYTHING),
        (link(16, "mesh0"), EVERYTHING),
        (link(16, "mesh01"), Event.CHANGED),
        (message(20, bytes(8)), Event.CHANGED),
        (message(21, bytes(8)), EVERYTHING),
        (route(25, table=MESH0.table, protocol=PROTOCOL), Event.DISTURBED),
        (route(24, table=MESH0.table, protocol=PROTOCOL), Event.NONE),
        (route(25, table=MESH0.table, protocol=4), Event.NONE),
        (route(25, table=ownership("mesh1").table, protocol=PROTOCOL), Event.NONE),
        (route(24, table=254, dst_len=0), Event.CHANGED),
        (route(25, table=254, dst_len=0), Event.CHANGED),
        (route(24, table=254), Event.NONE),
        (route(24, table=255, dst_len=32), Event.NONE),
        (route(24, table=254, dst_len=0, flags=0x200), Event.NONE),
        (rule(priority=PHASE_PEERS, protocol=PROTOCOL), Event.DISTURBED),
        (rule(priority=PHASE_PEERS + 1, protocol=PROTOCOL), Event.NONE),
        (rule(priority=PHASE_PEERS, protocol=4), Event.NONE),
        (message(80, bytes(4)), Event.DISTURBED),
        (message(4, b""), EVERYTHING),
        (message(99, b""), Event.NONE),
        (link(16, "eth0") + rule(priority=PHASE_PEERS, protocol=PROTOCOL), EVERYTHING),
    ],
)
def test_a_notification_means(data: bytes, event: Event) -> None:
    assert read_routing(data, MESH0) == event


@pytest.mark.parametrize(
    ("data", "event"),
    [
        (nft(2, "meshnode-mesh0"), Event.DISTURBED),
        (nft(5, "meshnode-mesh0"), Event.DISTURBED),
        (nft(8, "meshnode-mesh0"), Event.DISTURBED),
        (nft(0, "meshnode-mesh0"), Event.NONE),
        (nft(2, "meshnode-mesh1"), Event.NONE),
        (nft(0, "other") + nft(2, "meshnode-mesh0"), Event.DISTURBED),
    ],
)
def test_a_firewall_notification_means(data: bytes, event: Event) -> None:
    assert read_firewall(data, MESH0) == event


@given(st.sampled_from([4, 16, 20, 21, 24, 25, 33, 80]), st.binary(max_size=64), st.binary(max_size=16))
def test_no_notification_is_too_odd_to_read(kind: int, body: bytes, rest: bytes) -> None:
    read_routing(message(kind, body) + rest, MESH0)
    read_firewall(message(NFT | kind, body) + rest, MESH0)
    read_routing(rest, MESH0)


# The state

LINKS = {
    1: LinkFact("lo", running=True, loopback=True),
    2: LinkFact("eth0", running=True),
    3: LinkFact("wlan0", running=False),
    4: LinkFact("mesh0", running=True),
    5: LinkFact("docker0", running=True),
}


def facts(*addresses: tuple[int, str]) -> list[AddressFact]:
    return [AddressFact(index, ip_interface(text)) for index, text in addresses]


def test_endpoints_are_what_others_may_reach() -> None:
    addresses = facts(
        (1, "127.0.0.1/8"),
        (2, "fe80::1/64"),
        (2, "192.168.1.2/24"),
        (2, "2001:db8::2/64"),
        (2, "100.64.3.4/10"),
        (3, "10.0.0.2/8"),
        (4, "100.64.0.1/32"),
        (4, "10.9.0.1/24"),
        (5, "172.17.0.1/16"),
    )
    addresses.append(AddressFact(2, ip_interface("2001:db8::3/64"), usable=False))
    state = network_state("mesh0", LINKS, addresses, {})
    assert [str(address) for address in state.endpoints] == ["172.17.0.1", "192.168.1.2", "2001:db8::2"]
    assert set(state.lan_prefixes) == nets(
        "172.17.0.0/16", "192.168.1.0/24", "100.64.0.0/10", "2001:db8::/64"
    )
    assert not state.is_online


def test_single_addresses_and_link_local_networks_are_no_lan() -> None:
    state = network_state(
        "mesh0", LINKS, facts((2, "203.0.113.5/32"), (2, "fe80::1/64"), (2, "10.0.0.1/0")), {}
    )
    assert state.lan_prefixes == ()


def test_states_of_the_same_network_are_equal_whatever_the_order() -> None:
    one, two = facts((2, "192.168.1.2/24"), (5, "172.17.0.1/16"))
    way = {4: DefaultRoute("eth0", ip_address("192.168.1.1"))}
    assert network_state("mesh0", LINKS, [one, two], way) == network_state(
        "mesh0", LINKS, [two, one], dict(way)
    )


@pytest.mark.parametrize(
    ("way", "seen"),
    [
        (DefaultRoute("eth0", ip_address("192.168.1.1"), ip_address("192.168.1.2")), True),
        (DefaultRoute("ppp0", None, ip_address("203.0.113.5")), False),
        (DefaultRoute("eth0", ip_address("fe80::1"), ip_address("192.168.1.2")), False),  # RFC 5549
    ],
)
def test_a_gateway_for_port_mapping_has_an_ipv4_address(way: DefaultRoute, seen: bool) -> None:
    state = network_state("mesh0", LINKS, [], {4: way})
    assert state.gateway_v4 == ((way.gateway, way.source) if seen else None)


# Real changes


@pytest.fixture
def node() -> Iterator[PlainNode]:
    with Lab("linux") as lab:
        host = lab.host("host")
        lab.lan("lan").attach(host, "192.168.1.2/24", "2001:db8:1::2/64")
        with PlainNode(host) as made:
            made.watch()
            yield made


def until(node: PlainNode, **wanted: object) -> None:
    """Wait until these parts of the state are as wanted."""

    def is_there() -> bool:
        state = node.state()
        return all(state[key] == value for key, value in wanted.items())

    wait_for(is_there, 5, what=f"the state {wanted}")


@pytest.mark.system
def test_the_state_follows_links_addresses_and_default_routes(node: PlainNode) -> None:
    lan4, lan6 = both = ["192.168.1.2", "2001:db8:1::2"]
    lan = ["192.168.1.0/24", "2001:db8:1::/64"]
    assert node.state() == {"endpoints": both, "lan_prefixes": lan, "default_routes": {}}
    node.host.add_default_routes(["192.168.1.1", "2001:db8:1::1"])
    until(node, default_routes={"4": ["eth0", "192.168.1.1", lan4], "6": ["eth0", "2001:db8:1::1", lan6]})
    node.host.ip("address add 10.5.0.1/16 dev eth0")
    until(node, endpoints=["10.5.0.1", *both], lan_prefixes=["10.5.0.0/16", *lan])
    node.host.link_down()
    until(node, endpoints=[], lan_prefixes=[], default_routes={})


@pytest.mark.system
def test_the_tunnel_is_no_part_of_the_state(node: PlainNode) -> None:
    node.host.add_default_routes(["192.168.1.1"])
    until(node, default_routes={"4": ["eth0", "192.168.1.1", "192.168.1.2"]})
    before = node.state()
    node.must_set(addresses=["100.64.0.1/32"], routes=["100.64.0.2/32", "0.0.0.0/0", "::/0"])
    node.host.ip("address add 10.9.0.1/24 dev mesh0", "address add 10.5.0.1/16 dev eth0")
    until(node, endpoints=["10.5.0.1", *before["endpoints"]])
    assert node.state()["default_routes"] == before["default_routes"]


# Coming to rest


async def test_repairs_are_rationed() -> None:
    allowance = netmon._Allowance(interval=0.05, burst=3)
    loop = asyncio.get_running_loop()
    start = loop.time()
    for _ in range(3):
        await allowance.wait()
        allowance.use()
    assert loop.time() - start < 0.04
    await allowance.wait()
    assert loop.time() - start >= 0.04


async def test_what_is_asked_for_while_waiting_is_one_run_and_a_failure_is_not_the_end() -> None:
    runs = 0

    async def action() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise RuntimeError("once")

    soon = netmon._Soon(0.01, action)
    task = asyncio.create_task(soon.run())
    for _ in range(2):
        soon.trigger()
        soon.trigger()
        await asyncio.sleep(0.03)
    task.cancel()
    assert runs == 2


def test_the_default_state_is_that_of_a_machine_without_a_network() -> None:
    assert NetworkState() == network_state("mesh0", {}, [], {})
