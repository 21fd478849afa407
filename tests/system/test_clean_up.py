"""Nothing of ours stays on a host: at `down`, at the end, and after a crash."""

from __future__ import annotations

import json
import time

import pytest

from tests.netlab import Host, wait_for
from tests.netlab.programs import INTERFACE, MESHNODE, Node
from tests.system.conftest import SmallMesh

pytestmark = pytest.mark.system

SETTINGS = (
    "net.ipv4.ip_forward",
    "net.ipv6.conf.all.forwarding",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.conf.all.src_valid_mark",
    "net.ipv4.conf.default.rp_filter",
)

FAMILIES = ("-4", "-6")
CHANGING = ("cache", "expires", "used", "age")

# Everything that touches the host: routes into the tunnel, masquerading, forwarding, an exit node in use.
EVERYTHING = ("--advertise-routes", "192.168.7.0/24", "--accept-routes")


def footprint(host: Host) -> dict[str, object]:
    """All of the host's network configuration except the interfaces themselves."""
    return {
        "rules": [host.run("ip", family, "rule").stdout for family in FAMILIES],
        "routes": [route for family in FAMILIES for route in routes(host, family)],
        "nft": host.run("nft", "list", "ruleset").stdout,
        "sysctl": [host.sysctl(name) for name in SETTINGS],
        "resolv.conf": host.run("cat", "/etc/resolv.conf").stdout,
    }


def routes(host: Host, family: str) -> list[dict[str, object]]:
    """The routes of all tables, without what changes by itself, and what the kernel gives an interface."""
    shown = json.loads(host.run("ip", family, "-j", "route", "show", "table", "all").stdout or "[]")
    return [
        {name: value for name, value in route.items() if name not in CHANGING}
        for route in shown
        if not (route.get("dev") == INTERFACE and route["dst"].startswith(("fe80:", "ff00:")))
    ]


def addresses(host: Host) -> str:
    """What the tunnel's interface has, or nothing where it does not exist."""
    return host.run("ip", "-br", "addr", "show", "dev", INTERFACE, check=False).stdout


def busy_node(mesh: SmallMesh) -> tuple[Node, dict[str, object]]:
    """A node that changed all it can change on its host, and what the host was like before."""
    exit_node = mesh.join("exit", "--advertise-exit-node")
    mesh.coordinator.approve("exit", "0.0.0.0/0", "::/0")
    node = mesh.add_node("busy")
    before = footprint(node.host)
    node.join(mesh.coordinator, mesh.coordinator.create_key("ana"), *EVERYTHING)
    mesh.coordinator.approve("busy", "192.168.7.0/24")
    wait_for(lambda: (node.peer("exit") or {}).get("ExitNodeOption"), 10, what="the exit node's offer")
    node.run("set", "--exit-node", "exit")
    node.wait_to_reach(exit_node)
    wait_for(lambda: "masquerade" in node.host.run("nft", "list", "ruleset").stdout, 10, what="masquerading")
    after = footprint(node.host)
    assert after["rules"] != before["rules"]
    assert after["routes"] != before["routes"]
    assert after["nft"] != before["nft"]
    assert after["sysctl"] != before["sysctl"]
    return node, before


def test_down_undoes_everything_and_up_brings_it_back(mesh: SmallMesh) -> None:
    node, before = busy_node(mesh)
    node.run("down")
    assert footprint(node.host) == before
    assert "100." not in addresses(node.host)
    node.run("up")
    wait_for(lambda: "masquerade" in node.host.run("nft", "list", "ruleset").stdout, 10, what="masquerading")


def test_the_end_of_the_daemon_undoes_everything(mesh: SmallMesh) -> None:
    node, before = busy_node(mesh)
    node.stop_daemon()
    assert footprint(node.host) == before
    assert addresses(node.host) == ""
    assert not node.socket.exists()


def test_after_a_crash_the_next_start_sweeps(mesh: SmallMesh) -> None:
    node, before = busy_node(mesh)
    node.kill_daemon()
    assert footprint(node.host) != before
    node.start_daemon()
    wait_for(lambda: "masquerade" in node.host.run("nft", "list", "ruleset").stdout, 20, what="masquerading")
    node.stop_daemon()
    assert footprint(node.host) == before


def test_after_a_crash_cleanup_sweeps_without_starting(mesh: SmallMesh) -> None:
    node, before = busy_node(mesh)
    node.kill_daemon()
    node.host.run(MESHNODE, "daemon", "--cleanup", *node.where)
    assert footprint(node.host) == before


def test_crashes_at_any_moment_of_the_start_are_swept(mesh: SmallMesh) -> None:
    node, before = busy_node(mesh)
    node.kill_daemon()
    for moment in (0.3, 0.5, 0.7, 0.9, 1.1):
        process = node.host.popen(MESHNODE, "daemon", *node.where, log="crashing")
        time.sleep(moment)
        process.kill()
    node.host.run(MESHNODE, "daemon", "--cleanup", *node.where)
    assert footprint(node.host) == before
