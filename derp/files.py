"""Files that are whole or not there: replaced by rename, readable by their owner only, on disk on return."""

from __future__ import annotations

import os
from pathlib import Path

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


def write_atomically(path: Path, content: bytes) -> None:
    """Replace `path`, making its directory where that is missing. Raises OSError, the old file in place."""
    path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    new.touch(FILE_MODE)
    with new.open("r+b") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
