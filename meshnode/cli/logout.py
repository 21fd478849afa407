"""`meshnode logout`: disconnect and give the login up."""

from __future__ import annotations

import click

from meshnode.cli.grammar import Command
from meshnode.cli.session import local_client


@click.command("logout", cls=Command)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Disconnect, and expire this node's key at the coordinator.

    Settings are kept. `meshnode up` asks for a new login.
    """
    warning = local_client(ctx).logout()
    if warning:
        click.echo(f"Warning: {warning}", err=True)
