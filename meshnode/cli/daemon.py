"""`meshnode daemon`: run the node in the foreground."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from meshnode.cli.errors import CommandError
from meshnode.cli.grammar import Command, flag, switch
from meshnode.cli.local_client import SOCKET_VARIABLE
from meshnode.cli.session import given_socket

if TYPE_CHECKING:
    from meshnode.config import DaemonConfig


@click.command("daemon", cls=Command)
@flag(
    "--config",
    metavar="FILE",
    help="Configuration file (default: /etc/meshnode/config.yaml where it exists).",
)
@flag("--state-dir", metavar="DIR", help="Where keys and settings are kept (default /var/lib/meshnode).")
@flag("--tun", "--interface", metavar="NAME", help="Name of the network interface (default mesh0).")
@flag("--port", type=int, metavar="PORT", help="UDP port of WireGuard, 0: any (default 41641).")
@flag("--mtu", type=int, metavar="BYTES", help="MTU of the network interface (default 1280).")
@switch(
    "--port-mapping", help="Have the router map a port, by PCP, NAT-PMP or UPnP (default; =false: do not)."
)
@switch("--spray", help="Try hard NATs with many sockets for a few seconds (default; =false: do not).")
@switch("--verbose", help="Log more.")
@switch("--cleanup", default=False, help="Undo what a crashed daemon left on this host, and end.")
@click.pass_context
def command(
    ctx: click.Context,
    config: str | None,
    state_dir: str | None,
    tun: str | None,
    port: int | None,
    mtu: int | None,
    port_mapping: bool | None,
    spray: bool | None,
    verbose: bool | None,
    cleanup: bool,
) -> None:
    """Run the node in the foreground, until SIGTERM or Ctrl-C. Needs root.

    The other commands talk to it over its socket. All that it changes on the host is undone at the end; what
    a crashed predecessor left is undone at the start.
    """
    import os

    from meshnode.config import InvalidConfig, load_config

    settings = {
        "state_dir": state_dir,
        "socket": given_socket(ctx) or os.environ.get(SOCKET_VARIABLE) or None,
        "tun": tun,
        "port": port,
        "mtu": mtu,
        "port_mapping": port_mapping,
        "spray": spray,
        "verbose": verbose,
    }
    try:
        chosen = load_config(Path(config) if config else None, settings)
    except InvalidConfig as error:
        raise CommandError(str(error)) from error
    _run(chosen, cleanup)


def _run(config: DaemonConfig, cleanup: bool) -> None:
    from meshnode.daemon import CannotGoOn, run_cleanup, run_daemon

    try:
        if not cleanup:
            run_daemon(config)
            return
        for line in run_cleanup(config):
            click.echo(line)
    except CannotGoOn as error:
        raise CommandError(str(error)) from error
