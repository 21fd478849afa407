"""The coordinator: nodes that join and converge, what that costs it, and how soon a change reaches all.

The nodes are simulated, in this process (control_load.py): each has its keys, its Noise connection and who is
in its map. They have converged when every map has all the others. What they cost is shown, since they share
the machine: as long as that is well below the time, it was the server that they waited for. Ours and each
`headscale` on PATH, or named by `--headscale`, take turns; both have SQLite and no relay of their own, and
the same admin API.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from bench import measure
from bench.control_load import Map, Node
from bench.measure import OURS, Figure, What
from bench.usage import cpu_s, resident_kib
from tests.netlab import wait_for
from tests.netlab.programs import COORDINATOR

ROUTE = ip_network("192.168.77.0/24")
AT_A_TIME = 64  # nodes that join
PATIENCE = 60.0  # seconds
START_PATIENCE = 30.0  # seconds

WHATS = (
    What("converge", "join and converge", "s", more_is_better=False),
    What("cpu", "the server's processor time until then", "s", more_is_better=False),
    What("load", "the nodes' processor time until then", "s", more_is_better=False),
    What("memory", "the server's memory then", "MiB", more_is_better=False),
    What("lost", "polls that the server gave up", "", more_is_better=False),
    What("route", "a route approval reaches all", "ms", more_is_better=False),
)

CONFIGURATION = """\
server_url: http://127.0.0.1:{port}
listen_addr: 127.0.0.1:{port}
metrics_listen_addr: 127.0.0.1:{metrics_port}
noise:
  private_key_path: {directory}/noise_private.key
database:
  type: sqlite
  sqlite:
    path: {directory}/db.sqlite
unix_socket: {directory}/admin.sock
prefixes:
  v4: 100.64.0.0/10
  v6: fd7a:115c:a1e0::/48
dns:
  magic_dns: true
  base_domain: mesh.example
  override_local_dns: false
derp:
  server:
    enabled: false
  urls: []
  paths: [{directory}/derp.yaml]
  auto_update_enabled: false
disable_check_updates: true
"""

DERP_MAP = """\
regions:
  900:
    regionid: 900
    regioncode: lab
    regionname: Lab
    nodes:
      - {name: 900a, regionid: 900, hostname: relay.example, ipv4: 192.0.2.1, stunport: 3478}
"""


@dataclass
class Server:
    """A running server."""

    program: Sequence[str]
    directory: Path
    port: int
    pid: int

    def admin(self, *words: str) -> Any:
        """The JSON that an admin command prints."""
        argv = [*self.program, "--config", str(self.directory / "config.yaml"), *words, "--output", "json"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def create_key(self) -> str:
        """A pre-auth key for all nodes."""
        user = str(self.admin("users", "create", "ana")["id"])
        return str(self.admin("preauthkeys", "create", "--user", user, "--reusable")["key"])

    async def approve(self, node_id: int, route: str) -> None:
        """Approve a route of a node."""
        connector = aiohttp.UnixConnector(str(self.directory / "admin.sock"))
        async with aiohttp.ClientSession(connector=connector) as session:
            url = f"http://local/api/v1/node/{node_id}/approve_routes"
            async with session.post(url, json={"routes": [route]}) as reply:
                assert reply.status == 200, await reply.text()


@contextmanager
def serving(*program: str) -> Iterator[Server]:
    """A server with an empty store, until the block's end."""
    port, metrics_port = _free_ports(2)
    with tempfile.TemporaryDirectory(prefix="bench-control-") as name:
        directory = Path(name)
        (directory / "derp.yaml").write_text(DERP_MAP)
        text = CONFIGURATION.format(port=port, metrics_port=metrics_port, directory=directory)
        (directory / "config.yaml").write_text(text)
        argv = [*program, "serve", "--config", str(directory / "config.yaml")]
        with (directory / "log").open("w") as log, subprocess.Popen(argv, stdout=log, stderr=log) as process:
            try:
                wait_for(partial(_answers, process, port, directory / "log"), START_PATIENCE, what=program[0])
                yield Server(program, directory, port, process.pid)
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(sock.getsockname()[1]) for sock in sockets]


def _answers(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert process.poll() is None, f"it ended:\n{log.read_text()[-2000:]}"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Fleet:
    """Simulated nodes, and what all their maps have to have."""

    def __init__(self, server: Server, key: str) -> None:
        self._server = server
        self._key = key
        self._waiting: set[int] = set()
        self._has_it: Callable[[Map], bool] = lambda map: True
        self._all = asyncio.Event()
        self.nodes: dict[int, Node] = {}

    async def join(self, number: int, slots: asyncio.Semaphore) -> None:
        """One node; the first of them is a router."""
        async with slots:
            self.nodes[number] = node = Node(self._server.port, number, str(ROUTE), self._look)
            await node.join(self._key)

    def _look(self, node: Node) -> None:
        if node.number in self._waiting and self._has_it(node.map):
            self._waiting.discard(node.number)
            if not self._waiting:
                self._all.set()

    def expect(self, numbers: Sequence[int], has_it: Callable[[Map], bool]) -> None:
        """Wait, from now on, until the maps of these nodes are like that."""
        self._all.clear()
        self._waiting, self._has_it = set(numbers), has_it
        for number in numbers:
            if number in self.nodes:
                self._look(self.nodes[number])

    async def expected(self) -> None:
        """Until they are. Raises AssertionError when that takes too long."""
        try:
            async with asyncio.timeout(PATIENCE):
                await self._all.wait()
        except TimeoutError:
            raise AssertionError(f"{len(self._waiting)} nodes were not told within {PATIENCE:g} s") from None

    def close(self) -> None:
        for node in self.nodes.values():
            node.close()


async def measure_nodes(server: Server, key: str, nodes: int, at_a_time: int) -> Mapping[str, float]:
    """Join, converge, and approve the route of the first."""
    with contextlib.closing(Fleet(server, key)) as fleet:
        began, cpu, own_cpu = time.monotonic(), cpu_s(server.pid), time.process_time()
        fleet.expect(range(nodes), lambda map: len(map.peers) == nodes - 1)
        slots = asyncio.Semaphore(at_a_time)
        await asyncio.gather(*(fleet.join(number, slots) for number in range(nodes)))
        await fleet.expected()
        converged, cpu = time.monotonic() - began, cpu_s(server.pid) - cpu
        own_cpu = time.process_time() - own_cpu
        memory = resident_kib(server.pid) / 1024
        router = fleet.nodes[0].map.own
        fleet.expect(range(1, nodes), lambda map: router in map.routers)
        began = time.monotonic()
        await server.approve(router, str(ROUTE))
        await fleet.expected()
        return {
            "converge": converged,
            "cpu": cpu,
            "load": own_cpu,
            "memory": memory,
            "route": (time.monotonic() - began) * 1000,
            "lost": sum(node.polls_lost for node in fleet.nodes.values()),
        }


def measure_once(program: Sequence[str], nodes: int, at_a_time: int) -> Mapping[str, float]:
    """One round of one server."""
    with serving(*program) as server, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure_nodes(server, server.create_key(), nodes, at_a_time))


def programs(options: argparse.Namespace) -> dict[str, Sequence[str]]:
    """Ours, and Headscale where there is one."""
    found: dict[str, Sequence[str]] = {OURS: (sys.executable, str(COORDINATOR))}
    headscale = options.headscale or shutil.which("headscale")
    if headscale:
        found["headscale"] = (headscale,)
    return found


def main(argv: Sequence[str] | None = None) -> list[Figure]:
    """Measure and print, as `argv` or the command line says."""
    parser = measure.parser("control", __doc__, rounds=3)
    parser.add_argument("--nodes", type=int, default=300, help="default: %(default)s")
    parser.add_argument(
        "--at-a-time", type=int, default=AT_A_TIME, help="nodes that join (default: %(default)s)"
    )
    parser.add_argument("--headscale", metavar="PATH", help="instead of the one on PATH")
    options = parser.parse_args(argv)
    if options.quick:
        options.nodes = 30
    runs = {
        name: partial(measure_once, program, options.nodes, options.at_a_time)
        for name, program in programs(options).items()
    }
    figures = measure.interleave("control", WHATS, runs, options, f"{options.nodes} nodes")
    measure.report(options, "Coordinator", figures)
    return figures


if __name__ == "__main__":
    main()
