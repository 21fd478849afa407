"""Connecting as `up` and `login` do: start, show what a person must do, wait until the node runs."""

from __future__ import annotations

import time
from pathlib import Path

import click

from meshnode.cli.errors import CommandError
from meshnode.cli.local_client import LocalClient, WatchTimeout
from meshnode.cli.status import health_lines

INITIAL_STATE = 2
"""The bit of the watch mask that asks for the state first."""
NEEDS_MACHINE_AUTH = 3
RUNNING = 6
FILE_PREFIX = "file:"
REGISTER_PATH = "/register/"


class StillTrying(CommandError):
    """The wait is over, but the daemon goes on."""


def read_auth_key(given: str | None) -> str:
    """The key that the flag means. Raises CommandError."""
    if given is None:
        return ""
    key = given
    if given.startswith(FILE_PREFIX):
        path = given.removeprefix(FILE_PREFIX)
        try:
            key = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise CommandError(f"cannot read the auth key from {path}: {reason}") from error
    key = key.strip()
    if not key or any(character.isspace() for character in key):
        raise CommandError(
            "the auth key is empty or has blanks in it; give the whole key that the coordinator made"
        )
    return key


def wait_until_running(client: LocalClient, timeout_s: float) -> None:
    """Wait, showing what a person must do meanwhile. 0 is for ever. Raises CommandError."""
    deadline = time.monotonic() + timeout_s if timeout_s else None
    shown: set[str] = set()
    watch = client.watch(INITIAL_STATE)
    try:
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.001)
            notification = watch.next(left)
            if message := notification.get("ErrMessage"):
                raise CommandError(str(message))
            if url := notification.get("BrowseToURL"):
                _show(login_invitation(str(url)), shown)
            if notification.get("State") == NEEDS_MACHINE_AUTH:
                _show("\nThis machine must be approved by an administrator of the coordinator.\n", shown)
            if notification.get("State") == RUNNING:
                break
    except WatchTimeout as error:
        raise StillTrying(
            f"not connected within {timeout_s:g} s; the daemon goes on trying, see: meshnode status"
        ) from error
    finally:
        watch.close()
    if shown:
        click.echo("Success.", err=True)
    health = health_lines(client.status(peers=False))
    if health:
        click.echo(health, err=True)


def login_invitation(url: str) -> str:
    """What a person must do to let this node in: by the browser, or on the coordinator's machine."""
    text = f"\nTo authenticate, visit:\n\n\t{url}\n\n"
    _, found, registration_id = url.partition(REGISTER_PATH)
    if found:
        command = f"coordinator nodes register --key {registration_id} --user USERNAME"
        text += f"or, on the coordinator:\n\n\t{command}\n\n"
    return text.removesuffix("\n")


def _show(text: str, shown: set[str]) -> None:
    if text not in shown:
        shown.add(text)
        click.echo(text, err=True)
