"""`coordinator preauthkeys`: credentials with which nodes join without a person."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from coordinator.cli.grammar import Group, flag
from coordinator.cli.invocation import CommandError, Invocation, pass_invocation
from coordinator.cli.values import KEY_ID

preauthkeys = Group(
    name="preauthkeys",
    aliases=("preauthkey", "authkey", "pre"),
    help="Keys with which nodes join without a person: `meshnode up --authkey KEY`.",
)

_key_id = flag(
    "-i", "--id", "identifier", type=KEY_ID, metavar="ID", help="The key's ID, as `list` shows it."
)


@preauthkeys.command(
    "create",
    aliases=("c", "new"),
    epilog="""
    coordinator preauthkeys create --user ana
    coordinator preauthkeys create --user ana --reusable --expiration 90d
    coordinator preauthkeys create --tags tag:server,tag:web --ephemeral
    """,
)
@flag(
    "-u",
    "--user",
    former=("-n", "--namespace"),
    metavar="ID|NAME",
    help="The user who will own the nodes, by ID or name. Not needed with --tags.",
)
@flag("--reusable", is_flag=True, help="Any number of nodes may join with the key; without it, one.")
@flag(
    "--ephemeral", is_flag=True, help="Nodes that join with it are deleted once they have been away a while."
)
@flag(
    "-e",
    "--expiration",
    default="1h",
    show_default=True,
    metavar="DURATION",
    help="How long the key can be used, such as 30m, 24h, 90d or 1d12h. Nodes that joined stay.",
)
@flag(
    "--tags",
    multiple=True,
    metavar="TAG,…",
    help="Tags of the nodes that join with it, such as tag:server. Tags own such nodes, no user does.",
)
@pass_invocation
def create(
    invocation: Invocation,
    user: str | None,
    reusable: bool,
    ephemeral: bool,
    expiration: str,
    tags: tuple[str, ...],
) -> None:
    """Create a pre-auth key and print it. It is shown this once; the coordinator keeps only its hash."""
    from coordinator.cli.durations import to_rfc3339
    from coordinator.cli.lists import split_list
    from coordinator.cli.targets import find_user

    wish: dict[str, Any] = {
        "reusable": reusable,
        "ephemeral": ephemeral,
        "expiration": to_rfc3339(datetime.now(UTC) + _lifetime(expiration)),
        "aclTags": split_list(tags),
    }
    if not user and not wish["aclTags"]:
        raise CommandError("a pre-auth key needs an owner: give --user with an ID or a name, or --tags")
    if user:
        wish["user"] = find_user(invocation.client, user)["id"]
    key = invocation.client.post("preauthkey", body=wish)["preAuthKey"]
    invocation.emit(key, key["key"])


@preauthkeys.command("list", aliases=("ls", "show"))
@flag("-u", "--user", former=("-n", "--namespace"), metavar="ID|NAME", help="Only the keys of this user.")
@pass_invocation
def list_keys(invocation: Invocation, user: str | None) -> None:
    """List pre-auth keys. The keys themselves are masked: they were shown when they were created."""
    from coordinator.cli.targets import find_user

    client = invocation.client
    query = {"user": find_user(client, user)["id"]} if user else {}
    keys = client.get("preauthkey", **query)["preAuthKeys"]
    invocation.emit(keys, lambda: _table(keys))


@preauthkeys.command("expire", aliases=("revoke", "exp", "e"), epilog="coordinator preauthkeys expire --id 3")
@_key_id
@flag("-u", "--user", former=("-n", "--namespace"), metavar="ID|NAME", help="The owner of KEY; not needed.")
@click.argument("key", required=False, metavar="[KEY]")
@pass_invocation
def expire(invocation: Invocation, identifier: int | None, user: str | None, key: str | None) -> None:
    """End a key's life now: no further node joins with it. Nodes that joined stay.

    Instead of --id, KEY names it: the key itself, or its masked form as `list` shows it.
    """
    chosen = _find(invocation, identifier, key)
    invocation.client.post("preauthkey", "expire", body={"id": chosen}, absent=_no_such_key(chosen))
    invocation.emit({}, "Key expired")


@preauthkeys.command("delete", aliases=("del", "rm", "d"), epilog="coordinator preauthkeys delete --id 3")
@_key_id
@pass_invocation
def delete(invocation: Invocation, identifier: int | None) -> None:
    """Delete a key. Nodes that joined with it stay."""
    chosen = _find(invocation, identifier, None)
    reply = invocation.client.delete("preauthkey", id=chosen, absent=_no_such_key(chosen))
    invocation.emit(reply, "Key deleted")


def _find(invocation: Invocation, identifier: int | None, key: str | None) -> str:
    """The ID of the key that the line names. Raises CommandError."""
    from coordinator.cli.targets import LIST_KEYS

    if identifier is not None:
        return str(identifier)
    if key and key.isdecimal():
        return key
    if not key:
        raise CommandError(f"missing --id parameter: name the key by its ID; {LIST_KEYS}")
    for known in invocation.client.get("preauthkey")["preAuthKeys"]:
        stem = known["key"].removesuffix("***")
        if stem and key.startswith(stem):
            return str(known["id"])
    raise CommandError(f"no pre-auth key begins like the one given; {LIST_KEYS}")


def _no_such_key(identifier: str) -> str:
    from coordinator.cli.targets import LIST_KEYS

    return f"no pre-auth key with ID {identifier}; {LIST_KEYS}"


def _lifetime(text: str) -> Any:
    from coordinator.cli.durations import MalformedTime, parse_duration

    try:
        lifetime = parse_duration(text)
        datetime.now(UTC) + lifetime
    except (MalformedTime, OverflowError) as error:
        raise CommandError(f"parsing duration: {error}") from None
    if not lifetime:
        raise CommandError(f'parsing duration: "{text}" leaves the key no time to be used')
    return lifetime


def _table(keys: list[dict[str, Any]]) -> str:
    from coordinator.cli.output import Cell, Coloured, parse_time, table, when

    now = datetime.now(UTC)
    rows: list[list[Cell]] = []
    for key in keys:
        ends = parse_time(key["expiration"])
        owner = key["aclTags"] or (key["user"] or {}).get("name") or "-"
        rows.append(
            [
                key["id"],
                key["key"],
                str(key["reusable"]).lower(),
                str(key["ephemeral"]).lower(),
                str(key["used"]).lower(),
                Coloured(when(key["expiration"], absent="-"), is_good=ends is None or ends > now),
                when(key["createdAt"]),
                owner,
            ]
        )
    columns = ["ID", "Key/Prefix", "Reusable", "Ephemeral", "Used", "Expiration", "Created", "Owner"]
    return table(columns, rows)
