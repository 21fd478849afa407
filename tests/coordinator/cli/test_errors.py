"""Every failure is one line with the fix, a non-zero exit, and no change made."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from coordinator.cli.client import Client
from coordinator.cli.root import run
from tests.lacking import lacking


def golden_errors(name: str) -> list[Any]:
    """Pairs of a command line and all that it prints, from lines `$ coordinator …` and `Error: …`."""
    text = (Path(__file__).parent / "golden" / f"{name}.txt").read_text()
    pairs = [block.removeprefix("$ coordinator ").split("\n", 1) for block in text.strip().split("\n\n")]
    return [pytest.param(shlex.split(line), error.strip(), id=line) for line, error in pairs]


def everything(server: Any) -> list[Any]:
    client = Client(str(server.socket), 5)
    return [client.get(kind) for kind in ("user", "node", "preauthkey")]


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must fail, in this process, and returns what it prints."""

    def run_line(*words: str) -> str:
        assert run(words) == 1
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return run_line


@pytest.mark.parametrize(("line", "error"), golden_errors("errors-of-the-line"))
def test_a_wrong_line_never_reaches_the_server(
    shown: Any, monkeypatch: pytest.MonkeyPatch, line: list[str], error: str
) -> None:
    def connect(client: Client, deadline: float) -> None:
        raise AssertionError("it tried to connect")

    monkeypatch.setenv("COORDINATOR_SOCKET", "/nonexistent")
    monkeypatch.setattr(Client, "_connect", connect)
    assert shown(*line) == f"{error}\n"


@pytest.mark.parametrize(("line", "error"), golden_errors("errors-of-the-server"))
def test_what_the_server_refuses(populated: Any, shown: Any, line: list[str], error: str) -> None:
    before = everything(populated)
    assert shown("--config", str(populated.config), *line) == f"{error}\n"
    assert everything(populated) == before


@pytest.mark.parametrize("output", ["json", "json-line", "yaml"])
@pytest.mark.parametrize("line", ["nodes delete -i x", "nodes delete -i 9", "nodes dleete"])
def test_errors_for_programs(populated: Any, output: str, line: str) -> None:
    ran = populated.run(*line.split(), "-o", output)
    assert (ran.status, ran.out) == (1, "")
    document = yaml.safe_load(ran.err) if output == "yaml" else json.loads(ran.err)
    assert set(document) == {"error"}
    assert document["error"] == populated.run(*line.split()).error


@pytest.fixture
def impatient(tmp_path: Path) -> tuple[Path, list[str]]:
    """A socket's path, and the flags for a configuration that names it with a short timeout."""
    config = tmp_path / "config.yaml"
    config.write_text("unix_socket: coordinator.sock\ncli:\n  timeout: 500ms\n")
    return tmp_path / "coordinator.sock", ["--config", str(config)]


def test_no_socket(coordinator: Any, impatient: Any) -> None:
    path, flags = impatient
    started = time.monotonic()
    assert coordinator("users", "list", *flags).error == (
        f"cannot reach the coordinator at {path} (there is no such socket); is `coordinator serve` running? "
        "Name another socket with --socket or --config"
    )
    assert time.monotonic() - started < 4


def test_a_socket_that_nobody_serves_any_more(coordinator: Any, impatient: Any) -> None:
    path, flags = impatient
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    error = coordinator("users", "list", *flags).error
    assert error.startswith(
        f"cannot reach the coordinator at {path} (nothing answers there); is `coordinator"
    )


def test_a_server_that_does_not_answer(coordinator: Any, impatient: Any) -> None:
    path, flags = impatient
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        error = coordinator("users", "list", *flags).error
    assert error == (
        f"the coordinator at {path} did not answer within 0.5 s; "
        "see its log, or raise cli.timeout in the configuration"
    )


def test_something_else_on_the_socket(coordinator: Any, tmp_path: Path) -> None:
    path = tmp_path / "coordinator.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        caller = subprocess.Popen(
            [sys.executable, "-m", "coordinator", "users", "list", "--socket", str(path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        stream, _ = listener.accept()
        with stream:
            stream.recv(4096)
            stream.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        _, err = caller.communicate(timeout=20)
    assert caller.returncode == 1
    assert (
        err == f"Error: what answers at {path} is no coordinator; name its socket with --socket or --config\n"
    )


def test_no_permission_on_the_socket(populated: Any) -> None:
    if os.geteuid() != 0:
        lacking("needs root to become another user")
    line = ["users", "list", "--socket", str(populated.socket)]
    script = (  # imports first: nobody may not be able to read where Python is installed
        "import os, sys, coordinator.cli.client, coordinator.cli.location, coordinator.cli.targets; "
        "from coordinator.cli.root import run; "
        f"os.setgroups([]); os.setgid(65534); os.setuid(65534); sys.exit(run({line!r}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"Error: no permission on the coordinator's socket {populated.socket}: "
        "run this as root or as a member of the socket's group\n"
    )


def test_a_configuration_that_is_not_there(coordinator: Any, tmp_path: Path) -> None:
    for line in (["users", "list"], ["serve"], ["configtest"]):
        error = coordinator(*line, "--config", str(tmp_path / "none.yaml")).error
        assert str(tmp_path / "none.yaml") in error
