"""Files that hold a private key each: the one of the control connections, and the embedded relay's.

Both are as Headscale keeps them: one line of text.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from coordinator.errors import StartupError
from coordinator.files import reason_of
from derp.files import write_atomically
from meshproto.keys import MachinePrivate, MalformedKey, NodePrivate

Key = TypeVar("Key", MachinePrivate, NodePrivate)


@dataclass(frozen=True, slots=True)
class KeyFile(Generic[Key]):
    """Where a key is. `setting` is what says so, and `cost` what one pays for a new key instead."""

    kind: type[Key]
    path: Path
    setting: str
    cost: str

    def load_or_create(self) -> Key:
        """The key, made and stored (mode 0600) the first time. Raises StartupError."""
        try:
            is_there = self.path.exists()
        except OSError as error:
            raise self._refusal(error) from error
        return self.read() if is_there else self._create()

    def read(self) -> Key:
        """The key. Raises StartupError."""
        try:
            return self.kind.parse(self.path.read_text().strip())
        except OSError as error:
            raise self._refusal(error) from error
        except (MalformedKey, UnicodeDecodeError) as error:
            raise StartupError(
                f"{self.setting} {self.path} holds no key: restore it from a backup, "
                f"or remove it and {self.cost}"
            ) from error

    def _create(self) -> Key:
        key = self.kind.generate(os.urandom)
        try:
            write_atomically(self.path, f"{key.to_text()}\n".encode())
        except OSError as error:
            raise self._refusal(error) from error
        return key

    def _refusal(self, error: OSError) -> StartupError:
        return StartupError(f"{self.setting} {self.path}: {reason_of(error)}")


def noise_key(path: Path) -> KeyFile[MachinePrivate]:
    """The file with the key of the control connections."""
    return KeyFile(MachinePrivate, path, "noise.private_key_path", "log in every node again")


def relay_key(path: Path) -> KeyFile[NodePrivate]:
    """The file with the key of the embedded relay."""
    return KeyFile(NodePrivate, path, "derp.server.private_key_path", "have every node connect to it anew")
