"""How a node joins: with a key, by a person's approval, and with the daemon started by `up` itself."""

from __future__ import annotations

import re
import time

import pytest

from tests.netlab import CommandFailed, namespaces, wait_for
from tests.netlab.programs import MESHNODE
from tests.system.conftest import SmallMesh

pytestmark = pytest.mark.system


def test_two_nodes_join_with_keys_and_reach_each_other(mesh: SmallMesh) -> None:
    first, second = mesh.join("first"), mesh.join("second")
    assert first.ipv4.startswith("100.")
    assert first.ipv6.startswith("fd7a:115c:a1e0:")
    first.wait_to_reach(second)
    second.wait_to_reach(first)
    shown = first.run("status").stdout
    assert re.search(
        rf"^{re.escape(second.ipv4)}\s+second\s+ana@?\s+linux\s+active; direct ", shown, re.MULTILINE
    )


def test_a_person_approves_a_node_and_up_goes_on_by_itself(mesh: SmallMesh) -> None:
    mesh.coordinator.run("users", "create", "ana")
    node = mesh.add_node("laptop")
    node.start_daemon()
    words = ["up", "--login-server", mesh.coordinator.url, "--hostname", "laptop"]
    up = node.host.popen(MESHNODE, *words, log="up", env={"MESHNODE_SOCKET": str(node.socket)})
    line = wait_for(
        lambda: re.search(r"coordinator nodes register .*", up.output()),
        20,
        what="the line for the administrator",
    )[0]
    assert f"{mesh.coordinator.url}/register/" in up.output()
    assert up.running
    command = line.replace("USERNAME", "ana").replace("<user>", "ana").split()[1:]
    if "ana" not in command:
        command[command.index("--user") + 1] = "ana"
    assert "registered" in mesh.coordinator.run(*command).stdout
    assert up.wait(15) == 0
    assert "Success." in up.output()
    assert node.status()["BackendState"] == "Running"


def test_up_starts_the_daemon_where_none_runs(mesh: SmallMesh) -> None:
    key = mesh.coordinator.create_key("ana")
    node = mesh.add_node("laptop")
    node.up(mesh.coordinator, "--authkey", key, *node.where)
    assert node.status()["BackendState"] == "Running"
    assert len(node.host.processes()) == 1
    again = node.up(mesh.coordinator)
    assert again.returncode == 0
    assert len(namespaces.processes([node.host.namespace])) == 1


def test_a_key_from_a_file(mesh: SmallMesh) -> None:
    node = mesh.add_node("laptop")
    file = node.host.directory / "key"
    file.write_text(mesh.coordinator.create_key("ana") + "\n")
    node.join(mesh.coordinator, f"file:{file}")
    assert node.status()["BackendState"] == "Running"


def test_a_single_use_key_lets_in_one_node_and_a_reusable_one_many(mesh: SmallMesh) -> None:
    single = mesh.coordinator.create_key("ana")
    mesh.add_node("first").join(mesh.coordinator, single)
    second = mesh.add_node("second")
    with pytest.raises(CommandFailed, match="used"):
        second.join(mesh.coordinator, single)
    reusable = mesh.coordinator.create_key("ana", "--reusable")
    second.up(mesh.coordinator, "--authkey", reusable)
    mesh.add_node("third").join(mesh.coordinator, reusable)
    assert {node["givenName"] for node in mesh.coordinator.query("nodes", "list")} == {
        "first",
        "second",
        "third",
    }


def test_an_expired_key_lets_in_nobody(mesh: SmallMesh) -> None:
    key = mesh.coordinator.create_key("ana", "--expiration", "1s")
    node = mesh.add_node("late")
    node.start_daemon()
    time.sleep(1)  # the start of the daemon has most likely outlasted the key already
    with pytest.raises(CommandFailed, match="expired"):
        node.up(mesh.coordinator, "--authkey", key)
    assert mesh.coordinator.query("nodes", "list") == []
