"""A real `coordinator serve` on a temporary directory, its command line, and machines that join it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

import pytest

from coordinator.cli.root import run
from meshnode.control.client import ControlClient
from meshnode.control.server_url import ServerURL
from meshproto.keys import MachinePrivate, NodePrivate
from meshproto.messages import Hostinfo, MapRequest, RegisterAuth, RegisterRequest
from tests.netlab.programs import configuration

Result = TypeVar("Result")

CAPABILITY_VERSION = 113
START_TIMEOUT_S = 60.0
PROGRAM = [sys.executable, "-m", "coordinator"]


@dataclass(frozen=True)
class Ran:
    """What a command line printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a failure."""
        assert self.status == 1, self
        assert self.out == ""
        (line,) = self.err.splitlines()
        assert line.startswith("Error: ")
        return line.removeprefix("Error: ")


def command_line(
    *arguments: str, stdin: str = "", environment: dict[str, str] | None = None, directory: Path | None = None
) -> Ran:
    """Run `coordinator` as its user does, without a terminal."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("COORDINATOR_")}
    done = subprocess.run(
        [*PROGRAM, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        env={**clean, "PYTHONPATH": str(Path.cwd()), "COLUMNS": "100", **(environment or {})},
        cwd=directory,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


class Machines:
    """Machines that join over the control protocol, on an event loop of their own."""

    def __init__(self, server_url: str) -> None:
        self._server = ServerURL.parse(server_url)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._clients: list[ControlClient] = []
        self._polls: list[asyncio.Task[None]] = []

    def join(
        self, hostname: str, *, key: str = "", routes: Iterable[str] = (), stay: bool = False
    ) -> str | None:
        """Join with a key, or ask to be approved: then the URL to approve at. `stay` keeps a map session."""
        return self._run(self._join(hostname, key, tuple(routes), stay))

    async def _join(self, hostname: str, key: str, routes: tuple[str, ...], stay: bool) -> str | None:
        client = ControlClient(
            self._server, MachinePrivate.generate(os.urandom), mark=lambda _socket: None, entropy=os.urandom
        )
        self._clients.append(client)
        node_key = NodePrivate.generate(os.urandom).public
        hostinfo = Hostinfo(hostname=hostname, routable_ips=tuple(ip_network(route) for route in routes))
        request = RegisterRequest(
            version=CAPABILITY_VERSION,
            node_key=node_key,
            auth=RegisterAuth(auth_key=key) if key else None,
            hostinfo=hostinfo,
        )
        reply = await client.register(request)
        assert not reply.error, reply.error
        if stay:
            started = asyncio.Event()
            poll = MapRequest(
                version=CAPABILITY_VERSION, node_key=node_key, hostinfo=hostinfo, stream=True, keep_alive=True
            )
            self._polls.append(asyncio.create_task(self._poll(client, poll, started)))
            await asyncio.wait_for(started.wait(), 10)
        return reply.auth_url or None

    async def _poll(self, client: ControlClient, request: MapRequest, started: asyncio.Event) -> None:
        async for _response in client.poll(request):
            started.set()

    def close(self) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _close(self) -> None:
        for poll in self._polls:
            poll.cancel()
        await asyncio.gather(*self._polls, return_exceptions=True)
        for client in self._clients:
            await client.close()

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)


class Server:
    """A running coordinator and its command line."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "coordinator.sock"
        self.config = directory / "config.yaml"
        self.port = free_port()
        self.server_url = f"http://127.0.0.1:{self.port}"
        listen = f"127.0.0.1:{self.port}"
        text = configuration(directory, url=f"http://{listen}", listen=listen, more=FREE_STUN_PORTS)
        self.config.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None
        self.machines = Machines(self.server_url)

    def start(self, *, wait: bool = True) -> None:
        with (self.directory / "log").open("a") as log:
            self.process = subprocess.Popen(
                [*PROGRAM, "serve", "-c", str(self.config)], stderr=log, stdout=log, stdin=subprocess.DEVNULL
            )
        if wait:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not self.is_up():
                assert self.process.poll() is None, (self.directory / "log").read_text()
                assert time.monotonic() < deadline, (self.directory / "log").read_text()
                time.sleep(0.05)

    def is_up(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(self.socket))
            return True
        return False

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def run(self, *arguments: str, stdin: str = "") -> Ran:
        """Run a command line against this server, in this process, which is many times as fast."""
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.MonkeyPatch.context() as patched,
        ):
            patched.setattr(sys, "stdin", io.StringIO(stdin))
            status = run(["--config", str(self.config), *arguments])
        return Ran(status, out.getvalue(), err.getvalue())

    def ok(self, *arguments: str, stdin: str = "") -> str:
        """What a command that must succeed prints."""
        ran = self.run(*arguments, stdin=stdin)
        assert (ran.status, ran.err) == (0, ""), ran
        return ran.out

    def node(
        self, hostname: str, *, routes: Iterable[str] = (), stay: bool = False, user: str = "ana"
    ) -> None:
        """A node of `user`, who must exist."""
        key = self.ok("preauthkeys", "create", "--user", user).strip()
        self.machines.join(hostname, key=key, routes=routes, stay=stay)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


FREE_STUN_PORTS = """\
derp:
  server:
    stun_listen_addr: 127.0.0.1:0
    stun_alternate_listen_addr: 127.0.0.1:0
"""


@pytest.fixture
def coordinator() -> Callable[..., Ran]:
    """Runs a command line that names its server itself, or none."""
    return command_line


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Server]:
    """A coordinator of the test's own that the test starts."""
    prepared = Server(tmp_path)
    try:
        yield prepared
    finally:
        prepared.machines.close()
        if prepared.process is not None:
            prepared.stop()


@pytest.fixture
def server(stopped: Server) -> Server:
    """A running coordinator of the test's own, with nothing in it."""
    stopped.start()
    return stopped


@pytest.fixture(scope="module")
def populated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A coordinator with user ana (1), her nodes laptop (1) and router (2, advertises 10.1.0.0/16), for
    tests that change nothing."""
    running = Server(tmp_path_factory.mktemp("populated"))
    running.start()
    try:
        running.ok("users", "create", "ana")
        running.node("laptop")
        running.node("router", routes=["10.1.0.0/16"])
        yield running
    finally:
        running.machines.close()
        running.stop()
