"""One run of the command line: where the coordinator is, how to print, and whether to ask."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from coordinator.cli.client import Client

OUTPUT_FORMATS = ("json", "json-line", "yaml")
_YES = frozenset({"y", "yes", "sure"})


class CommandError(click.ClickException):
    """A failure that the user sees as one line: what is wrong, and what to do about it."""


@dataclass
class Invocation:
    """The values of the flags that every command takes."""

    config: str | None = None
    socket: str | None = None
    output: str = ""
    force: bool = False

    @cached_property
    def client(self) -> Client:
        """The running coordinator, by its unix socket."""
        from coordinator.cli.client import Client
        from coordinator.cli.location import locate

        return Client(*locate(self.config, self.socket))

    def emit(self, document: Any, human: str | Callable[[], str]) -> None:
        """Print `document` in the machine format asked for, else the text (or what makes it) for people."""
        if self.output:
            from coordinator.cli.output import dump

            click.echo(dump(document, self.output), nl=False)
        else:
            click.echo(human if isinstance(human, str) else human())

    def confirm(self, question: str) -> bool:
        """Ask on stderr; `--force` answers yes. Anything but y, yes or sure, and an end of input, is no."""
        if self.force:
            return True
        click.echo(f"{question} [y/n] ", nl=False, err=True)
        answer = sys.stdin.readline()
        if not answer.endswith("\n"):
            click.echo(err=True)
        return answer.strip().lower() in _YES


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)
