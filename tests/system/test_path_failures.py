"""Paths die, relays restart, nodes move under traffic: it goes on within 2 s, and nobody types anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.netlab import Lab, wait_for
from tests.netlab.natmesh import Member, NatMesh
from tests.netlab.networks import NETWORKS
from tests.system.traffic import Traffic, kind_of, traffic

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

LIMIT = 2.0
"""Seconds without traffic that a person may notice (issue: within 2 s)."""
STALL_LIMIT = 2.5
"""The same of a TCP stream that is looked at twice a second, and waits for its own next retransmission."""

NO_UDP_TO_PEERS = "meta l4proto udp ip saddr != 25.0.113.2 ip daddr != 25.0.113.2"
"""What a router drops that lets out nothing but to the coordinator, whose STUN servers still answer."""


@pytest.fixture(scope="module")
def homes() -> Iterator[NatMesh]:
    """Two nodes, each behind the usual router; the coordinator with its relay on the internet."""
    with Lab("paths") as lab:
        mesh = NatMesh.of(lab, NETWORKS["home-both"])
        mesh.start()
        yield mesh


@pytest.fixture
def pair(homes: NatMesh) -> tuple[Member, Member]:
    """The two nodes, with a direct path between them."""
    left, right = homes.members["left"], homes.members["right"]
    left.node.wait_to_reach(right.node)
    wait_until_direct(left, right)
    return left, right


def wait_until_direct(left: Member, right: Member) -> None:
    def is_direct() -> bool:
        left.node.host.ping(right.ipv4, count=1)
        return bool(left.path_to(right)["Direct"] and right.path_to(left)["Direct"])

    wait_for(is_direct, 20, what="a direct path")


def assert_went_on(seen: Traffic) -> None:
    assert seen.longest_silence < LIMIT, f"pings stood still for {seen.longest_silence:.2f} s"
    assert seen.longest_stall < STALL_LIMIT, f"TCP stood still for {seen.longest_stall} s: {seen.rates}"


def test_the_direct_path_is_cut_and_restored(pair: tuple[Member, Member]) -> None:
    left, right = pair
    router = left.place.router
    assert router is not None
    with traffic(left.node, right.node) as seen:
        router.cut(NO_UDP_TO_PEERS)
        wait_for(lambda: not left.path_to(right)["Direct"], 10, what="data to leave the dead path")
        time.sleep(1)
        router.mend()
        wait_until_direct(left, right)
    assert_went_on(seen)


def test_the_relay_is_cut_off(pair: tuple[Member, Member]) -> None:
    left, right = pair
    router = left.place.router
    assert router is not None
    with traffic(left.node, right.node) as seen:
        router.cut("ip daddr 25.0.113.2")
        time.sleep(5)
        router.mend()
        wait_for(lambda: left.status()["Self"]["Relay"], 10, what="the home relay again")
    assert not seen.lost, f"{seen.lost} of {seen.sent} pings lost"
    assert_went_on(seen)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_the_coordinator_and_its_relay_end_while_paths_are_direct(
    pair: tuple[Member, Member], homes: NatMesh, how: str
) -> None:
    left, right = pair
    with traffic(left.node, right.node) as seen:
        getattr(homes.coordinator, how)()
        time.sleep(2)
        homes.coordinator.start()
        time.sleep(1)
    assert not seen.lost, f"{seen.lost} of {seen.sent} pings lost"
    assert_went_on(seen)


def test_a_node_gets_another_address(pair: tuple[Member, Member]) -> None:
    left, right = pair
    with traffic(left.node, right.node) as seen:
        left.node.host.set_addresses("eth0", ["192.168.1.77/24"])
        left.node.host.add_default_routes(["192.168.1.1"])
        time.sleep(4)
        wait_until_direct(left, right)
    assert_went_on(seen)


def test_the_relay_restarts_while_all_traffic_goes_over_it(
    pair: tuple[Member, Member], homes: NatMesh
) -> None:
    """The time that the coordinator itself takes to end and to start again is not the nodes'."""
    left, right = pair
    router = left.place.router
    assert router is not None
    router.cut("meta l4proto udp")
    try:
        wait_for(lambda: not left.path_to(right)["Direct"], 10, what="the relay to be used")
        for end in (homes.coordinator.stop, homes.coordinator.kill):
            with traffic(left.node, right.node) as seen:
                away = restart(end, homes.coordinator.start)
                time.sleep(3)
            assert seen.longest_silence < away + 1.0, (
                f"{seen.longest_silence:.2f} s, {away:.2f} s without relay"
            )
    finally:
        router.mend()


def restart(end: Callable[[], None], start: Callable[[], None]) -> float:
    """Returns how long there was no relay, in seconds."""
    began = time.monotonic()
    end()
    start()
    return time.monotonic() - began


def test_what_leaves_a_node_is_wireguard_or_sealed(pair: tuple[Member, Member]) -> None:
    """Every UDP payload is WireGuard's, disco's or STUN's, on the direct path and while it is found."""
    left, right = pair
    router = left.place.router
    assert router is not None
    capture = router.capture("wan", "udp")
    router.cut(NO_UDP_TO_PEERS)
    left.node.host.ping(right.ipv4, count=20)
    router.mend()
    wait_until_direct(left, right)
    left.node.host.ping(right.ipv4, count=10)
    capture.stop()
    kinds = {kind_of(datagram.payload) for datagram in capture.udp_datagrams()}
    assert {"WireGuard", "disco"} <= kinds <= {"WireGuard", "disco", "STUN"}
