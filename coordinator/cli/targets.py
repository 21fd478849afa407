"""Finding what a flag names: a user by id or name, a node by id. What is missing is said, and how to list."""

from __future__ import annotations

from typing import Any

from coordinator.cli.client import Client
from coordinator.cli.invocation import CommandError

LIST_USERS = "list them with `coordinator users list`"
LIST_NODES = "list them with `coordinator nodes list`"
LIST_KEYS = "list them with `coordinator preauthkeys list`"


def find_user(client: Client, wanted: str) -> dict[str, Any]:
    """The user of that id or name. Names begin with a letter, so digits are an id. Raises CommandError."""
    is_id = wanted.isdecimal()
    found = client.get("user", **({"id": wanted} if is_id else {"name": wanted}))["users"]
    if not found:
        raise CommandError(f"{no_such_user(wanted)}; {LIST_USERS}")
    if len(found) > 1:
        raise CommandError(f'several users are called "{wanted}"; name one by its ID: {LIST_USERS}')
    user: dict[str, Any] = found[0]
    return user


def no_such_user(wanted: str) -> str:
    """`no user with ID 7` or `no user named "ana"`."""
    return f"no user with ID {wanted}" if wanted.isdecimal() else f'no user named "{wanted}"'


def no_such_node(identifier: int) -> str:
    """The whole message for a node that is not there."""
    return f"no node with ID {identifier}; {LIST_NODES}"


def find_node(client: Client, identifier: int) -> dict[str, Any]:
    """The node of that id. Raises CommandError."""
    node: dict[str, Any] = client.get("node", identifier, absent=no_such_node(identifier))["node"]
    return node
