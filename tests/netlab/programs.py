"""The project's two programs as the user of a host starts them, with their files in the host's directory."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.netlab import localapi
from tests.netlab.host import Host
from tests.netlab.processes import Process
from tests.netlab.waiting import wait_for

# The console scripts of the environment that runs the tests.
BIN = Path(sys.executable).parent
MESHNODE = BIN / "meshnode"
COORDINATOR = BIN / "coordinator"

INTERFACE = "mesh0"
START_TIMEOUT = 30.0

CONFIGURATION = """\
server_url: {url}
listen_addr: {listen}
metrics_listen_addr: ""
noise:
  private_key_path: {directory}/noise_private.key
database:
  type: sqlite
  sqlite:
    path: {directory}/db.sqlite
unix_socket: {directory}/coordinator.sock
{more}
"""

NETWORK = """\
prefixes:
  v4: 100.64.0.0/10
  v6: fd7a:115c:a1e0::/48
dns:
  magic_dns: false
  base_domain: mesh.example
  override_local_dns: false
"""


def configuration(directory: Path, *, url: str, listen: str, more: str) -> str:
    """That of a coordinator which keeps all its files in `directory`."""
    return CONFIGURATION.format(directory=directory, url=url, listen=listen, more=more)


class Coordinator:
    """`coordinator serve` on a host, and the commands that administer it. `address` is how nodes reach it."""

    def __init__(
        self, host: Host, address: str, *, port: int = 8080, more: str = "", url: str | None = None
    ) -> None:
        """`url` is where nodes find it, if that is not its own port."""
        self.host = host
        self.url = url or f"http://{address}:{port}"
        self._health_url = f"http://{address}:{port}/health"
        self.directory = host.directory / "coordinator"
        self.directory.mkdir(mode=0o700)
        self.config = self.directory / "config.yaml"
        listen, more = f"0.0.0.0:{port}", NETWORK + more
        self.config.write_text(configuration(self.directory, url=self.url, listen=listen, more=more))
        self.process: Process | None = None

    def start(self) -> None:
        """Serve, and wait until it is healthy."""
        self.process = self.host.popen(COORDINATOR, "serve", "--config", self.config, log="coordinator")
        wait_for(self.is_healthy, START_TIMEOUT, what="the coordinator's /health")

    def is_healthy(self) -> bool:
        """Whether `/health` answers with success."""
        words = ["curl", "--silent", "--fail", "--max-time", "2", self._health_url]
        return self.host.run(*words, check=False).returncode == 0

    def stop(self) -> None:
        """Ask it to end, as a service manager does."""
        assert self.process is not None
        status = self.process.terminate()
        assert status == 0, f"coordinator serve ended with status {status} at SIGTERM"

    def kill(self) -> None:
        """End it without warning, as a crash does."""
        assert self.process is not None
        self.process.kill()

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One administration command."""
        return self.host.run(COORDINATOR, "--config", self.config, *words, check=check)

    def query(self, *words: str) -> Any:
        """The JSON that a command prints."""
        return json.loads(self.run(*words, "--output", "json").stdout)

    def api(self, path: str) -> Any:
        """The JSON of an admin API path such as `/api/v1/node`, asked over the unix socket."""
        words = ["curl", "--silent", "--fail", "--unix-socket", str(self.directory / "coordinator.sock")]
        return json.loads(self.host.run(*words, f"http://local{path}").stdout)

    def create_key(self, user: str, *flags: str) -> str:
        """A pre-auth key of a user, which is created if it is not there yet."""
        if user not in {known["name"] for known in self.query("users", "list")}:
            self.run("users", "create", user)
        return self.run("preauthkeys", "create", "--user", user, *flags).stdout.strip()

    def node(self, name: str) -> dict[str, Any]:
        """The record of the node with this given name. Raises KeyError."""
        for record in self.query("nodes", "list"):
            if record["givenName"] == name:
                return dict(record)
        raise KeyError(name)

    def approve(self, name: str, *routes: str) -> None:
        """Approve these routes of a node, and no others."""
        identifier = str(self.node(name)["id"])
        self.run("nodes", "approve-routes", "--identifier", identifier, "--routes", ",".join(routes))


class Node:
    """`meshnode` on a host: the daemon and the commands. `name` is the host name it joins under."""

    def __init__(self, host: Host, name: str | None = None, env: Mapping[str, str] | None = None) -> None:
        """`env` adds to the environment of the daemon and of commands."""
        self.host = host
        self.name = name or host.name
        self.env = dict(env or {})
        self.state_directory = host.directory / "state"
        self.socket = host.directory / "meshnode.sock"
        self.process: Process | None = None

    @property
    def where(self) -> list[str]:
        """The flags that give this host's daemon its own places."""
        return ["--socket", str(self.socket), "--state-dir", str(self.state_directory), "--tun", INTERFACE]

    def start_daemon(self, *flags: str) -> None:
        """Run `meshnode daemon` and wait until its socket answers."""
        words = ["daemon", *self.where, *flags]
        self.process = self.host.popen(MESHNODE, *words, log="meshnode", env=self.env)
        wait_for(self._answers, START_TIMEOUT, what=f"meshnode daemon on {self.name}")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.running, f"meshnode daemon ended:\n{self.process.output()}"
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def run(self, *words: str, check: bool = True, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """One command."""
        environment = {**self.env, "MESHNODE_SOCKET": str(self.socket)}
        return self.host.run(MESHNODE, *words, check=check, timeout=timeout, env=environment)

    def join(self, coordinator: Coordinator, key: str, *flags: str) -> None:
        """Start the daemon and bring the node up with a pre-auth key."""
        self.start_daemon()
        self.up(coordinator, "--authkey", key, *flags)

    def up(self, coordinator: Coordinator, *flags: str) -> subprocess.CompletedProcess[str]:
        """`meshnode up` against a coordinator, with the node's name."""
        words = ["up", "--login-server", coordinator.url, "--hostname", self.name, "--timeout", "30s"]
        return self.run(*words, *flags)

    def status(self) -> dict[str, Any]:
        """What `meshnode status --json` says."""
        return dict(json.loads(self.run("status", "--json").stdout))

    def local_api(self, path: str) -> Any:
        """The JSON of a path of the daemon's LocalAPI such as `prefs`."""
        return localapi.get(self.socket, path)

    def peer(self, name: str) -> dict[str, Any] | None:
        """The status of the peer with this name, or None while the node knows no such peer."""
        for peer in (self.status().get("Peer") or {}).values():
            if peer["DNSName"].partition(".")[0] == name:
                return dict(peer)
        return None

    @property
    def ipv4(self) -> str:
        return self.run("ip", "-4").stdout.strip()

    @property
    def ipv6(self) -> str:
        return self.run("ip", "-6").stdout.strip()

    def wait_to_reach(self, other: Node, timeout: float = 20.0) -> None:
        """Until pings over both families are answered."""
        for address in other.run("ip").stdout.split():
            self.host.wait_to_reach(address, timeout)

    def kill_daemon(self) -> None:
        """End the daemon without warning, as a crash does."""
        assert self.process is not None
        self.process.kill()

    def stop_daemon(self) -> None:
        """Ask the daemon to end, as a service manager does."""
        assert self.process is not None
        status = self.process.terminate(20)
        assert status == 0, f"meshnode daemon ended with status {status} at SIGTERM:\n{self.process.output()}"
