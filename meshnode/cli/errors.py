"""How a command fails: one line on stderr and an exit status (node behaviour §2.11)."""

from __future__ import annotations

import click

EXIT_FAILED = 1
EXIT_USAGE = 2


class CommandError(click.ClickException):
    """A failure that the user sees as one line: what is wrong, and what to do about it."""

    exit_code = EXIT_FAILED


class DaemonNotRunning(CommandError):
    """Nobody answers on the socket."""


class AccessDenied(CommandError):
    """The daemon answers, but not to this user."""
