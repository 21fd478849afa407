"""How a line reads, and what a wrong one says: one line on stderr and the status of its kind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from meshnode import __version__
from meshnode.cli.grammar import Command, Duration, flag, switch
from meshnode.cli.main import COMMANDS, run

NO_DAEMON = ["--socket", "/nonexistent/meshnode.sock"]


@click.command("sample", cls=Command)
@flag("--name")
@switch("--on")
@switch("-4", "four", default=False)
@flag("--timeout", type=Duration(), default=0.0)
@click.argument("word", required=False)
def sample(name: str | None, on: bool | None, four: bool, timeout: float, word: str | None) -> object:
    return name, on, four, timeout, word


def read(*line: str) -> object:
    return sample.main(list(line), standalone_mode=False, obj={})


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("", (None, None, False, 0.0, None)),
        ("--name x", ("x", None, False, 0.0, None)),
        ("--name=x", ("x", None, False, 0.0, None)),
        ("-name x", ("x", None, False, 0.0, None)),
        ("-name=x=y", ("x=y", None, False, 0.0, None)),
        ("--on", (None, True, False, 0.0, None)),
        ("-on", (None, True, False, 0.0, None)),
        ("--on=false", (None, False, False, 0.0, None)),
        ("--on=0", (None, False, False, 0.0, None)),
        ("--on word", (None, True, False, 0.0, "word")),
        ("--on false", (None, True, False, 0.0, "false")),
        ("word --on", (None, True, False, 0.0, "word")),
        ("-4", (None, None, True, 0.0, None)),
        ("-4=false", (None, None, False, 0.0, None)),
        ("--timeout 0", (None, None, False, 0.0, None)),
        ("--timeout 1h30m", (None, None, False, 5400.0, None)),
        ("--timeout=1.5s", (None, None, False, 1.5, None)),
        ("-- -4", (None, None, False, 0.0, "-4")),
    ],
)
def test_a_line_reads_as_go_reads_it(line: str, values: object) -> None:
    assert read(*line.split()) == values


def failure(capsys: pytest.CaptureFixture[str], *line: str) -> tuple[int, str]:
    """Exit status and the one line of a command that fails."""
    status = run(line)
    printed = capsys.readouterr()
    assert printed.out == ""
    (message,) = printed.err.strip().splitlines()
    return status, message


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        (["frobnicate"], 1, 'unknown command "frobnicate"'),
        (["statsu"], 1, "did you mean status"),
        (["up", "--frobnicate"], 2, "unknown flag --frobnicate"),
        (["up", "--hostnme", "x"], 2, "did you mean --hostname"),
        (["up", "--hostname"], 2, "--hostname"),
        (["up", "--hostname", "a", "--hostname", "b"], 2, "--hostname is given twice"),
        (["up", "--accept-routes=maybe"], 2, '--accept-routes: "maybe"'),
        (["up", "--timeout", "soon"], 2, '--timeout: "soon"'),
        (["up", "--port", "70000"], 2, "--port"),
        (["status", "now"], 1, '"now"'),
        (["down", "now"], 1, '"now"'),
        (["ip", "-4", "-6"], 2, "-4 and -6"),
        (["ip", "a", "b"], 1, '"b"'),
        (["up", "--advertise-routes", "192.168.0.1/24"], 1, "192.168.0.0/24"),
        (["up", "--advertise-routes", "0.0.0.0/0"], 1, "::/0"),
        (["up", "--exit-node-allow-lan-access"], 1, "--exit-node"),
        (["up", "--hostname", "my host"], 1, "my host"),
        (["up", "--login-server", "vpn.example.org"], 1, "https://vpn.example.org"),
        (["up", "--authkey", "file:/nonexistent"], 1, "/nonexistent"),
        (["up", "--authkey", ""], 1, "auth key"),
        (["daemon", "--port", "x"], 2, "--port"),
        (["daemon", "--port", "70000"], 1, "--port"),
        (["daemon", "--tun", "a/b"], 1, "a/b"),
        (["daemon", "--config", "/nonexistent.yaml"], 1, "/nonexistent.yaml"),
        (["status", *NO_DAEMON], 1, "sudo meshnode up"),
        (["down", *NO_DAEMON], 1, "sudo meshnode up"),
        (["ip", *NO_DAEMON], 1, "sudo meshnode up"),
        (["logout", *NO_DAEMON], 1, "sudo meshnode up"),
        (["set", "--hostname", "x", *NO_DAEMON], 1, "sudo meshnode up"),
        (["--socket", "/nonexistent/x.sock", "status"], 1, "/nonexistent/x.sock"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_line(capsys: pytest.CaptureFixture[str], line: list[str], status: int, says: str) -> None:
    seen_status, message = failure(capsys, *line)
    assert says in message
    assert seen_status == status
    assert message.startswith("meshnode: ")


def test_the_socket_comes_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHNODE_SOCKET", "/nonexistent/env.sock")
    assert "/nonexistent/env.sock" in failure(capsys, "status")[1]
    assert "/nonexistent/x.sock" in failure(capsys, "status", "--socket=/nonexistent/x.sock")[1]


@pytest.mark.parametrize("line", [["--version"], ["-V"], ["version"]])
def test_the_version(capsys: pytest.CaptureFixture[str], line: list[str]) -> None:
    assert run(line) == 0
    assert capsys.readouterr().out == __version__ + "\n"


@pytest.mark.parametrize("line", [[], ["--help"], ["-h"], *([name, "--help"] for name in COMMANDS)])
def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str], line: list[str]) -> None:
    assert run(line) == 0
    printed = capsys.readouterr()
    assert "Usage: meshnode" in printed.out
    assert printed.err == ""


def test_set_without_flags_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["set"]) == 0
    assert "--exit-node" in capsys.readouterr().out


def test_a_command_imports_only_what_it_needs() -> None:
    code = (
        "import sys; from meshnode.cli.main import run; run(['status', '--socket', '/nonexistent']);"
        "heavy = {'asyncio', 'aiohttp', 'cryptography', 'h2', 'pyroute2', 'msgspec', 'yaml'};"
        "print(*heavy & sys.modules.keys())"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == ""
