"""Where the running coordinator is, from flags and configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.cli.invocation import CommandError

if TYPE_CHECKING:
    from coordinator.config import Config

DEFAULT_TIMEOUT_S = 5.0  # where no configuration is read


def load_configuration(path: str | None) -> Config:
    """The configuration in the file at `path`, or in the default one. Raises CommandError."""
    from coordinator import config
    from coordinator.errors import StartupError

    try:
        return config.load(None if path is None else Path(path))
    except StartupError as error:
        raise CommandError(str(error)) from error


def locate(config: str | None, socket: str | None) -> tuple[str, float]:
    """The admin socket's path, and the time in seconds that a request may take.

    A socket that is named needs no configuration, so none is read. Raises CommandError.
    """
    if socket is not None and config is None:
        return socket, DEFAULT_TIMEOUT_S
    settings = load_configuration(config)
    return socket or str(settings.unix_socket), settings.cli_timeout
