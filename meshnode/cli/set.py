"""`meshnode set`: change single settings."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from meshnode.cli import flags
from meshnode.cli.grammar import Command
from meshnode.cli.session import local_client
from meshnode.cli.settings import Flags, changes, overlay
from meshnode.prefs import Prefs


@click.command("set", cls=Command)
@flags.preferences
@click.pass_context
def command(ctx: click.Context, /, **settings: Any) -> None:
    """Change the settings that are mentioned, and no others."""
    given = Flags(**settings)
    if not given.given:
        click.echo(ctx.get_help())
        return
    client = local_client(ctx)
    current = msgspec.convert(client.prefs(), Prefs)
    status = client.status() if given.exit_node else {}
    client.edit_prefs(changes(current, overlay(current, given, status)))
