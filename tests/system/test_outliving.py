"""The tunnel outlives its coordinator, and a node starts without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.netlab import PingResult, iperf3, wait_for
from tests.netlab.programs import Coordinator, Node
from tests.system.conftest import SmallMesh

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


@contextmanager
def undisturbed_traffic(source: Node, destination: Node) -> Iterator[None]:
    """Ping 20 times a second and a TCP transfer run during the block; afterwards not one ping is lost."""
    iperf3.serve(destination.host)
    ping = source.host.popen("ping", "-n", "-i", "0.05", destination.ipv4, log="ping-long")
    load = iperf3.client_words(destination.ipv4, "--time", "600", "--bitrate", "20M")
    transfer = source.host.popen(*load, log="transfer")
    wait_for(lambda: "icmp_seq=10" in ping.output(), 10, what="the first pings")
    try:
        yield
    finally:
        transfer.interrupt()
        counted = PingResult.parse(ping.interrupt())
    assert counted.lost <= 1, f"{counted.lost} of {counted.sent} pings lost"  # the one in flight at Ctrl-C
    assert missing_sequence_numbers(ping.output()) == []
    rates = iperf3.Transfer.parse(transfer.output()).interval_rates
    assert all(rate > 0 for rate in rates[:-1]), f"the transfer stood still: {rates}"


def missing_sequence_numbers(output: str) -> list[int]:
    """Those between the first and last answer that were never answered."""
    seen = {
        int(line.partition("icmp_seq=")[2].split()[0]) for line in output.splitlines() if "icmp_seq=" in line
    }
    return sorted(set(range(1, max(seen) + 1)) - seen)


def restart(coordinator: Coordinator) -> None:
    coordinator.stop()
    coordinator.start()


def kill_and_restart(coordinator: Coordinator) -> None:
    coordinator.kill()
    coordinator.start()


@pytest.mark.parametrize("interrupt", [restart, kill_and_restart])
def test_the_coordinator_goes_and_comes_back_during_traffic(
    mesh: SmallMesh, interrupt: Callable[[Coordinator], None]
) -> None:
    first, second = mesh.join("first"), mesh.join("second", "--advertise-routes", "192.168.7.0/24")
    mesh.coordinator.approve("second", "192.168.7.0/24")
    first.wait_to_reach(second)
    before = durable_facts(mesh.coordinator)
    with undisturbed_traffic(first, second):
        interrupt(mesh.coordinator)
        wait_for(lambda: all_online(mesh.coordinator), 60, what="both nodes' return")
    assert durable_facts(mesh.coordinator) == before
    assert first.status()["BackendState"] == "Running"
    third = mesh.join("third")
    wait_for(lambda: first.peer("third"), 10, what="news from the coordinator after its return")
    first.wait_to_reach(third)


def durable_facts(coordinator: Coordinator) -> list[tuple[object, ...]]:
    """What must be the same after a restart."""
    facts = (
        "id",
        "givenName",
        "ipAddresses",
        "machineKey",
        "nodeKey",
        "approvedRoutes",
        "availableRoutes",
        "expiry",
    )
    return [tuple(node[fact] for fact in facts) for node in coordinator.query("nodes", "list")]


def all_online(coordinator: Coordinator) -> bool:
    return all(node["online"] for node in coordinator.query("nodes", "list"))


def wait_until_cached(node: Node, peer: Node) -> None:
    """Until the map on the node's disk, which is written a moment after it comes, says where the peer is."""
    endpoint = str(peer.status()["Self"]["Addrs"][0])
    cache = node.state_directory / "netmap.json"
    wait_for(lambda: cache.exists() and endpoint in cache.read_text(), 10, what=f"{peer.name} in {cache}")


def test_a_node_started_without_its_coordinator_reaches_its_peers(mesh: SmallMesh) -> None:
    first, second = mesh.join("first"), mesh.join("second")
    addresses = first.ipv4, first.ipv6
    first.wait_to_reach(second)
    wait_until_cached(first, second)
    mesh.coordinator.kill()
    for end in (first.stop_daemon, first.kill_daemon):
        end()
        first.start_daemon()
        first.wait_to_reach(second)
        assert (first.ipv4, first.ipv6) == addresses
    second.wait_to_reach(first)
    mesh.coordinator.start()
    wait_for(lambda: all_online(mesh.coordinator), 60, what="both nodes' return")


def test_both_nodes_started_without_their_coordinator_reach_each_other(mesh: SmallMesh) -> None:
    first, second = mesh.join("first"), mesh.join("second")
    first.wait_to_reach(second)
    wait_until_cached(first, second)
    wait_until_cached(second, first)
    mesh.coordinator.stop()
    for node in (first, second):
        node.kill_daemon()
        node.start_daemon()
    second.wait_to_reach(first)
