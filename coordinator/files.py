"""The coordinator's files: state directory, the lock on the database, the admin socket."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from coordinator.errors import StartupError


def make_state_directory(path: Path) -> None:
    """Make `path`, for nobody else to read, unless it is there. Raises StartupError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(f"state_dir {path}: {reason_of(error)}") from error


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold `database` against a second coordinator, as both would trust their memory. Raises StartupError."""
    lock = database.with_name(f"{database.name}.lock")
    try:
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartupError(f"database {database}: {reason_of(error)}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise StartupError(
            f"database {database} is in use by another coordinator; stop that one first, or set state_dir"
        ) from error
    finally:
        os.close(descriptor)


@contextmanager
def admin_socket(path: Path, permission: int) -> Iterator[socket.socket]:
    """A listening unix socket with exactly these permission bits; its file goes away with it.

    Its directory is made (0750) if need be. Raises StartupError, also when a coordinator answers at `path`.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        _remove_stale(path)
        # The mode must be right from the first moment on: between bind and chmod anybody could connect.
        umask = os.umask(0o777 & ~permission)
        try:
            listener.bind(str(path))
        finally:
            os.umask(umask)
        listener.setblocking(False)
    except (OSError, StartupError) as error:
        listener.close()
        if isinstance(error, StartupError):
            raise
        raise StartupError(f"unix_socket {path}: {reason_of(error)}") from error
    try:
        yield listener
    finally:
        listener.close()
        with suppress(FileNotFoundError):
            path.unlink()


def _remove_stale(path: Path) -> None:
    """Remove the socket that a crashed coordinator left."""
    if not path.is_socket():
        return  # nothing there, or not ours to remove: bind will say so
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise StartupError(f"unix_socket {path}: another coordinator listens there; stop it, or set unix_socket")


def reason_of(error: OSError) -> str:
    """What is wrong, and what to do where that is clear."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}; run as root, or set it to a place that you own"
    return error.strerror or str(error)
