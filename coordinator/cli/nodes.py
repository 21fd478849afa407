"""`coordinator nodes`: the machines of the mesh."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

import click

from coordinator.cli.auth import register_pending
from coordinator.cli.grammar import Group, flag
from coordinator.cli.invocation import CommandError, Invocation, pass_invocation
from coordinator.cli.values import NODE_ID

nodes = Group(
    name="nodes",
    aliases=("node", "machines", "machine"),
    help="The machines of the mesh: let them in, list, rename, expire and delete them, approve their routes.",
)

which_node = flag(
    "-i",
    "--identifier",
    type=NODE_ID,
    required=True,
    metavar="ID",
    help="The node's ID, as `nodes list` shows it.",
)
_of_user = flag(
    "-u", "--user", former=("-n", "--namespace"), metavar="NAME|ID", help="Only this user's nodes."
)
_with_tags = flag("-t", "--tags", is_flag=True, help="Accepted as before; tags are always shown.")


@nodes.command(
    "register", epilog="coordinator nodes register --user ana --key hskey-authreq-0123456789abcdef01234567"
)
@flag(
    "-u",
    "--user",
    former=("-n", "--namespace"),
    required=True,
    metavar="NAME|ID",
    help="The user who will own the node.",
)
@flag(
    "-k",
    "--key",
    required=True,
    metavar="ID",
    help="What the waiting node printed; its whole URL will do too.",
)
@pass_invocation
def register(invocation: Invocation, user: str, key: str) -> None:
    """Let in the node that waits for a person, and give it to a user. The same as `auth register`."""
    register_pending(invocation, user, key)


@nodes.command("list", aliases=("ls",))
@_of_user
@_with_tags
@pass_invocation
def list_nodes(invocation: Invocation, user: str | None, tags: bool) -> None:
    """List nodes, with their addresses and whether they are connected."""
    _print_nodes(invocation, user)


@nodes.command("show", epilog="coordinator nodes show -i 3")
@flag("-i", "--identifier", type=NODE_ID, metavar="ID", help="Show this node in full.")
@_of_user
@_with_tags
@pass_invocation
def show(invocation: Invocation, identifier: int | None, user: str | None, tags: bool) -> None:
    """Show one node in full; without --identifier, the same as `nodes list`."""
    if identifier is None:
        _print_nodes(invocation, user)
        return
    from coordinator.cli.node_views import detail
    from coordinator.cli.targets import find_node

    node = find_node(invocation.client, identifier)
    invocation.emit(node, lambda: detail(node))


@nodes.command(
    "expire",
    aliases=("logout", "exp", "e"),
    epilog="""
    coordinator nodes expire -i 3                                    now
    coordinator nodes expire -i 3 --expiry 2030-01-31T12:00:00Z
    coordinator nodes expire -i 3 --disable
    """,
)
@which_node
@flag(
    "-e",
    "--expiry",
    metavar="INSTANT",
    help="When, in RFC 3339, such as 2030-01-31T12:00:00Z; without it, now.",
)
@flag("-d", "--disable", is_flag=True, help="The node's key never expires; an expired node comes back.")
@pass_invocation
def expire(invocation: Invocation, identifier: int, expiry: str | None, disable: bool) -> None:
    """End a node's login, now or at an instant; it then has to log in again. With --disable: never."""
    from coordinator.cli.durations import MalformedTime, parse_instant, to_rfc3339
    from coordinator.cli.targets import no_such_node

    if disable and expiry is not None:
        raise CommandError("--disable and --expiry exclude each other: give one of them")
    now = datetime.now(UTC)
    try:
        at = parse_instant(expiry) if expiry is not None else now
    except MalformedTime as error:
        raise CommandError(f"parsing expiry: {error}") from None
    wish = {"disableExpiry": True} if disable else {"expiry": to_rfc3339(at)} if expiry else {}
    absent = no_such_node(identifier)
    node = invocation.client.post("node", identifier, "expire", body=wish, absent=absent)["node"]
    done = "Node expiry disabled" if disable else "Node expired" if at <= now else "Node expiration updated"
    invocation.emit(node, done)


@nodes.command("delete", aliases=("del",), epilog="coordinator nodes delete -i 3")
@which_node
@pass_invocation
def delete(invocation: Invocation, identifier: int) -> None:
    """Remove a node from the mesh. Its addresses become free; to come back it has to log in again."""
    from coordinator.cli.output import printable
    from coordinator.cli.targets import find_node, no_such_node

    node = find_node(invocation.client, identifier)
    result = "Node not deleted"
    if invocation.confirm(f"Do you want to remove the node {printable(node['name'])}?"):
        invocation.client.delete("node", identifier, absent=no_such_node(identifier))
        result = "Node deleted"
    invocation.emit({"Result": result}, result)


@nodes.command("rename", epilog="coordinator nodes rename -i 3 home-router")
@which_node
@click.argument("new_name", metavar="NEW_NAME")
@pass_invocation
def rename(invocation: Invocation, identifier: int, new_name: str) -> None:
    """Give a node another name in the mesh.

    NEW_NAME is a DNS label that no other node has: lower-case letters, digits and `-`, at most 63 characters.
    The node keeps it, whatever host name it reports later.
    """
    _change(invocation, identifier, "rename", new_name, done="Node renamed")


@nodes.command("move", aliases=("mv",), epilog="coordinator nodes move -i 3 --user ben")
@which_node
@flag(
    "-u",
    "--user",
    former=("-n", "--namespace"),
    required=True,
    metavar="ID|NAME",
    help="The user who owns the node from now on.",
)
@pass_invocation
def move(invocation: Invocation, identifier: int, user: str) -> None:
    """Give a node to another user. Its name, addresses and approved routes stay."""
    from coordinator.cli.targets import find_user

    owner = find_user(invocation.client, user)
    wish = {"user": owner["id"]}
    _change(invocation, identifier, "user", body=wish, done="Node moved to another user")


@nodes.command("tag", aliases=("tags", "t"), epilog="coordinator nodes tag -i 3 --tags tag:server,tag:web")
@which_node
@flag(
    "-t",
    "--tags",
    multiple=True,
    metavar="TAG,…",
    help="All tags of the node from now on, such as tag:server. At least one.",
)
@pass_invocation
def tag(invocation: Invocation, identifier: int, tags: tuple[str, ...]) -> None:
    """Set a node's tags. A tagged node belongs to its tags instead of a user, and its key never expires."""
    from coordinator.cli.lists import split_list

    _change(invocation, identifier, "tags", body={"tags": split_list(tags)}, done="Node updated")


@nodes.command("list-routes", aliases=("lsr", "routes"))
@flag("-i", "--identifier", type=NODE_ID, metavar="ID", help="Only the routes of this node.")
@pass_invocation
def list_routes(invocation: Invocation, identifier: int | None) -> None:
    """List routes: approved by you, available (advertised by the node), and serving traffic now."""
    from coordinator.cli.node_views import has_routes, routes
    from coordinator.cli.targets import find_node

    if identifier is None:
        known = invocation.client.get("node")["nodes"]
    else:
        known = [find_node(invocation.client, identifier)]
    routers = [node for node in known if has_routes(node)]
    invocation.emit(routers, lambda: routes(routers))


@nodes.command(
    "approve-routes",
    epilog="""
    coordinator nodes approve-routes -i 1 -r 192.168.0.0/24,10.1.0.0/16
    coordinator nodes approve-routes -i 2 -r 0.0.0.0/0,::/0          an exit node
    coordinator nodes approve-routes -i 1 -r ""                      withdraw all approvals
    """,
)
@which_node
@flag(
    "-r",
    "--routes",
    multiple=True,
    metavar="PREFIX,…",
    help='All routes approved from now on, such as 192.168.0.0/24; "" withdraws every approval.',
)
@pass_invocation
def approve_routes(invocation: Invocation, identifier: int, routes: tuple[str, ...]) -> None:
    """Set which of its routes a node may serve. The list replaces the one before.

    0.0.0.0/0 and ::/0 make an exit node; either brings the other. A prefix that the node does not advertise
    is refused, because it would have no effect; --force stores it all the same, for when the node does.
    """
    from coordinator.cli.client import ApiError
    from coordinator.cli.lists import split_list
    from coordinator.cli.prefixes import parse_prefixes
    from coordinator.cli.targets import no_such_node

    if not routes:
        raise click.UsageError('required flag(s) "routes" not set', click.get_current_context())
    wish = {"routes": [str(prefix) for prefix in parse_prefixes(split_list(routes))]}
    refuse = None if invocation.force else "true"
    path = ("node", identifier, "approve_routes")
    try:
        reply = invocation.client.post(
            *path, body=wish, absent=no_such_node(identifier), advertisedOnly=refuse
        )
    except ApiError as error:
        if error.status != HTTPStatus.BAD_REQUEST:
            raise
        raise CommandError(f"{error.message}. Nothing was changed; --force approves in advance") from error
    invocation.emit(reply["node"], "Node updated")


def _change(
    invocation: Invocation, identifier: int, *verb: str, done: str, body: dict[str, Any] | None = None
) -> None:
    """POST a change of one node and print the node as it is then."""
    from coordinator.cli.targets import no_such_node

    absent = no_such_node(identifier)
    node = invocation.client.post("node", identifier, *verb, body=body, absent=absent)["node"]
    invocation.emit(node, done)


def _print_nodes(invocation: Invocation, user: str | None) -> None:
    from coordinator.cli.node_views import overview
    from coordinator.cli.targets import find_user

    query = {"user": find_user(invocation.client, user)["name"]} if user else {}
    found = invocation.client.get("node", **query)["nodes"]
    invocation.emit(found, lambda: overview(found))
