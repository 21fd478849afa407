"""The few `ip netns` commands that everything else is made of."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path

from tests.netlab.processes import run

# Where `ip netns` keeps a file per namespace.
NETNS = Path("/run/netns")

# `ip netns exec` mounts the files in here over those of /etc for the programs it starts.
ETC_NETNS = Path("/etc/netns")

# Seconds between asking the processes of a namespace to end and ending them.
TERMINATE_GRACE = 3.0

# An IPv6 address is unusable for a second while the kernel looks for a duplicate, which cannot exist here.
SETTINGS = ("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")


def add(namespace: str, *, settings: Iterable[str] = ()) -> None:
    """Create a namespace with loopback up, the given sysctl settings and an empty resolv.conf of its own."""
    run(["ip", "netns", "add", namespace])
    run([*inside(namespace), "sysctl", "-q", "-w", *SETTINGS, *settings])
    batch(namespace, ["link set lo up"])
    etc = ETC_NETNS / namespace
    etc.mkdir(parents=True, exist_ok=True)
    (etc / "resolv.conf").write_text("")


def inside(namespace: str) -> list[str]:
    """The words that, before a command, run it in the namespace; the process is the command's own."""
    return ["ip", "netns", "exec", namespace]


def batch(namespace: str, commands: Iterable[str]) -> None:
    """Run several `ip` commands (without the word `ip`) in the namespace; stops at the first that fails."""
    run(["ip", "-n", namespace, "-batch", "-"], stdin="\n".join(commands) + "\n")


def existing() -> list[str]:
    """The names of all namespaces of this machine."""
    return [line.split()[0] for line in run(["ip", "netns", "list"]).stdout.splitlines() if line.strip()]


def processes(namespaces: Iterable[str]) -> list[int]:
    """The ids of the processes that run in any of the namespaces, daemons included."""
    wanted = {inode for name in namespaces if (inode := _inode(NETNS / name)) is not None}
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in pids if _inode(Path(f"/proc/{pid}/ns/net")) in wanted]


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None  # the process or namespace has just ended; a zombie has no namespace either


def end_processes(namespaces: Iterable[str], grace: float = TERMINATE_GRACE) -> None:
    """End what runs in the namespaces: asked with SIGTERM first, killed after `grace` seconds."""
    names = list(namespaces)
    _signal_all(processes(names), signal.SIGTERM)
    deadline = time.monotonic() + grace
    while processes(names) and time.monotonic() < deadline:
        time.sleep(0.02)
    deadline = time.monotonic() + grace
    while (left := processes(names)) and time.monotonic() < deadline:
        _signal_all(left, signal.SIGKILL)
        time.sleep(0.02)


def _signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def delete(namespace: str) -> None:
    """Remove a namespace, with it all its interfaces, routes and rules, and its files under /etc/netns."""
    run(["ip", "netns", "delete", namespace], check=False)
    shutil.rmtree(ETC_NETNS / namespace, ignore_errors=True)
    try:
        ETC_NETNS.rmdir()  # ours if it is empty now; another lab's or the machine's own files keep it
    except OSError:
        pass
