"""The server itself and its state of health: `serve`, `configtest`, `health`, `version`, `completion`."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from coordinator.cli.grammar import Command, flag
from coordinator.cli.invocation import CommandError, Invocation, pass_invocation
from coordinator.cli.location import load_configuration

if TYPE_CHECKING:
    from coordinator.config import Config


@click.command(
    "serve",
    cls=Command,
    epilog="""
    coordinator serve
    coordinator serve --config /etc/coordinator/config.yaml
    coordinator serve --listen-addr 127.0.0.1:8081 --state-dir ./second --socket ./second/admin.sock
    """,
)
@flag(
    "--listen-addr",
    metavar="ADDRESS:PORT",
    help="Where nodes connect, instead of the configuration's listen_addr.",
)
@flag(
    "--state-dir",
    metavar="PATH",
    help="Directory of database and keys, instead of the configuration's state_dir.",
)
@pass_invocation
def serve(invocation: Invocation, listen_addr: str | None, state_dir: str | None) -> None:
    """Run the coordinator in the foreground, until SIGINT or SIGTERM.

    Without a configuration file it listens on port 8080 and keeps its state in /var/lib/coordinator. Several
    run on one machine when each has its own --listen-addr, --state-dir and --socket.
    """
    config = _overridden(invocation, listen_addr, state_dir)
    with _startup_errors():
        from coordinator import app

        app.serve(config)


@click.command("configtest", cls=Command, epilog="coordinator configtest --config ./config.yaml")
@pass_invocation
def configtest(invocation: Invocation) -> None:
    """Check the configuration, the keys and the database, and change nothing. Silent if all is well."""
    config = load_configuration(invocation.config)
    with _startup_errors():
        from coordinator import app

        app.check(config)


def _overridden(invocation: Invocation, listen_addr: str | None, state_dir: str | None) -> Config:
    """The configuration with the flags in place of its values."""
    from coordinator.config_values import WrongValue, read_listen_address, read_path

    config = load_configuration(invocation.config)
    try:
        if listen_addr is not None:
            config = replace(config, listen_addr=read_listen_address(listen_addr))
    except WrongValue as wrong:
        raise CommandError(f'--listen-addr: {wrong}, not "{listen_addr}"') from wrong
    if state_dir is not None:
        config = replace(config, state_dir=read_path(state_dir).absolute())
    if invocation.socket is not None:
        config = replace(config, unix_socket=read_path(invocation.socket).absolute())
    return config


@contextmanager
def _startup_errors() -> Iterator[None]:
    """What the server cannot start with, as a failure of the command."""
    from coordinator.errors import StartupError

    try:
        yield
    except StartupError as error:
        raise CommandError(str(error)) from error


@click.command("health", cls=Command)
@pass_invocation
def health(invocation: Invocation) -> None:
    """Ask the running coordinator whether it and its database are well."""
    reply = invocation.client.get("health")
    invocation.emit(reply, "The coordinator and its database answer")


@click.command("version", cls=Command)
@pass_invocation
def version(invocation: Invocation) -> None:
    """Print the version of this program and what it runs on."""
    from coordinator import __version__

    system = f"{platform.system().lower()}/{platform.machine()}"
    document = {
        "version": __version__,
        "python": {
            "version": platform.python_version(),
            "os": platform.system().lower(),
            "arch": platform.machine(),
        },
    }
    invocation.emit(
        document, f"coordinator version {__version__}\nrunning on Python {platform.python_version()} {system}"
    )


def print_version(context: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    """`coordinator --version`: the version alone, and no more of the line."""
    from coordinator import __version__

    if wanted and not context.resilient_parsing:
        click.echo(f"coordinator version {__version__}")
        context.exit()


@click.command("completion", cls=Command, epilog='eval "$(coordinator completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="SHELL")
@pass_invocation
def completion(invocation: Invocation, shell: str) -> None:
    """Print the script that completes `coordinator` in SHELL: bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root()
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(root.command, {}, root.info_name or "", f"_{root.info_name}_COMPLETE".upper()).source()
    click.echo(script, nl=False)
