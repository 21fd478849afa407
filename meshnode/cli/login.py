"""`meshnode login`: log in again, here or at another coordinator."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from meshnode.cli import flags
from meshnode.cli.connecting import read_auth_key, wait_until_running
from meshnode.cli.errors import CommandError
from meshnode.cli.grammar import Command
from meshnode.cli.session import local_client
from meshnode.cli.settings import Flags, overlay
from meshnode.prefs import Prefs


@click.command("login", cls=Command)
@flags.login_server
@flags.auth_key
@flags.preferences
@flags.timeout
@click.pass_context
def command(ctx: click.Context, /, auth_key: str | None, timeout: float, **settings: Any) -> None:
    """Log in again, with a new key, and connect. Settings that are not mentioned stay as they are.

    A connected node stays connected until the new login works.
    """
    key = read_auth_key(auth_key)
    client = local_client(ctx)
    current = msgspec.convert(client.prefs(), Prefs)
    wanted = overlay(current, Flags(**settings), client.status())
    if not wanted.control_url:
        raise CommandError("which coordinator? name it with --login-server, as in https://vpn.example.org")
    client.start({"UpdatePrefs": msgspec.to_builtins(wanted), "AuthKey": key, "ForceLogin": True})
    wait_until_running(client, timeout)
