"""`meshnode netcheck` with the relays that the coordinator offers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.netlab.programs import MESHNODE, Node
from tests.system.conftest import SmallMesh

pytestmark = pytest.mark.system

NO_UDP = """
table inet test {
  chain input {
    type filter hook input priority filter; policy accept;
    meta l4proto { udp, icmp } drop
  }
}
"""


# A command without the right to mark its packets, as those of users who are not root.
WITHOUT_MARKS = ("setpriv", "--bounding-set", "-net_admin,-net_raw")


def netcheck(node: Node, *wrapper: str) -> dict[str, Any]:
    words = (str(MESHNODE), "netcheck", "--format", "json")
    done = node.host.run(*wrapper, *words, env={"MESHNODE_SOCKET": str(node.socket)})
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_the_coordinators_relay_is_found_with_udp_and_without(mesh: SmallMesh) -> None:
    node = mesh.add_node("laptop")
    node.start_daemon()
    done = node.run("netcheck", check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "meshnode up" in done.stderr, "what a node without relays needs"
    assert "--derp-map" in done.stderr
    assert done.stderr.count("\n") == 1

    node.up(mesh.coordinator, "--authkey", mesh.coordinator.create_key("ana"))
    report = netcheck(node)
    assert report["UDP"]
    assert report["MappingVariesByDestIP"] is False, "the coordinator answers STUN on two ports"
    assert report["GlobalV4"].startswith("203.0.113.11:")
    assert report["PreferredDERP"] == 999

    mesh.coordinator.host.nft(NO_UDP)
    report = netcheck(node)
    assert not report["UDP"]
    assert not report["ICMPv4"]
    assert set(report["RegionLatency"]) == {"999"}


def test_an_exit_node_is_not_what_root_measures(mesh: SmallMesh) -> None:
    exit_node = mesh.join("exit", "--advertise-exit-node")
    mesh.coordinator.approve("exit", "0.0.0.0/0", "::/0")
    node = mesh.join("laptop", "--exit-node", exit_node.ipv4)
    assert netcheck(node)["GlobalV4"].startswith("203.0.113.12:")
    assert netcheck(node, *WITHOUT_MARKS)["GlobalV4"].startswith("203.0.113.11:")
