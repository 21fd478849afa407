"""The whole command line: the root command, and how each failure becomes one line and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from coordinator.cli.arguments import hoist, requested_format
from coordinator.cli.auth import auth
from coordinator.cli.debug import debug, generate
from coordinator.cli.grammar import SWITCHES, Group, did_you_mean
from coordinator.cli.invocation import OUTPUT_FORMATS, Invocation
from coordinator.cli.nodes import nodes
from coordinator.cli.preauthkeys import preauthkeys
from coordinator.cli.server import completion, configtest, health, print_version, serve, version
from coordinator.cli.users import users

PROGRAM = "coordinator"

root = Group(
    name=PROGRAM,
    help="""The control server of a mesh of your own machines, and the commands that administer it.

    `serve` runs the server. All other commands talk to it over its unix socket, so they are run on the
    server's machine by root or by a member of the socket's group.

    Flags may stand anywhere on the line. Every failure prints one line and exits with status 1.
    """,
    epilog="""
    coordinator serve                                      run the server
    coordinator users create ana                           an owner for nodes
    coordinator preauthkeys create --user ana              a key with which one node may join
    coordinator nodes register --user ana --key ID         let in a node that asked
    coordinator nodes approve-routes -i 1 -r 192.168.0.0/24
    """,
)
root.params.insert(
    0,
    click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=print_version,
        help="Print the version.",
    ),
)
for command in (
    serve,
    users,
    nodes,
    preauthkeys,
    auth,
    health,
    version,
    configtest,
    debug,
    generate,
    completion,
):
    root.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line. Returns its exit status; what went wrong is already printed."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    output = requested_format(line)
    try:
        status = root.main(
            hoist(line, root, SWITCHES), prog_name=PROGRAM, obj=Invocation(), standalone_mode=False
        )
    except click.Abort:
        return _fail("interrupted", output, status=130)
    except click.UsageError as error:
        return _fail(_explain(error), output)
    except click.ClickException as error:
        return _fail(error.format_message(), output)
    except BrokenPipeError:
        _forget_stdout()
        return 1
    except OSError as error:
        return _fail(str(error), output)
    return status if isinstance(status, int) else 0


def _fail(message: str, output: str, status: int = 1) -> int:
    if output in OUTPUT_FORMATS:
        from coordinator.cli.output import dump

        click.echo(dump({"error": message}, output), err=True, nl=False)
    else:
        click.echo(f"Error: {message}", err=True)
    return status


def _explain(error: click.UsageError) -> str:
    """A mistake on the line, and where the right way to write it is described."""
    if isinstance(error, click.NoSuchOption):
        known = [] if error.ctx is None else [o for p in error.ctx.command.params for o in p.opts]
        message = f"unknown flag {error.option_name}{did_you_mean(error.option_name, known)}"
    elif isinstance(error, click.BadParameter) and isinstance(error.param, click.Option):
        message = f"{error.param.opts[-1]}: {error.message}"
    else:
        message = error.format_message().rstrip(".")
        message = message[:1].lower() + message[1:]
    says_fix = any(fix in message for fix in ("did you mean", "usage:", "`"))
    return message if says_fix or error.ctx is None else f"{message}; see `{error.ctx.command_path} --help`"


def _forget_stdout() -> None:
    """The reader of our output has gone: keep the interpreter from complaining of it at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
