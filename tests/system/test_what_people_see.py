"""What a person sees of a peer's path: `ping` in its three kinds, `status`, `debug paths`, `metrics`."""

from __future__ import annotations

import json
import re

import pytest

from tests.netlab import wait_for
from tests.system.conftest import SmallMesh

pytestmark = pytest.mark.system

NO_UDP = """
table inet blocked {
  chain output {
    type filter hook output priority filter; policy accept;
    oifname "eth0" meta l4proto udp drop
  }
}
"""


def test_a_path_from_all_sides(mesh: SmallMesh) -> None:
    first, second = mesh.join("first"), mesh.join("second")
    direct = r"\d+\.\d+\.\d+\.\d+:\d+|\[[0-9a-f:]+\]:\d+"
    shown = first.run("ping", "second").stdout.splitlines()
    assert re.fullmatch(rf"pong from second \({re.escape(second.ipv4)}\) via ({direct}) in \S+s", shown[-1])
    for address in (second.ipv4, second.ipv6):
        for kind in ("TSMP", "ICMP"):
            line = first.run("ping", f"--{kind.lower()}", address).stdout
            assert re.fullmatch(rf"pong from second \(\S+\) via {kind} in \S+s\n", line)

    status = first.run("status").stdout
    assert re.search(rf"second .* active; direct ({direct}), tx \d+ rx \d+", status)
    assert "# Health check" not in status

    paths = json.loads(first.run("debug", "paths", "--json", "second").stdout)
    assert paths["Direct"]
    assert paths["RelayReason"] == ""
    (used,) = [one for one in paths["Candidates"] if one["InUse"]]
    assert used["LastPongAgo"] < 30
    assert "in use" in first.run("debug", "paths", "second").stdout

    derp_map = json.loads(first.run("debug", "derp-map", "--json").stdout)
    home = first.status()["Self"]["Relay"]
    assert home in {region["RegionCode"] for region in derp_map["Regions"].values()}
    metrics = first.run("metrics").stdout
    assert 'meshnode_peers{path="direct"} 1\n' in metrics
    assert re.search(r'tailscaled_outbound_bytes_total\{path="direct_ipv[46]"\} [1-9]', metrics)


def test_a_relayed_peer_and_why(mesh: SmallMesh) -> None:
    first, second = mesh.add_node("first"), mesh.add_node("second")
    for node in (first, second):
        node.host.nft(NO_UDP)
        node.join(mesh.coordinator, mesh.coordinator.create_key("ana"))
    wait_for(lambda: "UDP does not get out" in first.run("status").stdout, 30, what="news of blocked UDP")
    failed = first.run("ping", "-c", "2", "second", check=False)
    assert failed.returncode == 1
    assert re.match(r"pong from second \(\S+\) via DERP\(\w+\) in \d+ms\n", failed.stdout)
    assert "direct connection not established; see: meshnode debug paths second" in failed.stderr
    assert "Why: UDP does not get out of this network." in first.run("debug", "paths", "second").stdout
    first.wait_to_reach(second)
    assert re.search(r'second .* active; relay "\w+", tx', first.run("status").stdout)
