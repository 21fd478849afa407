"""Relays to be measured: ours, and `derper` where there is one. Each is a process of its own."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from bench.measure import OURS
from derp.relay_node import RelayNode
from tests.derp.relays import Certificate
from tests.netlab import wait_for


@dataclass(frozen=True)
class Relay:
    """A running relay."""

    node: RelayNode
    pid: int
    log: str = ""
    """What it has said so far."""


@contextmanager
def our_relay(*, uses_tls: bool, options: Sequence[str] = ()) -> Iterator[Relay]:
    """`python -m derp` on a port of this machine, with more options if need be."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "derp", "--listen", "127.0.0.1:0", "--key-file", f"{directory}/key"]
        command += options
        if uses_tls:
            made = Certificate.make(Path(directory))
            command += ["--certificate", str(made.chain), "--certificate-key", str(made.key)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                log = ""
                while (found := re.search(r"relaying on \S+:(\d+)", log)) is None:
                    line = process.stderr.readline()
                    assert line, log
                    log += line
                yield Relay(RelayNode("127.0.0.1", int(found[1]), uses_tls=uses_tls), process.pid, log)
            finally:
                process.terminate()


@contextmanager
def derper(program: str, *, uses_tls: bool, stun_port: int = 0) -> Iterator[Relay]:
    """`derper` on a port of this machine; with its STUN responder, if that has a port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        command = [program, "-a", f"127.0.0.1:{port}", "-c", f"{place}/config"]
        command += ["-stun-port", str(stun_port)] if stun_port else ["-stun=false"]
        command += ["-http-port", "-1"]
        if uses_tls:
            made = Certificate.make(place)
            shutil.copy(made.chain, place / "127.0.0.1.crt")
            shutil.copy(made.key, place / "127.0.0.1.key")
            command += ["-certmode", "manual", "-certdir", directory, "-hostname", "127.0.0.1"]
        with (place / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                wait_for(partial(_answers, process, port, place / "log"), 15, what="derper")
                yield Relay(RelayNode("127.0.0.1", port, uses_tls=uses_tls), process.pid)
            finally:
                process.terminate()


def _answers(process: subprocess.Popen[bytes], port: int, log: Path) -> bool:
    assert process.poll() is None, f"it ended: {log.read_text()}"
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Start(Protocol):
    """Runs a relay for the length of a block."""

    def __call__(self, *, uses_tls: bool) -> AbstractContextManager[Relay]: ...


def relays(path: str | None) -> dict[str, Start]:
    """Ours, and the `derper` at `path` or else on PATH."""
    found: dict[str, Start] = {OURS: our_relay}
    theirs = path or shutil.which("derper")
    if theirs:
        found["derper"] = partial(derper, theirs)
    return found
