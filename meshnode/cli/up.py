"""`meshnode up`: connect, with all settings as the line says them."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import click
import msgspec

from meshnode.cli import flags
from meshnode.cli.connecting import StillTrying, read_auth_key, wait_until_running
from meshnode.cli.errors import CommandError
from meshnode.cli.grammar import Command, flag, switch
from meshnode.cli.local_client import LocalClient
from meshnode.cli.session import given_socket, local_client
from meshnode.cli.settings import Flags, Json, check_mentions, masked, overlay
from meshnode.cli.start_daemon import DaemonFlags, ensure_daemon
from meshnode.prefs import Prefs


@click.command("up", cls=Command)
@flags.login_server
@flags.auth_key
@flags.preferences
@switch("--reset", default=False, help="Return settings that are not mentioned to their defaults.")
@switch("--force-reauth", default=False, help="Log in again although this node is logged in.")
@flags.timeout
@flag("--state-dir", metavar="DIR", help="For a daemon that is started now: where it keeps its state.")
@flag("--tun", metavar="NAME", help="For a daemon that is started now: its network interface.")
@flag(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="For a daemon that is started now: its UDP port.",
)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    auth_key: str | None,
    reset: bool,
    force_reauth: bool,
    timeout: float,
    state_dir: str | None,
    tun: str | None,
    port: int | None,
    **settings: Any,
) -> None:
    """Connect, and log in where needed. Starts the daemon in the background where none runs.

    The line describes the whole wanted state: settings that differ from their defaults must be mentioned, or
    given up with --reset. Without any setting, the node connects as it was. To change single settings, use
    `meshnode set`.
    """
    given = Flags(**settings)
    overlay(Prefs(), without_names(given), {})  # mistakes in the line, before anything is started
    key = read_auth_key(auth_key)
    client = local_client(ctx)
    is_new = ensure_daemon(client, DaemonFlags(state_dir, tun, port))
    try:
        bring_up(client, given, key, reset=reset, force=force_reauth, program=program_words(ctx))
        wait_until_running(client, timeout)
    except StillTrying:
        raise
    except CommandError:
        if is_new:
            client.shutdown()
        raise


def bring_up(
    client: LocalClient, given: Flags, auth_key: str, *, reset: bool, force: bool, program: list[str]
) -> None:
    """Ask the daemon for what the line wants. Raises CommandError, and nothing has changed."""
    current = msgspec.convert(client.prefs(), Prefs)
    status = client.status()
    wanted = wanted_prefs(current, given, status, reset=reset, program=program)
    if not wanted.control_url:
        raise CommandError("which coordinator? name it with --login-server, as in https://vpn.example.org")
    is_running = status["BackendState"] == "Running"
    is_elsewhere = wanted.control_url != current.control_url
    if is_running and is_elsewhere and not force:
        raise CommandError(f"this node is connected to {current.control_url}; to move it, add --force-reauth")
    if is_running and not (auth_key or force):
        client.edit_prefs(masked(wanted))
        return
    options: Json = {"UpdatePrefs": msgspec.to_builtins(wanted), "AuthKey": auth_key, "ForceLogin": force}
    client.start(options)


def wanted_prefs(current: Prefs, given: Flags, status: Json, *, reset: bool, program: list[str]) -> Prefs:
    """The whole wanted state. Raises CommandError when the line forgets settings."""
    if not given.given and not reset:
        return msgspec.structs.replace(current, want_running=True)
    user = os.environ.get("SUDO_USER") or os.environ.get("USER", "")
    base = Prefs(want_running=True)
    if reset:
        base = msgspec.structs.replace(base, control_url=current.control_url)
    elif current.control_url:
        check_mentions(current, given, user=user, program=program)
        base = msgspec.structs.replace(base, operator_user=current.operator_user)
    return overlay(base, given, status)


def without_names(given: Flags) -> Flags:
    """The line as far as it can be checked without a daemon: an exit node's name needs the map."""
    if given.exit_node:
        return dataclasses.replace(given, exit_node="192.0.2.1")
    return given


def program_words(ctx: click.Context) -> list[str]:
    """How a complete line begins on this host."""
    socket = given_socket(ctx)
    return ["meshnode", "up", *([f"--socket={socket}"] if socket else [])]
