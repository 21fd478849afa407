"""The coordinator as a program: start, what can be wrong at start, signals."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.app import check, running
from coordinator.config import Config
from coordinator.errors import StartupError
from coordinator.relay_config import RelayConfig
from derp.listen import ListenAddress
from tests.coordinator.conftest import FREE_PORT, Server

SERVE = """
import sys
from pathlib import Path
from coordinator import app, config
app.serve(config.load(Path(sys.argv[1])))
"""

CONFIGURATION = """
listen_addr: 127.0.0.1:0
state_dir: state
unix_socket: c.sock
derp: {server: {stun_listen_addr: "127.0.0.1:0", stun_alternate_listen_addr: "127.0.0.1:0"}}
"""


def config_in(directory: Path) -> Config:
    return Config(
        listen_addr=ListenAddress("127.0.0.1", 0),
        state_dir=directory / "state",
        unix_socket=directory / "run" / "coordinator.sock",
        relay=RelayConfig(stun_listen_addr=FREE_PORT, stun_alternate_listen_addr=FREE_PORT),
    )


async def refusal(config: Config) -> str:
    with pytest.raises(StartupError) as refused:
        async with running(config):
            pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def test_files_and_modes(tmp_path: Path) -> None:
    config = replace(config_in(tmp_path), unix_socket_permission=0o600)
    async with running(config):
        modes = {
            path: path.stat().st_mode & 0o777
            for path in (
                config.state_dir,
                config.private_key_file,
                config.unix_socket,
                config.unix_socket.parent,
            )
        }
        assert list(modes.values()) == [0o700, 0o600, 0o600, 0o750]
    assert not config.unix_socket.exists()


async def test_greeting_says_what_comes_next(tmp_path: Path) -> None:
    async with running(config_in(tmp_path)) as coordinator:
        text = "\n".join(coordinator.greeting())
        assert f"port {coordinator.port}, UDP " in text
        assert "coordinator users create NAME" in text
        assert "coordinator preauthkeys create --user NAME" in text
        assert f"meshnode up --login-server http://ADDRESS:{coordinator.port} --authkey KEY" in text
        await coordinator.state.create_user("ana")
        assert "users create" not in "\n".join(coordinator.greeting())


async def test_once_there_are_nodes_the_greeting_is_short(server: Server) -> None:
    await server.join("laptop")
    assert len(server.coordinator.greeting()) == 1


async def test_a_busy_port(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        text = await refusal(replace(config, listen_addr=ListenAddress("127.0.0.1", port)))
        assert text.startswith(f"listen_addr 127.0.0.1:{port} is in use")
        assert (await refusal(replace(config, listen_addr=ListenAddress("0.0.0.0", port)))).startswith(
            f"listen_addr 0.0.0.0:{port} is in use"
        )
    assert not config.state_dir.exists()


async def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    text = await refusal(replace(config_in(tmp_path), listen_addr=ListenAddress("192.0.2.1", 80)))
    assert text.startswith("listen_addr 192.0.2.1:80 is not an address of this machine")


async def test_a_second_coordinator_on_the_same_database(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    async with running(config):
        assert "in use by another coordinator" in await refusal(config)
        other = replace(config, state_dir=tmp_path / "other")
        assert "another coordinator listens there" in await refusal(other)
    async with running(config):
        pass


async def test_a_socket_that_a_crash_left(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    config.unix_socket.parent.mkdir()
    with closing(socket.socket(socket.AF_UNIX)) as crashed:
        crashed.bind(str(config.unix_socket))
    async with running(config):
        pass


async def test_something_else_in_the_place_of_the_socket_is_left_alone(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    config.unix_socket.parent.mkdir()
    config.unix_socket.write_text("precious")
    assert str(config.unix_socket) in await refusal(config)
    assert config.unix_socket.read_text() == "precious"


async def test_a_private_key_that_is_none(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    config.state_dir.mkdir()
    config.private_key_file.write_text("privkey:xyz")
    text = await refusal(config)
    assert text.startswith(f"noise.private_key_path {config.private_key_file} holds no key")
    assert "xyz" not in text
    with pytest.raises(StartupError):
        check(config)
    assert config.private_key_file.read_text() == "privkey:xyz"


async def test_check_changes_nothing(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    check(config)
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240
    async with running(config):
        check(config)


async def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    text = await refusal(config_in(tmp_path))
    problem = "Permission denied; run as root, or set it to a place that you own"
    assert text == f"state_dir {tmp_path / 'state'}: {problem}"


async def test_no_permission_in_an_existing_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    config = config_in(tmp_path)
    config.state_dir.mkdir()
    monkeypatch.setattr(Path, "exists", refuse)
    text = await refusal(config)
    problem = "Permission denied; run as root, or set it to a place that you own"
    assert text == f"noise.private_key_path {config.private_key_file}: {problem}"


def start(directory: Path) -> tuple[subprocess.Popen[str], list[str]]:
    """`serve` as a program, once it runs, with the lines that it printed."""
    file = directory / "config.yaml"
    file.write_text(CONFIGURATION)
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, file], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while "meshnode up" not in lines[-1]:
        assert lines[-1], process.communicate()
        lines.append(process.stdout.readline())
    return process, lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals(tmp_path: Path, number: signal.Signals) -> None:
    process, lines = start(tmp_path)
    assert lines[0].startswith("coordinator ")
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    assert process.poll() is None
    process.send_signal(number)
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0, log
    assert "Traceback" not in log
    assert not (tmp_path / "c.sock").exists()


def test_kill_and_start_again(tmp_path: Path) -> None:
    process, _ = start(tmp_path)
    process.kill()
    process.communicate()
    process, _ = start(tmp_path)
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0
