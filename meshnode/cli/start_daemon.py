"""Starting the daemon in the background, where `up` finds none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from meshnode.cli.errors import CommandError
from meshnode.cli.local_client import LocalClient

START_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.02
DEFAULT_STATE_DIR = "/var/lib/meshnode"
LOG_FILE = "daemon.log"


@dataclass(frozen=True, slots=True)
class DaemonFlags:
    """What is passed on to the daemon; None where the line does not mention it."""

    state_dir: str | None = None
    tun: str | None = None
    port: int | None = None

    @property
    def log_file(self) -> Path:
        """Where a daemon that runs in the background says what happens."""
        return Path(self.state_dir or DEFAULT_STATE_DIR).absolute() / LOG_FILE

    def words(self, socket: str) -> list[str]:
        """The daemon's command line."""
        words = [sys.executable, "-m", "meshnode", "daemon", f"--socket={Path(socket).absolute()}"]
        if self.state_dir is not None:
            words.append(f"--state-dir={Path(self.state_dir).absolute()}")
        if self.tun is not None:
            words.append(f"--tun={self.tun}")
        if self.port is not None:
            words.append(f"--port={self.port}")
        return words


def ensure_daemon(client: LocalClient, flags: DaemonFlags) -> bool:
    """Have a daemon that answers. Returns whether it was started just now. Raises CommandError."""
    if client.is_running():
        return False
    if os.geteuid() != 0:
        raise CommandError("no meshnode daemon runs, and to start one needs root; say: sudo meshnode up …")
    log_file = flags.log_file
    with _open_log(log_file) as log:
        process = subprocess.Popen(
            flags.words(client.path),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    _wait_until_it_answers(process, client, log_file)
    return True


def _open_log(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CommandError(f"cannot write the daemon's log {path}: {error.strerror}") from error
    return os.fdopen(handle, "wb")


def _wait_until_it_answers(process: subprocess.Popen[bytes], client: LocalClient, log_file: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if client.is_running():
            return
        if process.poll() is not None:
            raise CommandError(f"the daemon did not start: {_last_line(log_file)} (its log: {log_file})")
        time.sleep(POLL_INTERVAL_S)
    process.terminate()
    raise CommandError(f"the daemon did not answer within {START_TIMEOUT_S:.0f} s; see its log: {log_file}")


def _last_line(log_file: Path) -> str:
    """What the daemon said last, without the name of the program."""
    lines = log_file.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("meshnode: ") if lines else "it gave no reason"
