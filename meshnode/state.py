"""The node's memory on disk: its keys and preferences, and the last network map.

`state.json` is what the node is; losing it makes a new node. It is written before a change counts, in mode
0600, by rename, into a directory of mode 0700. A file that cannot be read is never replaced: the daemon stops
and says which file and what to do. `netmap.json` is a cache of the last map, so that a node that starts while
its coordinator is down still reaches its peers; a bad one is only worth a warning.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from derp.files import write_atomically
from meshnode.prefs import Prefs
from meshproto.keys import MachinePrivate, MalformedKey, NodePrivate

STATE_VERSION = 1
STATE_FILE = "state.json"
NETMAP_FILE = "netmap.json"
LOCK_FILE = "lock"


class StateError(Exception):
    """The state cannot be used; the text names the file and the way out."""


DEFAULT_PREFS = Prefs()


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """All that must survive a restart."""

    machine_key: MachinePrivate
    """Identity of this installation on the control channel; made once."""
    node_key: NodePrivate | None = None
    """The WireGuard identity that the coordinator accepted; None before the first login and after a logout.
    """
    old_node_key: NodePrivate | None = None
    """The one before it, sent along at the next registration."""
    login_server: str = ""
    """The coordinator that accepted `node_key`, which `prefs` may be about to leave."""
    prefs: Prefs = DEFAULT_PREFS


class _StateFile(msgspec.Struct, frozen=True, kw_only=True):
    """The layout of `state.json`, version 1."""

    version: int
    machine_key: str
    node_key: str | None = None
    old_node_key: str | None = None
    login_server: str = ""
    prefs: Prefs = Prefs()


class StateDir:
    """The directory, locked against a second daemon for as long as this object is open."""

    def __init__(self, path: Path) -> None:
        """Create the directory where it is missing and take the lock. Raises StateError."""
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.chmod(0o700)
            self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(
                f"cannot use the state directory {path}: {error.strerror}; "
                "run as root, or name a directory of your own with --state-dir"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise StateError(
                f"another meshnode daemon already uses the state directory {path}; "
                "stop it first, or give this one its own --state-dir"
            ) from error

    def close(self) -> None:
        """Let go of the lock."""
        os.close(self._lock)

    def load(self) -> State | None:
        """The stored state, or None where none was ever stored. Raises StateError."""
        path = self.path / STATE_FILE
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(
                f"cannot read {path}: {error.strerror}; fix its owner and permissions"
            ) from error
        return _parse_state(path, data)

    def save(self, state: State) -> None:
        """Durable once it returns. Raises StateError, and then the old file is whole."""
        file = _StateFile(
            version=STATE_VERSION,
            machine_key=state.machine_key.to_text(),
            node_key=state.node_key.to_text() if state.node_key else None,
            old_node_key=state.old_node_key.to_text() if state.old_node_key else None,
            login_server=state.login_server,
            prefs=state.prefs,
        )
        self._write(STATE_FILE, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")

    def load_netmap(self) -> bytes | None:
        """The cached map as `save_netmap` got it, or None. Raises StateError when it cannot be read."""
        path = self.path / NETMAP_FILE
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"cannot read {path}: {error.strerror}") from error

    def save_netmap(self, data: bytes) -> None:
        """Replace the cached map. Raises StateError."""
        self._write(NETMAP_FILE, data)

    def delete_netmap(self) -> None:
        """Forget the cached map: it belongs to another login."""
        (self.path / NETMAP_FILE).unlink(missing_ok=True)

    def _write(self, name: str, data: bytes) -> None:
        path = self.path / name
        try:
            write_atomically(path, data)
        except OSError as error:
            raise StateError(
                f"cannot write {path}: {error.strerror}; is the disk full or read-only?"
            ) from error


def _parse_state(path: Path, data: bytes) -> State:
    way_out = "restore it from a backup, or move it away to start as a new node"
    try:
        version = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("version")
        number = msgspec.json.decode(version, type=int) if version is not None else None
        if number is None or number < 1:
            raise StateError(f"{path} is damaged: it names no format version; {way_out}")
        if number > STATE_VERSION:
            raise StateError(
                f"{path} was written by a newer meshnode (format {number}, this one reads {STATE_VERSION}); "
                "upgrade meshnode, or move the file away to start as a new node"
            )
        file = msgspec.json.decode(data, type=_StateFile)
        return State(
            machine_key=MachinePrivate.parse(file.machine_key),
            node_key=NodePrivate.parse(file.node_key) if file.node_key else None,
            old_node_key=NodePrivate.parse(file.old_node_key) if file.old_node_key else None,
            login_server=file.login_server,
            prefs=file.prefs,
        )
    except (msgspec.MsgspecError, MalformedKey) as error:
        raise StateError(f"{path} is damaged: {error}; {way_out}") from error
