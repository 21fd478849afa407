"""`meshnode down`: disconnect and stay logged in."""

from __future__ import annotations

import click

from meshnode.cli.grammar import Command, switch
from meshnode.cli.session import local_client


@click.command("down", cls=Command)
@switch("--stop-daemon", default=False, help="End the daemon too.")
@click.pass_context
def command(ctx: click.Context, stop_daemon: bool) -> None:
    """Disconnect, and stay logged in.

    Routes, rules and addresses of the mesh are removed from this host. `meshnode up` connects again.
    """
    client = local_client(ctx)
    if client.prefs().get("WantRunning"):
        client.edit_prefs({"WantRunning": False, "WantRunningSet": True})
    else:
        click.echo("meshnode was already stopped.", err=True)
    if stop_daemon:
        client.shutdown()
