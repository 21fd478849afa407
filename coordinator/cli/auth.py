"""`coordinator auth`: letting in nodes that asked for it."""

from __future__ import annotations

from coordinator.cli.grammar import Group, flag
from coordinator.cli.invocation import Invocation, pass_invocation

auth = Group(name="auth", help="Let in nodes that wait for a person's word.")


@auth.command(
    "register", epilog="coordinator auth register --user ana --auth-id hskey-authreq-0123456789abcdef01234567"
)
@flag("-u", "--user", required=True, metavar="NAME|ID", help="The user who will own the node.")
@flag(
    "--auth-id", required=True, metavar="ID", help="What the waiting node printed; its whole URL will do too."
)
@pass_invocation
def register(invocation: Invocation, user: str, auth_id: str) -> None:
    """Let in the node that waits under an ID and give it to a user."""
    register_pending(invocation, user, auth_id)


def register_pending(invocation: Invocation, user: str, auth_id: str) -> None:
    """Approve a waiting registration; `nodes register` and `auth register` both do."""
    from coordinator.cli.targets import find_user

    client = invocation.client
    owner = find_user(client, user)
    wanted = (
        auth_id.strip().rstrip("/").rpartition("/")[2]
    )  # the last part of a pasted URL, or the ID as it is
    node = client.post("auth", "register", body={"user": owner["name"], "authId": wanted})["node"]
    invocation.emit(node, f"Node {node['givenName']} registered")
