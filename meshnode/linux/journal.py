"""A file that remembers which kernel settings we changed, and from what, until they are put back.

It is written before a setting is: what a crash leaves is at worst an entry for a change that did not happen.
It is good for one boot and one network namespace, because settings live no longer than these.

Format: JSON, `{"version": 1, "where": "<boot id>/<namespace>", "entries": [...]}`, an entry as
`SettingChange`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from derp.files import write_atomically
from meshnode.linux.sysctl_plan import SettingChange

VERSION = 1


class JournalDamaged(Exception):
    """The file exists and cannot be understood, so what it remembers cannot be put back."""

    def __init__(self, path: Path, why: str) -> None:
        self.path = path
        super().__init__(f"the journal {path} cannot be read: {why}")


class _File(msgspec.Struct):
    version: int
    where: str
    entries: list[SettingChange]


class Journal:
    """The entries, oldest first, always the same in memory and on disk."""

    def __init__(self, path: Path, where: str) -> None:
        """Read the file if there is one. Entries from another boot or namespace are dropped.

        Raises JournalDamaged, or OSError when the file cannot be read.
        """
        self.path = path
        self._where = where
        self._entries = _read(path, where)

    @property
    def entries(self) -> tuple[SettingChange, ...]:
        return tuple(self._entries)

    def of(self, group: str) -> tuple[SettingChange, ...]:
        """The entries of one group, oldest first."""
        return tuple(entry for entry in self._entries if entry.group == group)

    def keys(self, group: str) -> frozenset[str]:
        """The settings of one group that we changed."""
        return frozenset(entry.key for entry in self.of(group))

    def add(self, entries: Iterable[SettingChange]) -> None:
        """Add entries; a key that is there already keeps its first old value. On disk when this returns."""
        known = {entry.key for entry in self._entries}
        added = [entry for entry in entries if entry.key not in known]
        if added:
            self._store(self._entries + added)

    def forget(self, group: str) -> None:
        """Remove the entries of one group. The last one takes the file with it."""
        left = [entry for entry in self._entries if entry.group != group]
        if len(left) != len(self._entries):
            self._store(left)

    def _store(self, entries: list[SettingChange]) -> None:
        if entries:
            content = msgspec.json.encode(_File(VERSION, self._where, entries))
            write_atomically(self.path, content)
        else:
            self.path.unlink(missing_ok=True)
        self._entries = entries


def _read(path: Path, where: str) -> list[SettingChange]:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    try:
        file = msgspec.json.decode(content, type=_File)
    except msgspec.DecodeError as error:
        raise JournalDamaged(path, str(error)) from error
    if file.version != VERSION:
        raise JournalDamaged(path, f"its version is {file.version}, this program knows {VERSION}")
    return file.entries if file.where == where else []
