"""What every command has in hand: the daemon it talks to."""

from __future__ import annotations

import click

from meshnode.cli.local_client import LocalClient, socket_path


def given_socket(ctx: click.Context) -> str | None:
    """The value of `--socket` on this line, if it is there."""
    remembered = ctx.ensure_object(dict)
    value = remembered.get("socket")
    return str(value) if value is not None else None


def local_client(ctx: click.Context) -> LocalClient:
    """The daemon that this line means."""
    return LocalClient(socket_path(given_socket(ctx)))
