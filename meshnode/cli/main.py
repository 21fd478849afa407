"""The root of the command line, and how each failure becomes one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from meshnode import __version__
from meshnode.cli.errors import EXIT_FAILED, EXIT_USAGE
from meshnode.cli.grammar import LazyGroup, explain, socket_option

PROGRAM = "meshnode"
EXIT_INTERRUPTED = 130

COMMANDS = {
    "up": ("meshnode.cli.up", "Connect, and log in where needed"),
    "down": ("meshnode.cli.down", "Disconnect, and stay logged in"),
    "login": ("meshnode.cli.login", "Log in again, or to another coordinator"),
    "logout": ("meshnode.cli.logout", "Disconnect, and expire this node's key"),
    "set": ("meshnode.cli.set", "Change single settings"),
    "status": ("meshnode.cli.status", "Show this node and its peers"),
    "ip": ("meshnode.cli.ip", "Show addresses in the mesh"),
    "ping": ("meshnode.cli.ping", "Ping a peer, and show which way the answer came"),
    "netcheck": ("meshnode.cli.netcheck", "Show what the network lets through, and how far relays are"),
    "metrics": ("meshnode.cli.metrics", "Show counters, in Prometheus's format"),
    "debug": ("meshnode.cli.debug", "Look into the node: paths to peers, relays"),
    "version": ("meshnode.cli.version", "Show the version"),
    "daemon": ("meshnode.cli.daemon", "Run the node in the foreground"),
}


@click.group(
    cls=LazyGroup,
    where=COMMANDS,
    context_settings={"help_option_names": ["--help", "-h"]},
)
@click.option(
    "--version",
    "-V",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, wanted: _show_version(ctx) if wanted else None,
    help="Show the version.",
)
def root() -> None:
    """A node of a mesh VPN of your own machines: WireGuard between them, a coordinator of yours in charge."""


root.params.append(socket_option())


def _show_version(ctx: click.Context) -> None:
    click.echo(__version__)
    ctx.exit()


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line. Returns its exit status; what went wrong is already printed."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = root.main(line or ["--help"], prog_name=PROGRAM, obj={}, standalone_mode=False)
    except click.UsageError as error:
        return _fail(explain(error), EXIT_USAGE)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to complain of at exit
        return EXIT_FAILED
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    click.echo(f"{PROGRAM}: {message}", err=True)
    return status


def main() -> None:
    """The `meshnode` command."""
    sys.exit(run())
