"""Kernel settings: reading and writing them, and putting back what we wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from meshnode.linux import sysctl_plan
from meshnode.linux.journal import Journal
from meshnode.linux.router_config import RouterConfig
from meshnode.linux.sysctl_plan import SettingChange

PROC_SYS = Path("/proc/sys")

# What makes an entry of the journal worth something: the boot and the network namespace it was written in.
# thread-self, because a namespace belongs to a thread.
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
NAMESPACE = Path("/proc/thread-self/ns/net")


class Settings:
    """The settings of the calling thread's network namespace."""

    def __init__(self, root: Path = PROC_SYS) -> None:
        self._root = root

    def read(self, key: str) -> str | None:
        """The value of `net/ipv4/ip_forward`, or None where there is no such setting."""
        try:
            return (self._root / key).read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, key: str, value: str) -> None:
        """Set a value. Raises OSError."""
        (self._root / key).write_text(value)

    def interfaces(self, version: int) -> Sequence[str]:
        """Every interface that has settings for this IP version, with `all` and `default`; sorted."""
        directory = self._root / f"net/ipv{version}/conf"
        return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []


def here() -> str:
    """Names this boot and this network namespace."""
    return f"{BOOT_ID.read_text().strip()}/{NAMESPACE.stat().st_ino}"


@dataclass(slots=True)
class Applied:
    """What became of a call of `SysctlKeeper.set`."""

    changes: list[str] = field(default_factory=list)
    """What was changed, a line each."""
    failures: dict[str, OSError] = field(default_factory=dict)
    """By group: why its settings are not as they should be."""


class SysctlKeeper:
    """Settings as a configuration wants them, and as they were before when it no longer does."""

    def __init__(self, tunnel: str, state_dir: Path, settings: Settings | None = None) -> None:
        self._tunnel = tunnel
        self._path = state_dir / f"sysctl-{tunnel}.json"
        self._settings = settings or Settings()

    def set(self, config: RouterConfig) -> Applied:
        """Make the settings what `config` needs, and put back what it does not.

        A group that cannot be written does not stop the others; the next call carries on. Raises
        JournalDamaged, or OSError when the journal cannot be written.
        """
        journal = Journal(self._path, here())
        wanted = sysctl_plan.wanted(config, self._settings, self._tunnel, journal.keys)
        applied = Applied()
        for group, changes in wanted.items():
            if changes is not None:
                journal.add(changes)
            try:
                if changes is None:
                    applied.changes += self._put_back(journal, group)
                else:
                    applied.changes += self._apply(changes)
            except OSError as error:
                applied.failures[group] = error
        return applied

    def _apply(self, changes: list[SettingChange]) -> list[str]:
        done = []
        for change in changes:
            if self._settings.read(change.key) != change.written:
                self._settings.write(change.key, change.written)
                done.append(f"sysctl {dotted(change.key)}={change.written}")
        return done

    def _put_back(self, journal: Journal, group: str) -> list[str]:
        """Last change first. What has another value than ours by now was set by someone else, and stays."""
        ours = [entry for entry in journal.of(group) if self._settings.read(entry.key) == entry.written]
        done = []
        for entry in reversed(ours):
            if self._settings.read(entry.key) != entry.old:
                self._settings.write(entry.key, entry.old)
                done.append(f"sysctl {dotted(entry.key)}={entry.old}")
        journal.forget(group)
        return done


def check_forwarding(config: RouterConfig, settings: Settings | None = None) -> list[str]:
    """What keeps this host from forwarding what `config` serves: a line each, for `meshnode status`."""
    return sysctl_plan.forwarding_warnings(config, settings or Settings())


def dotted(key: str) -> str:
    """As sysctl(8) takes it: dots between the parts, and slashes where an interface's name has dots."""
    return key.translate(str.maketrans("/.", "./"))
