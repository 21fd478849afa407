"""The backend against a real coordinator, with a tunnel that only remembers."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from coordinator.app import Coordinator
from meshnode.backend import Refused
from meshnode.disco.endpoints import Endpoint, EndpointType
from meshnode.prefs import InvalidPrefs, Prefs, mask
from meshproto.addresses import AddrPort
from tests.meshnode.daemon.conftest import (
    NodeMaker,
    TestNode,
    create_key,
    join,
    prefs_for,
    url_of,
    wait_until,
)
from tests.meshnode.fakes import ENDPOINT, coordinator_in


def peer_names(node: TestNode) -> set[str]:
    peers = node.backend.status()["Peer"] or {}
    return {peer["DNSName"].partition(".")[0] for peer in peers.values()}


def endpoints_known(node: TestNode) -> list[tuple[AddrPort, ...]]:
    return [tuple(path.endpoints) for path in node.tunnel.applied.paths]


async def test_two_nodes_join_and_know_each_other(coordinator: Coordinator, start_node: NodeMaker) -> None:
    one, two = await start_node("one"), await start_node("two")
    assert one.backend.state.label == "NeedsLogin"
    await join(one, coordinator, "one")
    await join(two, coordinator, "two")
    await wait_until(lambda: peer_names(one) == {"two"} and peer_names(two) == {"one"})
    assert [str(own) for own in one.tunnel.applied.router.addresses] == [
        "100.64.0.1/32",
        "fd7a:115c:a1e0::1/128",
    ]
    await wait_until(lambda: endpoints_known(one) == [(ENDPOINT,)])
    status = one.backend.status()
    assert status["TailscaleIPs"] == ["100.64.0.1", "fd7a:115c:a1e0::1"]
    assert status["Self"]["Online"]


async def test_a_change_of_network_reaches_the_peers(coordinator: Coordinator, start_node: NodeMaker) -> None:
    one, two = await start_node("one"), await start_node("two")
    await join(one, coordinator, "one")
    await join(two, coordinator, "two")
    elsewhere = ENDPOINT._replace(host="198.51.100.9")
    two.tunnel.known_endpoints = (Endpoint(elsewhere, EndpointType.LOCAL),)
    two.tunnel.on_network_change()
    await wait_until(lambda: endpoints_known(one) == [(elsewhere,)])


async def test_a_person_lets_a_node_in(coordinator: Coordinator, start_node: NodeMaker) -> None:
    node = await start_node("one")
    with node.backend.bus.watch() as notifications:
        await node.backend.start(prefs_for(coordinator, "one"))
        while (notification := await notifications.get()) is not None and "BrowseToURL" not in notification:
            pass
    assert notification is not None
    url = notification["BrowseToURL"]
    assert url.startswith(url_of(coordinator) + "/register/")
    assert node.backend.state.label == "NeedsLogin"
    assert node.backend.status()["AuthURL"] == url
    assert node.backend.login_progress()["BrowseToURL"] == url
    (user,) = coordinator.state.snapshot.users
    await coordinator.state.register_pending(url.rpartition("/")[2], user)
    await node.reaches("Running")
    assert node.backend.status()["AuthURL"] == ""


@pytest.mark.parametrize("key", ["nonsense", "hskey-auth-000000000000-" + "0" * 64])
async def test_a_refused_key_changes_nothing(
    coordinator: Coordinator, start_node: NodeMaker, key: str
) -> None:
    node = await start_node("one")
    before = node.store.load()
    with node.backend.bus.watch() as notifications:
        await node.backend.start(prefs_for(coordinator, "one"), key)
        async with asyncio.timeout(10):
            while (
                notification := await notifications.get()
            ) is not None and "ErrMessage" not in notification:
                pass
    assert notification is not None
    assert "key" in notification["ErrMessage"]
    await node.reaches("NeedsLogin")
    assert node.store.load() == before
    assert node.tunnel.applied.peers == ()


async def test_a_failed_login_elsewhere_leaves_the_login_in_force(
    coordinator: Coordinator, start_node: NodeMaker
) -> None:
    node = await start_node("one")
    await join(node, coordinator, "one")
    before = node.store.load()
    await node.backend.start(Prefs(control_url="http://127.0.0.1:1", hostname="x"), "key", force_login=True)
    await wait_until(lambda: "ErrMessage" in node.backend.login_progress())
    assert "127.0.0.1:1" in node.backend.login_progress()["ErrMessage"]
    await node.reaches("Running")
    assert node.store.load() == before
    assert node.tunnel.applied.router.addresses


async def test_a_login_elsewhere_that_a_restart_interrupts_leaves_the_login_in_force(
    coordinator: Coordinator, start_node: NodeMaker, tmp_path: Path
) -> None:
    node = await start_node("one")
    await join(node, coordinator, "one")
    async with coordinator_in(tmp_path / "elsewhere") as elsewhere:
        await node.backend.start(prefs_for(elsewhere, "one"))
        await wait_until(lambda: node.backend.status()["AuthURL"])
        await node.backend.edit_prefs(mask(route_all=True))
        await node.end()
        again = await start_node("one")
        await again.reaches("Running")
        await wait_until(lambda: again.backend.status()["Self"]["Online"])
        assert again.backend.prefs.control_url == url_of(coordinator)
        assert again.backend.prefs.route_all


async def test_settings_made_during_a_login_outlive_its_failure(
    tmp_path: Path, coordinator: Coordinator, start_node: NodeMaker
) -> None:
    node = await start_node("one")
    await join(node, coordinator, "one")
    await node.backend.start(Prefs(control_url="http://127.0.0.1:1"), "key")
    await node.backend.edit_prefs(mask(hostname="renamed"))
    await node.reaches("Running")
    assert node.backend.prefs == prefs_for(coordinator, "renamed", want_running=True)


async def test_down_and_up(coordinator: Coordinator, start_node: NodeMaker) -> None:
    node = await start_node("one")
    await join(node, coordinator, "one")
    await node.backend.edit_prefs(mask(want_running=False))
    assert node.backend.state.label == "Stopped"
    assert node.tunnel.applied.router.is_empty
    assert node.backend.status()["TailscaleIPs"] == []
    await wait_until(lambda: not coordinator.state.is_online(1), 20)
    await node.backend.edit_prefs(mask(want_running=True))
    await node.reaches("Running")
    assert node.tunnel.applied.router.addresses
    await wait_until(lambda: coordinator.state.is_online(1))


async def test_a_node_starts_from_its_cache_while_the_coordinator_is_down(
    tmp_path: Path, start_node: NodeMaker
) -> None:
    async with coordinator_in(tmp_path / "c") as coordinator:
        await coordinator.state.create_user("ana")
        one, two = await start_node("one"), await start_node("two")
        await join(one, coordinator, "one")
        await join(two, coordinator, "two")
        await wait_until(lambda: peer_names(one) == {"two"})
        applied, port = one.tunnel.applied, coordinator.port
        await one.end()
        await two.end()
    again = await start_node("one")
    assert again.backend.state.label == "Running"
    assert again.tunnel.applied == applied
    assert not again.backend.status()["Self"]["Online"]
    async with coordinator_in(tmp_path / "c", port):
        await wait_until(lambda: again.backend.status()["Self"]["Online"], 40)


async def test_a_cache_of_another_login_is_not_used(
    coordinator: Coordinator, start_node: NodeMaker, tmp_path: Path
) -> None:
    one, two = await start_node("one"), await start_node("two")
    await join(one, coordinator, "one")
    await join(two, coordinator, "two")
    await one.end()
    await two.end()
    (tmp_path / "one" / "netmap.json").write_bytes((tmp_path / "two" / "netmap.json").read_bytes())
    again = await start_node("one")
    await again.reaches("Running")
    assert again.backend.status()["TailscaleIPs"][0] == "100.64.0.1"


@pytest.mark.parametrize("content", [b"", b"{", b'{"Peers": []}', b'{"Node": {"Key": ""}}'])
async def test_a_damaged_cache_is_passed_over(
    coordinator: Coordinator, start_node: NodeMaker, tmp_path: Path, content: bytes
) -> None:
    node = await start_node("one")
    await join(node, coordinator, "one")
    await node.end()
    (tmp_path / "one" / "netmap.json").write_bytes(content)
    await (await start_node("one")).reaches("Running")


async def test_logout_ends_the_login_on_both_sides(
    coordinator: Coordinator, start_node: NodeMaker, tmp_path: Path
) -> None:
    node = await start_node("one")
    await join(node, coordinator, "one", route_all=True)
    assert await node.backend.logout() == ""
    assert node.backend.state.label == "NeedsLogin"
    assert node.tunnel.applied.router.is_empty
    assert not (tmp_path / "one" / "netmap.json").exists()
    record = coordinator.state.snapshot.nodes[1]
    assert record.expiry is not None
    assert record.expiry <= datetime.now(UTC)
    assert node.backend.prefs.route_all, "settings outlive a logout"
    old_key = record.node_key
    await join(node, coordinator, "one")
    assert coordinator.state.snapshot.nodes[1].node_key != old_key
    assert node.backend.status()["TailscaleIPs"][0] == "100.64.0.1", (
        "the same machine and user keep their address"
    )


async def test_logout_without_the_coordinator_says_so(tmp_path: Path, start_node: NodeMaker) -> None:
    async with coordinator_in(tmp_path / "c") as coordinator:
        await coordinator.state.create_user("ana")
        node = await start_node("one")
        await join(node, coordinator, "one")
    assert "stays valid" in await node.backend.logout()
    assert node.backend.state.label == "NeedsLogin"


async def test_a_key_that_is_expired_by_the_administrator(
    coordinator: Coordinator, start_node: NodeMaker
) -> None:
    node = await start_node("one")
    await join(node, coordinator, "one")
    await coordinator.state.expire_node(1, datetime.now(UTC) - timedelta(seconds=1))
    await node.reaches("NeedsLogin")
    assert node.tunnel.applied.router.is_empty
    await node.backend.start(node.backend.prefs, await create_key(coordinator))
    await node.reaches("Running")
    assert node.backend.status()["TailscaleIPs"][0] == "100.64.0.1"


async def test_a_deleted_node_must_log_in_again(coordinator: Coordinator, start_node: NodeMaker) -> None:
    node = await start_node("one")
    await join(node, coordinator, "one")
    await coordinator.state.delete_node(1)
    await node.reaches("NeedsLogin")
    await wait_until(lambda: node.backend.status()["AuthURL"])


async def test_logging_in_again_keeps_the_tunnel_until_it_works(
    coordinator: Coordinator, start_node: NodeMaker
) -> None:
    node = await start_node("one")
    await join(node, coordinator, "one")
    applied, key = node.tunnel.applied, node.tunnel.key
    await node.backend.start(node.backend.prefs, force_login=True)
    await wait_until(lambda: node.backend.status()["AuthURL"])
    assert node.backend.state.label == "NeedsLogin"
    assert (node.tunnel.applied, node.tunnel.key) == (applied, key)
    (user,) = coordinator.state.snapshot.users
    await coordinator.state.register_pending(node.backend.status()["AuthURL"].rpartition("/")[2], user)
    await node.reaches("Running")
    assert node.tunnel.key != key
    assert node.tunnel.applied.router.addresses == applied.router.addresses
    assert len(coordinator.state.snapshot.nodes) == 1


async def test_settings_reach_the_coordinator_and_the_tunnel(
    coordinator: Coordinator, start_node: NodeMaker
) -> None:
    one, two = await start_node("one"), await start_node("two")
    await join(one, coordinator, "one")
    await join(two, coordinator, "two")
    await one.backend.edit_prefs(mask(advertise_routes=("192.168.7.0/24",)))
    lan = ip_network("192.168.7.0/24")
    await wait_until(lambda: lan in coordinator.state.snapshot.nodes[1].advertised_routes)
    assert one.tunnel.applied.router.subnet_routes == frozenset()
    await coordinator.state.set_approved_routes(1, (lan,))
    await wait_until(lambda: one.tunnel.applied.router.subnet_routes == {lan})
    await wait_until(lambda: any("--accept-routes" in line for line in two.backend.health()))
    await two.backend.edit_prefs(mask(route_all=True))
    assert lan in two.tunnel.applied.router.routes
    assert two.backend.health() == ()


async def test_what_a_command_cannot_do(coordinator: Coordinator, start_node: NodeMaker) -> None:
    node = await start_node("one")
    with pytest.raises(Refused, match="--login-server"):
        await node.backend.start(Prefs())
    with pytest.raises(InvalidPrefs, match="ftp"):
        await node.backend.edit_prefs(mask(control_url="ftp://vpn.example.org"))
    with pytest.raises(InvalidPrefs, match="no user"):
        await node.backend.edit_prefs(mask(operator_user="no-such-user"))
    await join(node, coordinator, "one")
    with pytest.raises(Refused, match="meshnode login"):
        await node.backend.edit_prefs(mask(control_url="https://elsewhere.example.org"))
    assert node.backend.state.label == "Running"


async def test_what_the_tunnel_cannot_have_is_in_the_health_list(
    coordinator: Coordinator, start_node: NodeMaker
) -> None:
    node = await start_node("one")
    node.tunnel.problems = ("no nft: install nftables",)
    await join(node, coordinator, "one")
    assert "no nft: install nftables" in node.backend.health()


async def test_closing_leaves_the_login_as_it_was(coordinator: Coordinator, start_node: NodeMaker) -> None:
    node = await start_node("one")
    await join(node, coordinator, "one")
    await node.end()
    again = await start_node("one")
    await again.reaches("Running")
    assert len(coordinator.state.snapshot.nodes) == 1
