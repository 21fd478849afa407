"""Running programs to their end or in the background, with their output kept for the failure report."""

from __future__ import annotations

import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

# What a failure message shows of a program's output: its end, where the reason stands.
SHOWN_CHARACTERS = 4000


class CommandFailed(AssertionError):
    """A command ended with a status other than 0; the message holds the command and its output."""

    def __init__(self, argv: Sequence[str], returncode: int, stdout: str, stderr: str) -> None:
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        shown = (stdout + stderr)[-SHOWN_CHARACTERS:]
        super().__init__(f"{shlex.join(argv)}: exit status {returncode}\n{shown}")


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    timeout: float = 60.0,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run to the end and return status and output. Raises CommandFailed on another status than 0 if `check`.

    A command that does not end within `timeout` seconds is killed and counts as failed even without `check`.
    """
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        cwd=cwd,
        start_new_session=True,  # Ctrl-C reaches the lab, which then ends its processes in order
    ) as process:
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired as expired:
            process.kill()
            seen = [
                part.decode(errors="replace") if part else "" for part in (expired.stdout, expired.stderr)
            ]
            reason = f"{seen[1]}\n(killed: still running after {timeout:g} s)"
            raise CommandFailed(argv, -signal.SIGKILL, seen[0], reason) from None
        except BaseException:
            process.kill()
            raise
    if check and process.returncode != 0:
        raise CommandFailed(argv, process.returncode, stdout, stderr)
    return subprocess.CompletedProcess(argv, process.returncode, stdout, stderr)


class Process:
    """A program in the background. Its standard output and error go, together, to the file `log`."""

    def __init__(
        self,
        argv: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.argv = tuple(argv)
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self._popen.poll()

    def output(self) -> str:
        """Everything written so far."""
        return self.log.read_text(errors="replace")

    def send_signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def wait(self, timeout: float = 30.0, *, check: bool = True) -> int:
        """The exit status. Raises CommandFailed if it is not 0 (with `check`) or does not come in time."""
        try:
            status = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            reason = f"(still running after {timeout:g} s)"
            raise CommandFailed(self.argv, 0, self.output(), reason) from None
        if check and status != 0:
            raise CommandFailed(self.argv, status, self.output(), "")
        return status

    def interrupt(self, timeout: float = 10.0) -> str:
        """Send SIGINT, as Ctrl-C does, wait, and return the output."""
        self.send_signal(signal.SIGINT)
        self.wait(timeout, check=False)
        return self.output()

    def terminate(self, timeout: float = 10.0) -> int:
        """Send SIGTERM and return the exit status."""
        self.send_signal(signal.SIGTERM)
        return self.wait(timeout, check=False)

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self._popen.kill()
        self._popen.wait()
