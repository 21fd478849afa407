"""What polling nodes are told, and when: changes, routes and their failover, restarts, slow readers."""

from __future__ import annotations

import asyncio
import os
from ipaddress import ip_network
from typing import Any

import pytest

from coordinator import poll as poll_module
from meshproto.addresses import AddrPort
from meshproto.codec import MapStreamReader
from meshproto.keys import DiscoPrivate
from meshproto.messages import Hostinfo, MapResponse, NetInfo
from tests.coordinator.conftest import TIMINGS, Server
from tests.coordinator.machine import Connection, Machine, NetMap, Poll

SUBNET = ip_network("192.168.0.0/24")
EXIT = (ip_network("0.0.0.0/0"), ip_network("::/0"))


async def join_router(server: Server, hostname: str, *routes: Any) -> tuple[Machine, Connection, Poll]:
    machine, connection, poll = await server.join(hostname)
    machine.hostinfo = Hostinfo(hostname=hostname, routable_ips=routes or (SUBNET,))
    assert (await machine.report(connection)).status == 200
    return machine, connection, poll


def serves(name: str, *routes: Any) -> Any:
    return lambda map: name in map.names() and map.peer(name).primary_routes == routes


async def test_nodes_see_each_other_come_and_go(server: Server) -> None:
    _, _, laptop = await server.join("laptop")
    _, _, other = await server.join("server")
    assert other.map.names() == {"laptop"}
    assert other.map.peer("laptop").online
    await laptop.until(lambda map: map.names() == {"server"} and map.peer("server").online)
    other.stop()
    await laptop.until(lambda map: not map.peer("server").online)
    assert laptop.map.peer("server").last_seen is not None


async def test_a_short_break_is_not_news(server: Server) -> None:
    _, _, watcher = await server.join("watcher")
    machine, _, poll = await server.join("laptop")
    await watcher.until(lambda map: "laptop" in map.names() and map.peer("laptop").online)
    assert await watcher.is_quiet()
    poll.stop()
    await machine.poll(await server.connect(machine))
    assert await watcher.is_quiet(TIMINGS.offline_grace_s + 0.3)


async def test_reports_reach_peers_as_patches_and_leave_the_own_stream_alone(server: Server) -> None:
    machine, connection, own = await server.join("laptop")
    _, _, watcher = await server.join("watcher")
    await own.until(lambda map: "watcher" in map.names() and map.peer("watcher").online)
    endpoint = AddrPort("192.0.2.9", 41641)
    machine.disco_key = DiscoPrivate.generate(os.urandom).public
    machine.hostinfo = Hostinfo(hostname="laptop", os="linux", net_info=NetInfo(preferred_derp=7))
    reply = await machine.report(connection, endpoints=(endpoint,))
    assert (reply.status, reply.body) == (200, b"")
    message = await watcher.next()
    assert message is not None
    assert not message.peers_changed
    (patch,) = message.peers_changed_patch
    assert (patch.endpoints, patch.disco_key, patch.derp_region) == ((endpoint,), machine.disco_key, 7)
    assert await own.is_quiet()


async def test_a_report_that_says_nothing_new_is_not_news(server: Server) -> None:
    machine, connection, _ = await server.join("laptop")
    _, _, watcher = await server.join("watcher")
    assert await watcher.is_quiet()
    before = server.node(machine)
    await machine.report(connection)
    assert server.node(machine) is before
    assert await watcher.is_quiet()


async def test_a_streaming_request_reports_nothing(server: Server) -> None:
    machine, connection, _ = await server.join("laptop")
    before = server.node(machine)
    await machine.poll(connection, endpoints=(AddrPort("192.0.2.9", 1),), hostinfo=Hostinfo(hostname="other"))
    after = server.node(machine)
    assert (after.endpoints, after.hostinfo) == (before.endpoints, before.hostinfo)


async def test_hostname_changes_rename_unless_an_administrator_did(server: Server) -> None:
    machine, connection, own = await server.join("laptop")
    machine.hostinfo = Hostinfo(hostname="notebook")
    await machine.report(connection)
    await own.until(lambda map: map.own.name == "notebook.mesh.test.")
    await server.state.rename_node(server.node(machine).id, "ana-pc")
    await own.until(lambda map: map.own.name == "ana-pc.mesh.test.")
    machine.hostinfo = Hostinfo(hostname="laptop")
    await machine.report(connection)
    assert server.node(machine).given_name == "ana-pc"
    assert server.node(machine).hostname == "laptop"


async def test_a_route_counts_once_advertised_and_approved(server: Server) -> None:
    machine, _, own = await join_router(server, "router")
    _, _, watcher = await server.join("watcher")
    node_id = server.node(machine).id
    assert watcher.map.peer("router").primary_routes == ()
    await server.state.set_approved_routes(node_id, [SUBNET])
    await watcher.until(serves("router", SUBNET))
    allowed = watcher.map.peer("router").allowed_ips
    assert allowed == (*watcher.map.peer("router").addresses, SUBNET)
    await own.until(lambda map: map.own.allowed_ips == allowed and map.own.primary_routes == (SUBNET,))
    await server.state.set_approved_routes(node_id, [])
    await watcher.until(serves("router"))


async def test_approval_survives_withdrawal(server: Server) -> None:
    machine, connection, _ = await join_router(server, "router")
    _, _, watcher = await server.join("watcher")
    await server.state.set_approved_routes(server.node(machine).id, [SUBNET])
    await watcher.until(serves("router", SUBNET))
    machine.hostinfo = Hostinfo(hostname="router")
    await machine.report(connection)
    await watcher.until(serves("router"))
    machine.hostinfo = Hostinfo(hostname="router", routable_ips=(SUBNET,))
    await machine.report(connection)
    await watcher.until(serves("router", SUBNET))


async def test_exit_routes_are_approved_as_a_pair_and_never_primary(server: Server) -> None:
    machine, _, _ = await join_router(server, "exit", *EXIT)
    _, _, watcher = await server.join("watcher")
    node = await server.state.set_approved_routes(server.node(machine).id, [EXIT[1]])
    assert node.approved_routes == EXIT
    await watcher.until(lambda map: set(EXIT) <= set(map.peer("exit").allowed_ips))
    assert watcher.map.peer("exit").primary_routes == ()


async def test_failover_when_the_primary_leaves_and_no_way_back(server: Server) -> None:
    first, _, first_poll = await join_router(server, "one")
    second, _, _ = await join_router(server, "two")
    _, _, watcher = await server.join("watcher")
    for machine in (first, second):
        await server.state.set_approved_routes(server.node(machine).id, [SUBNET])
    await watcher.until(lambda map: serves("one", SUBNET)(map) and serves("two")(map))
    first_poll.stop()
    await watcher.until(lambda map: serves("one")(map) and serves("two", SUBNET)(map))
    await first.poll(await server.connect(first))
    await watcher.until(lambda map: map.peer("one").online)
    assert serves("two", SUBNET)(watcher.map)


async def test_a_newer_poll_replaces_the_older_one(server: Server) -> None:
    machine, connection, older = await server.join("laptop")
    newer = await machine.poll(connection)
    await older.rest()
    _, _, _ = await server.join("server")
    await newer.until(lambda map: "server" in map.names())
    await asyncio.sleep(TIMINGS.offline_grace_s + 0.2)
    assert server.state.is_online(server.node(machine).id)


async def test_two_connections_of_one_machine(server: Server) -> None:
    machine, _, poll = await server.join("laptop")
    second = await server.connect(machine)
    endpoint = AddrPort("192.0.2.9", 41641)
    assert (await machine.report(second, endpoints=(endpoint,))).status == 200
    assert server.node(machine).endpoints == (endpoint,)
    assert not poll.ended


async def test_after_a_restart_all_is_as_it_was(server: Server) -> None:
    machine, _, poll = await join_router(server, "router")
    watcher, _, _ = await server.join("watcher")
    await server.state.set_approved_routes(server.node(machine).id, [SUBNET])
    before = server.node(machine)
    await server.stop()
    assert await poll.until(lambda _: poll.ended or True)
    await server.start()
    assert not server.state.snapshot.online
    await machine.poll(await server.connect(machine))
    again = await watcher.poll(await server.connect(watcher))
    await again.until(serves("router", SUBNET))
    after = server.node(machine)
    assert (after.addresses, after.approved_routes, after.given_name) == (
        before.addresses,
        before.approved_routes,
        before.given_name,
    )


async def test_a_deleted_peer_leaves_the_map(server: Server) -> None:
    machine, _, _ = await server.join("laptop")
    _, _, watcher = await server.join("watcher")
    await server.state.delete_node(server.node(machine).id)
    await watcher.until(lambda map: not map.names())


async def test_a_one_shot_request_gets_the_whole_map(server: Server) -> None:
    await server.join("laptop")
    machine, connection, _ = await server.join("server")
    request = machine.map_request(stream=False, compress="")
    reply = await connection.request("POST", "/machine/map", request)
    (response,) = MapStreamReader(compressed=False).receive_data(reply.body)
    assert isinstance(response, MapResponse)
    assert [peer.name for peer in response.peers] == ["laptop.mesh.test."]


async def test_a_large_map_is_compressed_aside(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_module, "LARGE_MAP", 1)
    await server.join("laptop")
    _, _, poll = await server.join("server")
    assert poll.map.names() == {"laptop"}


async def test_a_renamed_user_reaches_the_maps(server: Server) -> None:
    _, _, poll = await server.join("laptop", user="ana")
    _, _, other = await server.join("server", user="ben")
    ana = server.state.snapshot.user_ids_by_name["ana"]
    await server.state.rename_user(ana, "anna")
    for one in (poll, other):
        await one.until(lambda map: map.owners[ana] == "anna")


async def test_keep_alives(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_module, "KEEPALIVE_S", 0.2)
    monkeypatch.setattr(poll_module, "KEEPALIVE_JITTER_S", 0.0)
    _, _, poll = await server.join("laptop")
    for _ in range(2):
        message = await poll.next()
        while message is not None and not message.keep_alive:
            message = await poll.next()
        assert message == MapResponse(keep_alive=True)


async def test_a_node_that_does_not_read_is_dropped_and_bounded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(poll_module, "WRITE_TIMEOUT_S", 0.5)
    _, connection, _ = await server.join("sleeper")
    _, _, watcher = await server.join("watcher")
    reporter, reports, _ = await server.join("reporter")
    connection.acknowledge = False  # its flow-control window closes after 64 KiB
    async with asyncio.timeout(20):
        while not connection.closed.is_set():
            reporter.hostinfo = Hostinfo(hostname="reporter", os_version=os.urandom(20_000).hex())
            await reporter.report(reports)
            await asyncio.sleep(0.05)
    await watcher.until(lambda map: "sleeper" in map.names() and not map.peer("sleeper").online)
    assert not watcher.ended


async def test_many_changes_at_once_travel_together(server: Server) -> None:
    _, _, watcher = await server.join("watcher")
    machine, _, _ = await server.join("laptop")
    await watcher.until(lambda map: "laptop" in map.names() and map.peer("laptop").online)
    assert await watcher.is_quiet()
    await asyncio.gather(
        *(
            server.state.update_node_from_map_request(
                machine.key.public, machine.map_request(endpoints=(AddrPort("192.0.2.1", port),))
            )
            for port in range(1, 1001)
        )
    )
    messages = 0
    while watcher.map.peer("laptop").endpoints != (AddrPort("192.0.2.1", 1000),):
        assert await watcher.next() is not None
        messages += 1
    assert messages < 10


async def test_peers_hear_whether_a_mapping_varies_and_of_latencies_nothing(server: Server) -> None:
    machine, connection, _ = await server.join("laptop")
    _, _, watcher = await server.join("watcher")

    async def report(**fields: Any) -> None:
        net_info = NetInfo(preferred_derp=7, **fields)
        machine.hostinfo = Hostinfo(hostname="laptop", os="linux", net_info=net_info)
        await machine.report(connection)

    def varies(map: NetMap) -> bool | None:
        net_info = map.peer("laptop").hostinfo.net_info
        assert net_info is None or net_info == NetInfo(
            mapping_varies_by_dest_ip=net_info.mapping_varies_by_dest_ip
        )
        return None if net_info is None else net_info.mapping_varies_by_dest_ip

    await report(mapping_varies_by_dest_ip=True, derp_latency={"7-v4": 0.02})
    await watcher.until(lambda map: varies(map) is True and map.peer("laptop").home_derp == 7)
    await report(mapping_varies_by_dest_ip=True, derp_latency={"7-v4": 0.03}, working_udp=True)
    await report(derp_latency={"7-v4": 0.04})  # a check that asked one server only
    assert await watcher.is_quiet()
    await report(mapping_varies_by_dest_ip=False)
    await watcher.until(lambda map: varies(map) is False)
