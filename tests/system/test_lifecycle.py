"""What becomes of a node: it logs out, its key expires, it is deleted, renamed or down."""

from __future__ import annotations

import pytest

from tests.netlab import wait_for
from tests.netlab.programs import Node
from tests.system.conftest import SmallMesh

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


def state(node: Node) -> str:
    return str(node.status()["BackendState"])


def test_logout_ends_the_login_and_the_tunnel(mesh: SmallMesh) -> None:
    first, second = mesh.join("first"), mesh.join("second")
    first.wait_to_reach(second)
    address = second.ipv4
    old = mesh.coordinator.node("second")["nodeKey"]
    second.run("logout")
    assert state(second) == "NeedsLogin"
    shown = second.run("status", check=False)
    assert shown.returncode == 1
    assert "Logged out." in shown.stdout + shown.stderr
    wait_for(lambda: not first.host.reaches(address), 10, what="the end of the tunnel")
    second.up(mesh.coordinator, "--authkey", mesh.coordinator.create_key("ana"))
    assert mesh.coordinator.node("second")["nodeKey"] != old
    first.wait_to_reach(second)
    assert second.ipv4 == address, "the same machine and user keep their address"


def test_an_expired_node_is_cut_off_and_comes_back_with_a_new_key(mesh: SmallMesh) -> None:
    first, second = mesh.join("first"), mesh.join("second")
    first.wait_to_reach(second)
    address = second.ipv4
    record = mesh.coordinator.node("second")
    mesh.coordinator.run("nodes", "expire", "--identifier", str(record["id"]))
    wait_for(lambda: state(second) == "NeedsLogin", 10, what="the node's notice")
    wait_for(lambda: not first.host.reaches(address), 10, what="the end of the tunnel")
    second.up(mesh.coordinator, "--authkey", mesh.coordinator.create_key("ana"), "--force-reauth")
    first.wait_to_reach(second)
    assert second.ipv4 == address
    assert mesh.coordinator.node("second")["nodeKey"] != record["nodeKey"]


def test_a_deleted_node_is_gone_for_its_peers_and_must_log_in_again(mesh: SmallMesh) -> None:
    first, second = mesh.join("first"), mesh.join("second")
    first.wait_to_reach(second)
    address = second.ipv4
    mesh.coordinator.run(
        "nodes", "delete", "--identifier", str(mesh.coordinator.node("second")["id"]), "--force"
    )
    wait_for(lambda: first.peer("second") is None, 10, what="the peer's removal")
    wait_for(lambda: not first.host.reaches(address), 10, what="the end of the tunnel")
    wait_for(lambda: state(second) == "NeedsLogin", 30, what="the node's notice")


def test_a_renamed_node_has_its_new_name_everywhere(mesh: SmallMesh) -> None:
    first, _ = mesh.join("first"), mesh.join("second")
    mesh.coordinator.run(
        "nodes", "rename", "--identifier", str(mesh.coordinator.node("second")["id"]), "attic"
    )
    wait_for(lambda: first.peer("attic"), 10, what="the new name at the peer")
    assert first.peer("second") is None


def test_down_and_up_keep_the_login(mesh: SmallMesh) -> None:
    first, second = mesh.join("first"), mesh.join("second")
    first.wait_to_reach(second)
    second.run("down")
    assert state(second) == "Stopped"
    assert "stopped" in second.run("status", check=False).stdout
    assert second.run("down").returncode == 0
    second.run("up")
    first.wait_to_reach(second)
