"""The lab itself: it makes hosts and LANs, and it cleans up whatever happens."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import tempfile
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, TypeVar

from tests.netlab import namespaces
from tests.netlab.host import Host
from tests.netlab.router import Router
from tests.netlab.segment import Lan, connect

# Each lab has a directory of this name and its id; namespaces are named `<id>-<host>`.
DIRECTORY_PREFIX = "netlab-"

# In the directory: who the lab belongs to, or that it stays without an owner.
OWNER_FILE = "owner"
KEPT = "kept"

# How much of a program's log the report of a failure shows.
LOG_CHARACTERS_SHOWN = 6000

SomeHost = TypeVar("SomeHost", bound=Host)


class Lab:
    """Hosts and LANs of one experiment. Use as a context manager.

    `keep` leaves everything running at the block's end, for a person to look at, until `Lab.destroy(id)`.
    """

    def __init__(self, name: str = "lab", *, keep: bool = False) -> None:
        self.id = f"{name}-{secrets.token_hex(3)}"
        self.directory = directory_of(self.id)
        self.hosts: dict[str, Host] = {}
        self.keep = keep
        self._switch: Host | None = None
        self._old_handler: object = None

    def __enter__(self) -> Self:
        sweep()
        self.directory.mkdir(mode=0o700)
        (self.directory / OWNER_FILE).write_text(_process_identity(os.getpid()))
        self._turn_sigterm_into_exit()
        try:
            self._switch = Host("switch", f"{self.id}-switch", self.directory / "switch")
        except BaseException:
            self._end()
            raise
        open_labs.add(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        open_labs.discard(self)
        if isinstance(error, Exception):
            error.add_note(self.report())
        if self.keep and error is None:
            (self.directory / OWNER_FILE).write_text(KEPT)
            self._restore_sigterm()
        else:
            self._end()

    def _end(self) -> None:
        """Remove everything. A second Ctrl-C while at it must not leave half of it behind."""
        old = signal.signal(signal.SIGINT, signal.SIG_IGN) if _in_main_thread() else None
        try:
            self.destroy(self.id)
            machines = [*self.hosts.values(), *([self._switch] if self._switch else [])]
            for process in (process for host in machines for process in host.started):
                process.wait(check=False)  # ended by now; this takes its exit status from the kernel
        finally:
            if old is not None:
                signal.signal(signal.SIGINT, old)
            self._restore_sigterm()

    # Building

    def host(self, name: str) -> Host:
        """A new machine without a cable."""
        return self._add(Host, name)

    def router(self, name: str) -> Router:
        """A new machine that forwards."""
        return self._add(Router, name)

    def _add(self, kind: type[SomeHost], name: str) -> SomeHost:
        if name in self.hosts or name == "switch":
            raise ValueError(f"the lab has a host named {name!r} already")
        made = kind(name, f"{self.id}-{name}", self.directory / name)
        self.hosts[name] = made
        return made

    def lan(self, name: str) -> Lan:
        """A new switch."""
        assert self._switch is not None, "a lab is used in its `with` block"
        return Lan(name, self._switch)

    def link(self, end: tuple[Host, str], other: tuple[Host, str], *, mtu: int = 1500) -> None:
        """A cable straight between two hosts, each given with the name of its new interface."""
        connect(end, other, mtu)

    # Looking

    def report(self) -> str:
        """The end of what every background program wrote, for the report of a failure."""
        shown = [(name, text[-LOG_CHARACTERS_SHOWN:].rstrip()) for name, text in self.logs().items()]
        return "\n".join(f"--- {name}\n{text}" for name, text in shown if text)

    def logs(self) -> dict[str, str]:
        """The output of every background program so far, by `host/program`."""
        return {
            str(path.relative_to(self.directory).with_suffix("")): path.read_text(errors="replace")
            for path in sorted(self.directory.glob("**/*.log"))
        }

    # Ending

    @staticmethod
    def destroy(lab_id: str) -> None:
        """End the lab's processes and remove its namespaces and files. Safe to call again."""
        mine = [name for name in namespaces.existing() if name.startswith(f"{lab_id}-")]
        namespaces.end_processes(mine)
        for name in mine:
            namespaces.delete(name)
        shutil.rmtree(directory_of(lab_id), ignore_errors=True)

    @staticmethod
    def leftovers(lab_id: str) -> list[str]:
        """What of a lab is still on this machine, in words; empty once it is destroyed."""
        names = [name for name in namespaces.existing() if name.startswith(f"{lab_id}-")]
        files = [directory_of(lab_id), *namespaces.ETC_NETNS.glob(f"{lab_id}-*")]
        return [
            *(f"namespace {name}" for name in names),
            *(f"process {pid}" for pid in namespaces.processes(names)),
            *(f"file {path}" for path in files if path.exists()),
        ]

    def _turn_sigterm_into_exit(self) -> None:
        if _in_main_thread():
            self._old_handler = signal.signal(signal.SIGTERM, _exit_on_signal)

    def _restore_sigterm(self) -> None:
        if _in_main_thread() and callable(self._old_handler):
            signal.signal(signal.SIGTERM, self._old_handler)
        elif _in_main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


# The labs of this process that are inside their `with` block.
open_labs: set[Lab] = set()


def kept_labs() -> list[str]:
    """The ids of the labs that were left running on purpose."""
    return [lab_id for lab_id, owner in _owners() if owner == KEPT]


def sweep() -> None:
    """Remove what labs whose process is gone left behind."""
    for lab_id, owner in _owners():
        pid = owner.partition(" ")[0]
        if owner != KEPT and not (pid.isdigit() and _process_identity(int(pid)) == owner):
            Lab.destroy(lab_id)


def _owners() -> list[tuple[str, str]]:
    found = []
    for directory in Path(tempfile.gettempdir()).glob(f"{DIRECTORY_PREFIX}*"):
        try:
            owner = (directory / OWNER_FILE).read_text()
        except OSError:
            continue  # being made or removed right now by its living owner
        found.append((directory.name.removeprefix(DIRECTORY_PREFIX), owner))
    return found


def directory_of(lab_id: str) -> Path:
    """Where the files of a lab are."""
    return Path(tempfile.gettempdir()) / f"{DIRECTORY_PREFIX}{lab_id}"


def _process_identity(pid: int) -> str:
    """`<pid> <start time>`, which no later process with the same number shares; empty if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return f"{pid} {stat.rpartition(')')[2].split()[19]}"


def _exit_on_signal(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
