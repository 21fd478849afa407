"""`meshnode version`."""

from __future__ import annotations

import json

import click

from meshnode import __version__
from meshnode.cli.grammar import Command, switch
from meshnode.cli.session import local_client
from meshnode.dataplane import KERNEL, WHY_PURE


@click.command("version", cls=Command)
@switch("--daemon", default=False, help="Show the running daemon's version too.")
@switch("--json", "as_json", default=False, help="Print for programs.")
@click.pass_context
def command(ctx: click.Context, daemon: bool, as_json: bool) -> None:
    """Show the version."""
    running = local_client(ctx).status(peers=False)["Version"] if daemon else None
    if as_json:
        document = {"client": __version__} | ({"daemon": running} if daemon else {})
        document |= {"kernel": KERNEL, "whyPure": WHY_PURE}
        click.echo(json.dumps(document, indent=2))
    elif daemon:
        click.echo(f"Client: {__version__}\nDaemon: {running}")
    else:
        click.echo(__version__)
