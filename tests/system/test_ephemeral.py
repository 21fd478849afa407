"""An ephemeral node is forgotten when it leaves, and when it stays away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.netlab import wait_for
from tests.netlab.programs import Coordinator
from tests.system.conftest import SmallMesh

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

# The shortest that the coordinator accepts: longer than the interval of its keep-alives.
EPHEMERAL_TIMEOUT = 66


def names(coordinator: Coordinator) -> set[str]:
    return {node["givenName"] for node in coordinator.query("nodes", "list")}


def test_an_ephemeral_node_goes_at_logout(mesh: SmallMesh) -> None:
    mesh.join("stays")
    node = mesh.add_node("passing")
    node.join(mesh.coordinator, mesh.coordinator.create_key("ana", "--ephemeral"))
    assert names(mesh.coordinator) == {"stays", "passing"}
    node.run("logout")
    wait_for(lambda: names(mesh.coordinator) == {"stays"}, 10, what="the ephemeral node's removal")


def test_an_ephemeral_node_goes_when_it_stays_away(mesh_with: Callable[[str], SmallMesh]) -> None:
    more = f"node:\n  ephemeral:\n    inactivity_timeout: {EPHEMERAL_TIMEOUT}s\n"
    mesh = mesh_with(more)
    stays = mesh.join("stays")
    node = mesh.add_node("passing")
    node.join(mesh.coordinator, mesh.coordinator.create_key("ana", "--ephemeral"))
    stays.wait_to_reach(node)
    node.kill_daemon()
    stays.kill_daemon()
    mesh.coordinator.kill()
    mesh.coordinator.start()
    assert names(mesh.coordinator) == {"stays", "passing"}
    wait_for(lambda: names(mesh.coordinator) == {"stays"}, EPHEMERAL_TIMEOUT + 30, what="its removal")
