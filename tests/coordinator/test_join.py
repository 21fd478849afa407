"""Machines join, come back, rotate their keys, expire and log out, over real sockets."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from coordinator.errors import Invalid, NotFound
from coordinator.state import Timings
from meshproto.messages import Hostinfo, NetInfo, RegisterResponse
from tests.coordinator.conftest import TIMINGS, Server
from tests.coordinator.machine import Connection, Machine

LOGOUT = datetime(1970, 1, 1, 0, 2, 3, tzinfo=UTC)


def registration_id(response: RegisterResponse) -> str:
    return response.auth_url.rpartition("/")[2]


async def ask(server: Server, hostname: str) -> tuple[Machine, Connection, RegisterResponse]:
    """A machine that asks to join without a key."""
    machine = server.machine(hostname)
    connection = await server.connect(machine)
    return machine, connection, await machine.register(connection)


async def test_join_with_a_key(server: Server) -> None:
    machine, _connection, poll = await server.join("Laptop.local")
    own = poll.map.own
    assert own is not None
    assert own.name == "laptop.mesh.test."
    assert [str(address) for address in own.addresses] == ["100.64.0.1/32", "fd7a:115c:a1e0::1/128"]
    assert own.machine_authorized
    assert server.state.is_online(own.id)
    assert server.node(machine).hostname == "Laptop.local"


async def test_join_response_names_the_owner(server: Server) -> None:
    machine = server.machine("laptop")
    response = await machine.register(await server.connect(machine), await server.auth_key("ana"))
    assert response.machine_authorized
    assert (response.user.display_name, response.login.login_name) == ("ana", "ana")


async def test_interactive_join_goes_on_by_itself_once_approved(server: Server) -> None:
    user = await server.state.create_user("ana")
    machine, connection, asked = await ask(server, "laptop")
    assert asked.auth_url.startswith("http://vpn.test/register/hskey-authreq-")
    assert not server.state.snapshot.nodes
    follow_up = asyncio.create_task(machine.register(connection, followup=asked.auth_url))
    await asyncio.sleep(0.2)
    assert not follow_up.done()
    node = await server.state.register_pending(registration_id(asked), user.id)
    response = await asyncio.wait_for(follow_up, 5)
    assert (response.auth_url, response.error, response.user.id) == ("", "", user.id)
    assert node == server.node(machine)
    poll = await machine.poll(connection)
    assert poll.map.own is not None
    assert poll.map.own.id == node.id


async def test_approving_twice_or_an_unknown_registration_says_so(server: Server) -> None:
    user = await server.state.create_user("ana")
    _, _, asked = await ask(server, "laptop")
    with pytest.raises(NotFound, match="user"):
        await server.state.register_pending(registration_id(asked), 99)
    await server.state.register_pending(registration_id(asked), user.id)
    with pytest.raises(NotFound, match="meshnode up"):
        await server.state.register_pending(registration_id(asked), user.id)
    with pytest.raises(Invalid, match="hskey-authreq"):
        await server.state.register_pending("nonsense", user.id)


async def test_a_retry_with_a_new_node_key_keeps_its_url(server: Server) -> None:
    user = await server.state.create_user("ana")
    machine, connection, asked = await ask(server, "laptop")
    again = await machine.new_node_key().register(connection)
    assert again.auth_url == asked.auth_url
    node = await server.state.register_pending(registration_id(asked), user.id)
    assert node.node_key == machine.node_key


async def test_a_follow_up_that_waited_too_long_gets_a_fresh_url(tmp_path: Path) -> None:
    server = Server(tmp_path, Timings(pending_lifetime_s=0.3))
    await server.start()
    machine, connection, asked = await ask(server, "laptop")
    response = await machine.register(connection, followup=asked.auth_url)
    assert response.auth_url.startswith("http://vpn.test/register/")
    assert response.auth_url != asked.auth_url
    await server.close()


async def test_a_follow_up_survives_a_restart_of_the_coordinator(server: Server) -> None:
    user = await server.state.create_user("ana")
    machine, _, asked = await ask(server, "laptop")
    await server.stop()
    await server.start()
    connection = await server.connect(machine)
    fresh = await machine.register(connection, followup=asked.auth_url)
    assert fresh.auth_url
    assert fresh.auth_url != asked.auth_url
    await server.state.register_pending(registration_id(fresh), user.id)
    assert not (await machine.register(connection, followup=fresh.auth_url)).auth_url


async def test_a_stranger_may_not_follow_somebody_elses_registration(server: Server) -> None:
    _, _, asked = await ask(server, "laptop")
    stranger = server.machine("stranger")
    response = await stranger.register(await server.connect(stranger), followup=asked.auth_url)
    assert response.auth_url
    assert response.auth_url != asked.auth_url


async def test_without_a_server_url_the_node_gets_the_address_it_used(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.configure(server_url="")
    await server.start()
    _, _, asked = await ask(server, "laptop")
    assert asked.auth_url.startswith("http://vpn.test:80/register/")
    await server.close()


async def test_restart_of_a_node_changes_nothing(server: Server) -> None:
    expiry = datetime.now(UTC) + timedelta(hours=1)
    machine = server.machine("laptop")
    connection = await server.connect(machine)
    await machine.register(connection, await server.auth_key(), expiry=expiry)
    before = server.node(machine)
    assert before.expiry == expiry
    response = await machine.register(await server.connect(machine))
    assert (response.error, response.auth_url, response.node_key_expired) == ("", "", False)
    assert server.node(machine) == before


async def test_a_one_shot_key_is_used_once_even_under_concurrency(server: Server) -> None:
    key = await server.auth_key()
    machines = [server.machine(f"node{number}") for number in range(20)]
    connections = [await server.connect(machine) for machine in machines]
    responses = await asyncio.gather(
        *(
            machine.register(connection, key)
            for machine, connection in zip(machines, connections, strict=True)
        )
    )
    errors = [response.error for response in responses if response.error]
    assert len(errors) == 19
    assert all(error.startswith("authkey already used") for error in errors)
    assert len(server.state.snapshot.nodes) == 1


async def test_a_machine_starts_again_with_the_one_shot_key_it_joined_with(server: Server) -> None:
    machine = server.machine("container")
    key = await server.auth_key()
    await machine.register(await server.connect(machine), key)
    before = server.node(machine)
    response = await machine.register(await server.connect(machine), key)
    assert not response.error
    assert server.node(machine) == before
    rotated = await machine.new_node_key().register(await server.connect(machine), key)
    assert rotated.error.startswith("authkey already used")


@pytest.mark.parametrize("text", ["nonsense", f"hskey-auth-{12 * '0'}-{64 * '0'}"])
async def test_an_unknown_key_is_refused(server: Server, text: str) -> None:
    machine = server.machine("laptop")
    response = await machine.register(await server.connect(machine), text)
    assert response.error.startswith("invalid pre auth key")
    assert not server.state.snapshot.nodes


async def test_an_expired_key_is_refused(server: Server) -> None:
    key = await server.auth_key(expiration=datetime.now(UTC) - timedelta(seconds=1))
    machine = server.machine("laptop")
    response = await machine.register(await server.connect(machine), key)
    assert response.error.startswith("authkey expired")


async def test_a_tagged_key_makes_a_node_that_nobody_owns(server: Server) -> None:
    machine, _, poll = await server.join("router", tags=("tag:router",))
    node = server.node(machine)
    assert (node.user_id, node.tags, node.expiry) == (None, ("tag:router",), None)
    own = poll.map.own
    assert own is not None
    assert poll.map.owners[own.user] == "tagged-devices"


async def test_a_machine_may_not_ask_for_tags_itself(server: Server) -> None:
    machine = server.machine("router")
    machine.hostinfo = Hostinfo(hostname="router", request_tags=("tag:router",))
    response = await machine.register(await server.connect(machine), await server.auth_key())
    assert response.error == "requested tags [tag:router] are invalid or not permitted"


async def test_an_expired_node_comes_back_with_a_new_key(server: Server) -> None:
    machine, connection, poll = await server.join("laptop")
    before = server.node(machine)
    await server.state.expire_node(before.id, datetime.now(UTC))
    await poll.until(lambda map: map.own.expired)
    assert (await machine.register(connection)).node_key_expired
    response = await machine.new_node_key().register(connection, await server.auth_key())
    assert not response.error
    after = server.node(machine)
    assert (after.id, after.addresses, after.given_name) == (before.id, before.addresses, before.given_name)
    assert after.expiry is None


async def test_natural_expiry_is_told_to_the_node_and_its_peers(server: Server) -> None:
    _, _, watcher = await server.join("watcher")
    machine = server.machine("laptop")
    connection = await server.connect(machine)
    expiry = datetime.now(UTC) + timedelta(seconds=2)
    await machine.register(connection, await server.auth_key(), expiry=expiry)
    poll = await machine.poll(connection)
    await watcher.until(lambda map: "laptop" in map.names())
    await poll.until(lambda map: map.own.expired)
    message = await watcher.next()
    while message is not None and not (
        message.peers_changed_patch and message.peers_changed_patch[0].key_expiry is not None
    ):
        message = await watcher.next()
    assert message is not None
    assert message.peers_changed_patch[0].key_expiry == expiry


async def test_extending_a_key_is_refused(server: Server) -> None:
    machine, connection, _ = await server.join("laptop")
    response = await machine.register(connection, expiry=datetime.now(UTC) + timedelta(days=1))
    assert response.error == "extending key is not allowed"


@pytest.mark.parametrize("with_key", [False, True])
async def test_logout_expires_the_node_now(server: Server, with_key: bool) -> None:
    machine, connection, _ = await server.join("laptop")
    _, _, watcher = await server.join("watcher")
    key = await server.auth_key(reusable=True) if with_key else ""
    response = await machine.register(connection, key, expiry=LOGOUT)
    assert response.node_key_expired
    expiry = server.node(machine).expiry
    assert expiry is not None
    assert abs(expiry - datetime.now(UTC)) < timedelta(seconds=10)
    await watcher.until(lambda map: map.peer("laptop").key_expiry == expiry)


async def test_a_tagged_node_that_logged_out_comes_back_for_good(server: Server) -> None:
    machine, connection, _ = await server.join("router", tags=("tag:router",))
    await machine.register(connection, expiry=LOGOUT)
    key = await server.auth_key(tags=("tag:router",))
    response = await machine.new_node_key().register(connection, key)
    assert not response.node_key_expired
    assert server.node(machine).expiry is None


async def test_logout_of_an_ephemeral_node_removes_it(server: Server) -> None:
    _, _, watcher = await server.join("watcher")
    machine, connection, _ = await server.join("runner", ephemeral=True)
    await watcher.until(lambda map: "runner" in map.names())
    response = await machine.register(connection, expiry=LOGOUT)
    assert response.node_key_expired
    await watcher.until(lambda map: "runner" not in map.names())
    assert len(server.state.snapshot.nodes) == 1


async def test_an_ephemeral_node_goes_some_time_after_it_left(server: Server) -> None:
    _, _, watcher = await server.join("watcher")
    _, _, poll = await server.join("runner", ephemeral=True)
    await asyncio.sleep(TIMINGS.ephemeral_timeout_s + TIMINGS.offline_grace_s + 0.3)
    assert len(server.state.snapshot.nodes) == 2
    poll.stop()
    await watcher.until(lambda map: "runner" in map.names() and not map.peer("runner").online)
    await watcher.until(lambda map: "runner" not in map.names())
    assert len(server.state.snapshot.nodes) == 1


async def test_an_ephemeral_node_that_comes_back_stays(server: Server) -> None:
    machine, _, poll = await server.join("runner", ephemeral=True)
    poll.stop()
    await asyncio.sleep(TIMINGS.offline_grace_s + 0.2)
    await machine.poll(await server.connect(machine))
    await asyncio.sleep(TIMINGS.ephemeral_timeout_s + 0.3)
    assert server.state.is_online(server.node(machine).id)


async def test_an_ephemeral_node_that_never_polled_goes(server: Server) -> None:
    machine = server.machine("runner")
    await machine.register(await server.connect(machine), await server.auth_key(ephemeral=True))
    await asyncio.sleep(TIMINGS.ephemeral_timeout_s + 0.3)
    assert not server.state.snapshot.nodes


async def test_ephemeral_nodes_found_at_boot_get_their_time_too(server: Server) -> None:
    await server.join("runner", ephemeral=True)
    await server.stop()
    await server.start()
    assert len(server.state.snapshot.nodes) == 1
    await asyncio.sleep(TIMINGS.ephemeral_timeout_s + 0.4)
    assert not server.state.snapshot.nodes


async def test_a_deleted_node_is_told_to_log_in_and_then_unknown(server: Server) -> None:
    machine, connection, poll = await server.join("laptop")
    await server.state.delete_node(server.node(machine).id)
    (farewell,) = [message.node for message in await poll.rest() if message.node is not None]
    assert farewell.key_expiry is not None
    assert farewell.key_expiry <= datetime.now(UTC)
    reply = await machine.report(connection)
    assert (reply.status, reply.body) == (404, b"node not found\n")


async def test_a_node_key_is_good_only_with_its_machine_key(server: Server) -> None:
    machine, _, _ = await server.join("laptop")
    thief = server.machine("thief")
    thief.node_key = machine.node_key
    connection = await server.connect(thief)
    assert (await thief.report(connection)).status == 404
    key = await server.auth_key(reusable=True)
    for fields in ({}, {"expiry": LOGOUT}):
        response = await thief.register(connection, **fields)
        assert response.error == "node exists with a different machine key"
    assert (await thief.register(connection, key)).error == "node exists with a different machine key"
    assert server.node(machine).expiry is None


async def test_two_users_on_one_machine_make_two_nodes(server: Server) -> None:
    machine, connection, _ = await server.join("shared", user="ana")
    first = server.node(machine)
    await machine.new_node_key().register(connection, await server.auth_key("ben"))
    second = server.node(machine)
    assert first.id != second.id
    assert second.given_name == "shared-1"
    assert not set(first.addresses) & set(second.addresses)


async def test_a_login_keeps_what_the_coordinator_knows_of_the_network_of_the_node(server: Server) -> None:
    machine, connection, _ = await server.join("laptop")
    await machine.report(
        connection, hostinfo=Hostinfo(hostname="laptop", net_info=NetInfo(preferred_derp=900))
    )
    await machine.new_node_key().register(connection, await server.auth_key())
    net_info = server.node(machine).hostinfo.net_info
    assert net_info is not None
    assert net_info.preferred_derp == 900


async def test_many_machines_join_at_once_with_different_addresses(server: Server) -> None:
    count = 300
    key = await server.auth_key(reusable=True)
    requests = [server.machine("node") for _ in range(count)]
    await asyncio.gather(
        *(server.state.register(machine.key.public, machine.register_request(key)) for machine in requests)
    )
    nodes = server.state.snapshot.nodes.values()
    assert len(nodes) == count
    assert len({node.ipv4 for node in nodes}) == len({node.ipv6 for node in nodes}) == count
    assert len({node.given_name for node in nodes}) == count
