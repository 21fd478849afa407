"""`serve` and `configtest`: what they need, what they leave, and what they say when something is wrong.

COORDINATOR_KILLS=200 runs the long version of the test that kills the coordinator.
"""

from __future__ import annotations

import itertools
import json
import os
import pty
import random
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from coordinator.cli.client import Client
from coordinator.cli.invocation import CommandError

KILLS = int(os.environ.get("COORDINATOR_KILLS", "3"))
PROGRAM = [sys.executable, "-m", "coordinator"]


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_serve_by_flags_alone(coordinator: Any, tmp_path: Path) -> None:
    flags = ["--listen-addr", "127.0.0.1:0", "--state-dir", "state", "--socket", "admin.sock"]
    running = subprocess.Popen([*PROGRAM, "serve", *flags], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    with running, closing(running.stdout or sys.stdin) as greeting:
        assert f"admin socket {tmp_path}/admin.sock" in greeting.readline()
        assert coordinator("users", "create", "ana", "--socket", "admin.sock", directory=tmp_path).status == 0
        assert stat.S_IMODE((tmp_path / "admin.sock").stat().st_mode) == 0o770
        assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700
        running.send_signal(signal.SIGINT)
        assert running.wait(timeout=20) == 0
    assert not (tmp_path / "admin.sock").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"state"}


def test_a_busy_port(coordinator: Any, tmp_path: Path, busy_port: int) -> None:
    flags = ["--listen-addr", f"127.0.0.1:{busy_port}", "--state-dir", "state", "--socket", "admin.sock"]
    ran = coordinator("serve", *flags, directory=tmp_path)
    assert ran.error == (
        f"listen_addr 127.0.0.1:{busy_port} is in use by another program; "
        "stop that one, or choose another port"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_second_coordinator_on_the_same_files(server: Any, coordinator: Any) -> None:
    error = coordinator("serve", "-c", str(server.config), "--listen-addr", "127.0.0.1:0").error
    assert error.endswith("is in use by another coordinator; stop that one first, or set state_dir")
    assert server.ok("health"), "the first one does not notice"


@pytest.mark.parametrize(
    ("text", "errors"),
    [
        ("listen_adr: 1", ["unknown key listen_adr; did you mean listen_addr?"]),
        (
            "listen_addr: nonsense",
            ["listen_addr: expected ADDRESS:PORT such as 0.0.0.0:8080, not 'nonsense'"],
        ),
        ("- a", ["expected `key: value` lines at the top"]),
        (
            "server_url: vpn\nprefixes: {v4: 10.0.0.1/8}",
            ["server_url: expected a URL", "prefixes.v4: "],
        ),
    ],
)
@pytest.mark.parametrize("command", ["serve", "configtest", "health"])
def test_a_wrong_configuration(
    coordinator: Any, tmp_path: Path, command: str, text: str, errors: list[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    ran = coordinator(command, "--config", str(config))
    assert (ran.status, ran.out) == (1, "")
    shown = ran.err.removeprefix("Error: ").splitlines()
    assert len(shown) == len(errors)
    for line, error in zip(shown, errors, strict=True):
        assert line.startswith(f"configuration {config}: {error}")
    as_json = coordinator(command, "--config", str(config), "-o", "json")
    assert json.loads(as_json.err) == {"error": "\n".join(shown)}
    assert list(tmp_path.iterdir()) == [config]


def test_a_wrong_listen_address(coordinator: Any) -> None:
    assert coordinator("serve", "--listen-addr", "8080").error == (
        '--listen-addr: expected ADDRESS:PORT such as 0.0.0.0:8080, not "8080"'
    )


def test_configtest_is_silent_and_changes_nothing(stopped: Any) -> None:
    assert stopped.ok("configtest") == ""
    assert list(stopped.directory.iterdir()) == [stopped.config]
    stopped.start()
    assert stopped.ok("configtest") == "", "beside a running coordinator"
    stopped.stop()
    before = {path.name: path.read_bytes() for path in stopped.directory.iterdir()}
    assert stopped.ok("configtest") == ""
    assert {path.name: path.read_bytes() for path in stopped.directory.iterdir()} == before


def test_configtest_finds_damage(stopped: Any) -> None:
    (stopped.directory / "noise_private.key").write_text("garbage\n")
    assert "holds no key: restore it from a backup" in stopped.run("configtest").error
    (stopped.directory / "noise_private.key").unlink()
    (stopped.directory / "db.sqlite").write_text("garbage" * 1000)
    assert "restore a backup" in stopped.run("configtest").error


@pytest.mark.timeout(60 + 20 * KILLS)
def test_an_acknowledged_write_survives_a_kill(stopped: Any) -> None:
    """A stream of writes by the client of the command line, and the coordinator killed in the midst of it."""
    seed = random.randrange(1 << 32)
    moments = random.Random(seed)
    acknowledged: set[str] = set()
    for kill in range(KILLS):
        stopped.start()
        assert acknowledged <= user_names(stopped), f"kill {kill}, seed {seed}"
        writer = threading.Thread(target=write, args=(str(stopped.socket), f"u{kill}", acknowledged))
        writer.start()
        writer.join(timeout=moments.uniform(0.05, 0.5))
        stopped.process.kill()
        stopped.process.wait()
        writer.join()
    stopped.start()
    assert len(acknowledged) > KILLS
    assert acknowledged <= user_names(stopped), f"seed {seed}"


def user_names(server: Any) -> set[str]:
    return {user["name"] for user in Client(str(server.socket), 5).get("user")["users"]}


def write(socket_path: str, stem: str, acknowledged: set[str]) -> None:
    """Create users until nobody answers any more."""
    client = Client(socket_path, 0.2)
    for number in itertools.count():
        try:
            client.post("user", body={"name": f"{stem}-{number}"})
        except CommandError:
            return
        acknowledged.add(f"{stem}-{number}")


@pytest.mark.parametrize(("environment", "is_coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal(populated: Any, environment: dict[str, str], is_coloured: bool) -> None:
    ours, theirs = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    line = [*PROGRAM, "nodes", "list", "--config", str(populated.config)]
    done = subprocess.run(line, stdout=theirs, env={**clean, "TERM": "xterm", **environment}, check=False)
    os.close(theirs)
    with os.fdopen(ours, "rb") as terminal:
        text = terminal.read1().decode()
    assert done.returncode == 0
    assert ("\x1b[91moffline\x1b[0m" in text) == is_coloured
    assert ("\x1b" in text) == is_coloured
