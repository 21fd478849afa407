"""`coordinator users`: the owners of nodes."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import click

from coordinator.cli.grammar import Group, flag
from coordinator.cli.invocation import CommandError, Invocation, pass_invocation
from coordinator.cli.values import USER_ID

users = Group(
    name="users",
    aliases=("user", "namespaces", "namespace", "ns"),
    help="Owners of nodes: create, list, rename and destroy them.",
)

_which_user = (
    flag("-i", "--identifier", type=USER_ID, metavar="ID", help="The user's ID."),
    flag("-n", "--name", metavar="NAME", help="The user's name."),
)


@users.command(
    "create",
    aliases=("c", "new"),
    epilog="""
    coordinator users create ana
    coordinator users create ana --display-name "Ana B." --email ana@example.org
    """,
)
@click.argument("name", metavar="NAME")
@flag("-d", "--display-name", default="", metavar="TEXT", help="Name shown beside the user's nodes.")
@flag("-e", "--email", default="", metavar="ADDRESS", help="The user's e-mail address.")
@flag("-p", "--picture-url", default="", metavar="URL", help="Address of a picture of the user.")
@pass_invocation
def create(invocation: Invocation, name: str, display_name: str, email: str, picture_url: str) -> None:
    """Create a user, who may then own nodes.

    NAME has at least two characters: first a letter, then letters, digits, `-`, `.`, `_` and at most one `@`.
    """
    _require_url(picture_url)
    wish = {"name": name, "displayName": display_name, "email": email, "pictureUrl": picture_url}
    user = invocation.client.post("user", body=wish)["user"]
    invocation.emit(user, "User created")


@users.command("list", aliases=("ls", "show"))
@flag("-i", "--identifier", type=USER_ID, metavar="ID", help="Only the user with this ID.")
@flag("-n", "--name", metavar="NAME", help="Only the user with this name.")
@flag("-e", "--email", metavar="ADDRESS", help="Only users with this e-mail address.")
@pass_invocation
def list_users(invocation: Invocation, identifier: int | None, name: str | None, email: str | None) -> None:
    """List users. Of several filters one counts: the ID, else the name, else the e-mail address."""
    if identifier is not None:
        query = {"id": str(identifier)}
    else:
        query = {"name": name} if name else {"email": email} if email else {}
    found = invocation.client.get("user", **query)["users"]
    invocation.emit(found, lambda: _table(found))


@users.command("rename", aliases=("mv",), epilog="coordinator users rename --name ana --new-name ana-b")
@_which_user[0]
@_which_user[1]
@flag("-r", "--new-name", required=True, metavar="NAME", help="The name from now on.")
@pass_invocation
def rename(invocation: Invocation, identifier: int | None, name: str | None, new_name: str) -> None:
    """Give a user another name. Its nodes and keys stay its own."""
    user = _find(invocation, identifier, name)
    renamed = invocation.client.post("user", user["id"], "rename", new_name)["user"]
    invocation.emit(renamed, "User renamed")


@users.command("destroy", aliases=("delete",), epilog="coordinator users destroy --name ana")
@_which_user[0]
@_which_user[1]
@pass_invocation
def destroy(invocation: Invocation, identifier: int | None, name: str | None) -> None:
    """Delete a user and its pre-auth keys. Refused while the user owns nodes."""
    user = _find(invocation, identifier, name)
    question = (
        f'Do you want to remove the user "{user["name"]}" ({user["id"]}) and any associated preauthkeys?'
    )
    if not invocation.confirm(question):
        invocation.emit({"Result": "User not destroyed"}, "User not destroyed")
        return
    invocation.emit(invocation.client.delete("user", user["id"]), "User destroyed")


def _find(invocation: Invocation, identifier: int | None, name: str | None) -> dict[str, Any]:
    from coordinator.cli.targets import find_user

    wanted = str(identifier) if identifier is not None else name
    if not wanted:
        raise CommandError("--name or --identifier flag is required: name the user to change")
    return find_user(invocation.client, wanted)


def _require_url(text: str) -> None:
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise CommandError(f'invalid picture URL: "{text}": {error}') from None
    if text and not (parts.scheme and parts.netloc):
        raise CommandError(f'invalid picture URL: "{text}": write it like https://example.org/ana.png')


def _table(found: list[dict[str, Any]]) -> str:
    from coordinator.cli.output import table, when

    rows = [[u["id"], u["displayName"], u["name"], u["email"], when(u["createdAt"])] for u in found]
    return table(["ID", "Name", "Username", "Email", "Created"], rows)
