"""Every mistake gets one clear line, a status other than 0, and changes nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.netlab import Lab
from tests.netlab.homelab import serve_pages
from tests.netlab.programs import COORDINATOR, MESHNODE, Coordinator, Node
from tests.system.conftest import SmallMesh, make_small_mesh

pytestmark = pytest.mark.system

UP = ("up", "--login-server", "{url}", "--timeout", "20s")

# The command line of meshnode, and what its one line must say.
NODE_MISTAKES = [
    (("frobnicate",), "frobnicate"),
    (("up", "--frobnicate"), "frobnicate"),
    (("status", "now"), "now"),
    (("up", "--timeout", "soon"), "soon"),
    (("up", "--accept-routes=maybe"), "maybe"),
    (("up", "--hostname", "a", "--hostname", "b"), "twice"),
    (("up", "--login-server", "ftp://203.0.113.2"), "ftp"),
    (("up", "--login-server", "not a url"), "not a url"),
    (("up", "--login-server", "http://203.0.113.2:1", "--authkey", "x", "--timeout", "20s"), "203.0.113.2:1"),
    (
        ("up", "--login-server", "http://203.0.113.2:81", "--authkey", "x", "--timeout", "20s"),
        "203.0.113.2:81",
    ),
    ((*UP, "--authkey", "nonsense"), "key"),
    ((*UP, "--authkey", "file:/nonexistent"), "/nonexistent"),
    ((*UP, "--advertise-routes", "192.168.0.1/24"), "192.168.0.0/24"),
    ((*UP, "--advertise-routes", "10.0.0.0/33"), "10.0.0.0/33"),
    ((*UP, "--advertise-routes", "10.0.0.1"), "10.0.0.1/32"),
    ((*UP, "--advertise-routes", "0.0.0.0/0"), "::/0"),
    ((*UP, "--advertise-routes", "home"), "home"),
    ((*UP, "--hostname", "my host!"), "my host!"),
    ((*UP, "--exit-node-allow-lan-access"), "--exit-node"),
    ((*UP, "--exit-node", "nobody"), "nobody"),
    (("set", "--advertise-routes", "192.168.0.1/24"), "192.168.0.0/24"),
    (("set", "--exit-node", "nobody"), "nobody"),
    (("ip", "-4", "-6"), "-6"),
]

# The command line of coordinator, and what its one line must say.
COORDINATOR_MISTAKES = [
    (("frobnicate",), "frobnicate"),
    (("users", "create"), "NAME"),
    (("users", "create", "ana"), "ana"),
    (("users", "create", "x y"), "invalid character: ' '"),
    (("users", "destroy", "--name", "nobody", "--force"), "nobody"),
    (("preauthkeys", "create", "--user", "nobody"), "nobody"),
    (("preauthkeys", "create", "--user", "ana", "--expiration", "soon"), "soon"),
    (("preauthkeys", "create", "--user", "ana", "--tags", "web"), "tag:"),
    (("preauthkeys", "expire", "--id", "99"), "99"),
    (("nodes", "register", "--user", "ana", "--key", "nonsense"), "nonsense"),
    (("nodes", "register", "--user", "nobody", "--key", "x" * 24), "nobody"),
    (("nodes", "rename", "--identifier", "99", "attic"), "99"),
    (("nodes", "rename", "--identifier", "1", "not a name"), "not a name"),
    (("nodes", "delete", "--identifier", "99", "--force"), "99"),
    (("nodes", "expire", "--identifier", "99"), "99"),
    (("nodes", "expire", "--identifier", "one"), "one"),
    (("nodes", "tag", "--identifier", "1", "--tags", "web"), "tag:"),
    (("nodes", "approve-routes", "--identifier", "99", "--routes", "10.0.0.0/8"), "99"),
    (("nodes", "approve-routes", "--identifier", "1", "--routes", "10.0.0.0/33"), "10.0.0.0/33"),
    (("nodes", "approve-routes", "--identifier", "1", "--routes", "192.168.0.1/24"), "192.168.0.0/24"),
    (("nodes", "approve-routes", "--identifier", "1", "--routes", "10.9.0.0/16"), "10.9.0.0/16"),
    (("nodes", "approve-routes", "--routes", "10.9.0.0/16"), "identifier"),
]


@pytest.fixture(scope="module")
def mesh() -> Iterator[SmallMesh]:
    """A coordinator with one node, a daemon that never joined, and a web site that is no login server."""
    with Lab("wrong") as lab:
        mesh = make_small_mesh(lab)
        mesh.join("joined")
        mesh.add_node("fresh").start_daemon()
        serve_pages(mesh.coordinator.host, 81)
        yield mesh


def assert_one_line(done: subprocess.CompletedProcess[str], expected: str) -> None:
    assert done.returncode != 0
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert len(lines) == 1, f"more than one line: {lines}"
    assert expected.lower() in lines[0].lower(), f"{lines[0]!r} does not name {expected!r}"
    assert "Traceback" not in lines[0]


def line_of(value: object) -> str:
    """The name of a case: its command line, or what is expected of it."""
    return " ".join(value) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize(("words", "expected"), NODE_MISTAKES, ids=line_of)
def test_a_mistake_with_meshnode(mesh: SmallMesh, words: tuple[str, ...], expected: str) -> None:
    fresh = mesh.nodes[1]
    line = [word.format(url=mesh.coordinator.url) for word in words]
    before = kept_by_node(fresh), kept_by_coordinator(mesh.coordinator)
    assert_one_line(fresh.run(*line, check=False), expected)
    assert (kept_by_node(fresh), kept_by_coordinator(mesh.coordinator)) == before


def kept_by_node(node: Node) -> tuple[object, ...]:
    """What a mistake must not change on a node."""
    routes = node.host.run("ip", "route", "show", "table", "all").stdout
    return node.local_api("prefs"), node.status()["BackendState"], routes


@pytest.mark.parametrize(("words", "expected"), COORDINATOR_MISTAKES, ids=line_of)
def test_a_mistake_with_coordinator(mesh: SmallMesh, words: tuple[str, ...], expected: str) -> None:
    before = kept_by_coordinator(mesh.coordinator)
    assert_one_line(mesh.coordinator.run(*words, check=False), expected)
    assert kept_by_coordinator(mesh.coordinator) == before


def kept_by_coordinator(coordinator: Coordinator) -> tuple[object, ...]:
    """What a mistake must not change on the coordinator."""
    nodes = coordinator.api("/api/v1/node")
    for node in nodes["nodes"]:
        del node["lastSeen"]
    return coordinator.api("/api/v1/user"), coordinator.api("/api/v1/preauthkey"), nodes


def test_commands_without_a_daemon(mesh: SmallMesh) -> None:
    environment = {"MESHNODE_SOCKET": "/nonexistent/meshnode.sock"}
    for command in ("status", "down", "ip", "logout"):
        done = mesh.nodes[0].host.run(MESHNODE, command, check=False, env=environment)
        assert_one_line(done, "meshnode up")


def test_commands_without_a_coordinator(mesh: SmallMesh) -> None:
    done = mesh.coordinator.host.run(
        COORDINATOR, "users", "list", "--socket", "/nonexistent/coordinator.sock", check=False
    )
    assert_one_line(done, "coordinator serve")


def test_a_second_daemon_on_the_same_state(mesh: SmallMesh) -> None:
    joined = mesh.nodes[0]
    done = joined.host.run(MESHNODE, "daemon", *joined.where, check=False)
    assert_one_line(done, str(joined.state_directory))


def test_a_busy_udp_port_of_the_daemon(mesh: SmallMesh) -> None:
    host = mesh.nodes[0].host
    where = ["--socket", str(host.directory / "other.sock"), "--state-dir", str(host.directory / "other")]
    done = host.run(MESHNODE, "daemon", *where, "--tun", "mesh1", check=False)
    assert_one_line(done, "41641")


def test_a_busy_port_of_the_coordinator(mesh: SmallMesh) -> None:
    host = mesh.coordinator.host
    text = mesh.coordinator.config.read_text().replace(
        str(mesh.coordinator.directory), str(host.directory / "b")
    )
    (host.directory / "b").mkdir(exist_ok=True)
    config = host.directory / "b" / "config.yaml"
    config.write_text(text)
    assert_one_line(host.run(COORDINATOR, "serve", "--config", config, check=False), "8080")


def test_a_wrong_configuration_of_the_coordinator(mesh: SmallMesh) -> None:
    config = mesh.coordinator.host.directory / "wrong.yaml"
    text = mesh.coordinator.config.read_text()
    for wrong, expected in [
        (text.replace("server_url: http", "server_url: ftp"), "server_url"),
        (text.replace("100.64.0.0/10", "100.64.0.1/10"), "prefixes.v4"),
        (text + "\nserver_ulr: x\n", "server_ulr"),
        (text + "\n[", "yaml"),
    ]:
        config.write_text(wrong)
        for command in ("serve", "configtest"):
            assert_one_line(
                mesh.coordinator.host.run(COORDINATOR, command, "--config", config, check=False), expected
            )
    done = mesh.coordinator.host.run(COORDINATOR, "serve", "--config", "/nonexistent.yaml", check=False)
    assert_one_line(done, "/nonexistent.yaml")


def test_the_daemon_without_root(mesh: SmallMesh) -> None:
    host = mesh.nodes[0].host
    # Nobody, who may read all files: the interpreter may lie where only root can look.
    reads_all = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *reads_all]
    command = [
        str(MESHNODE),
        "daemon",
        "--socket",
        "/tmp/no.sock",
        "--state-dir",
        "/tmp/no",
        "--tun",
        "mesh1",
    ]
    assert_one_line(host.run(*nobody, *command, "--port", "0", check=False), "root")


def test_the_daemon_without_dev_net_tun(mesh: SmallMesh) -> None:
    host = mesh.nodes[0].host
    command = f"mount -t tmpfs none /dev/net && exec {MESHNODE} daemon --socket {host.directory}/d.sock"
    command += f" --state-dir {host.directory}/d --tun mesh1 --port 0"
    assert_one_line(host.run("unshare", "--mount", "sh", "-c", command, check=False), "/dev/net/tun")
