"""`meshnode status`: the columns that people read and scripts parse (node behaviour §2.6)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from meshnode.cli.errors import EXIT_FAILED
from meshnode.cli.grammar import Command, switch
from meshnode.cli.peers import Json
from meshnode.cli.session import local_client

HEADER = ("IP", "Hostname", "Owner", "OS", "Status")
NOT_RUNNING = {
    "Stopped": 'meshnode is stopped; connect it with "meshnode up".',
    "NeedsLogin": "Logged out.",
    "NeedsMachineAuth": "This machine is not yet approved by an administrator of the coordinator.",
}
ZERO_TIME = "0001-01-01T00:00:00Z"
NOTHING = "-"


@click.command("status", cls=Command)
@switch("--json", "as_json", default=False, help="Print everything, for programs.")
@switch("--active", "only_active", default=False, help="Only peers with traffic just now.")
@switch("--self", "show_self", default=True, help="Show this node too (default true).")
@switch("--peers", "show_peers", default=True, help="Show the peers (default true).")
@switch("--header", default=False, help="Show a line of titles.")
@click.pass_context
def command(
    ctx: click.Context, as_json: bool, only_active: bool, show_self: bool, show_peers: bool, header: bool
) -> int:
    """Show this node and its peers: address, name, owner, system and state of the connection.

    Exits with status 1 where the node is not connected, except with --json.
    """
    status = local_client(ctx).status(peers=show_peers)
    if as_json:
        click.echo(json.dumps(status, indent=2, ensure_ascii=False), nl=False)
        return 0
    text = describe_state(status)
    if text:
        click.echo(text)
        return EXIT_FAILED
    peers = sorted((status.get("Peer") or {}).values(), key=sort_key)
    if only_active:
        peers = [peer for peer in peers if peer["Active"]]
    nodes = ([status["Self"]] if show_self else []) + peers
    rows = [HEADER, tuple("-" * len(title) for title in HEADER)] if header else []
    rows += [row(status, node) for node in nodes]
    for line in columns(rows):
        click.echo(line)
    health = health_lines(status)
    if health:
        click.echo("\n" + health)
    return 0


def describe_state(status: Json) -> str:
    """Why there is nothing to list, or an empty text when the node is connected."""
    state = str(status["BackendState"])
    if state == "Running":
        return ""
    text = NOT_RUNNING.get(state, f"This node is not connected yet; its state is {state}.")
    if status.get("AuthURL"):
        text += f"\nLog in at: {status['AuthURL']}"
    health = health_lines(status)
    return f"{health}\n\n{text}" if health and state in ("Starting", "NoState") else text


def health_lines(status: Json) -> str:
    """The health list as comment lines, or nothing."""
    lines = [f"#     - {line}" for line in status.get("Health") or ()]
    return "\n".join(["# Health check:", *lines]) if lines else ""


def sort_key(peer: Json) -> tuple[str, str, str, str]:
    return peer["DNSName"], peer["HostName"], _address(peer), peer["PublicKey"]


def row(status: Json, node: Json) -> tuple[str, ...]:
    """The five columns of one node."""
    return _address(node), _name(status, node), _owner(status, node), node["OS"] or NOTHING, connection(node)


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows with all columns padded, two blanks between them."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    for cells in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))


def connection(node: Json, now: datetime | None = None) -> str:
    """The status column: what the connection to a peer is like."""
    role = "exit node" if node["ExitNode"] else "offers exit node" if node["ExitNodeOption"] else ""
    counted = bool(node["RxBytes"] or node["TxBytes"])
    absence = "" if node["Online"] else offline(node, now)
    if node["Active"]:
        parts = ["active", role, _way(node), absence]
    elif role or counted:
        parts = ["idle", role, absence]
    else:
        parts = [absence or NOTHING]
    text = "; ".join(part for part in parts if part)
    return text + (f", tx {node['TxBytes']} rx {node['RxBytes']}" if counted else "")


def _way(node: Json) -> str:
    """Which way data for an active peer goes; empty where none is known."""
    if node["PeerRelay"]:
        return f"peer-relay {node['PeerRelay']}"
    if node["CurAddr"]:
        return f"direct {node['CurAddr']}"
    return f'relay "{node["Relay"]}"' if node["Relay"] else ""


def offline(node: Json, now: datetime | None = None) -> str:
    """What is said of a peer that the coordinator has lost."""
    if node["LastSeen"] == ZERO_TIME:
        return "offline"
    ago = (now or datetime.now(UTC)) - datetime.fromisoformat(node["LastSeen"])
    return f"offline, last seen {rounded(ago)} ago"


def rounded(span: timedelta) -> str:
    """Minutes, hours or days, whichever is the largest that fits."""
    minutes = max(int(span.total_seconds() // 60), 0)
    if minutes < 60:
        return f"{max(minutes, 1)}m"
    return f"{minutes // 60}h" if minutes < 24 * 60 else f"{minutes // (24 * 60)}d"


def _address(node: Json) -> str:
    addresses: list[str] = node["TailscaleIPs"] or []
    return addresses[0] if addresses else NOTHING


def _name(status: Json, node: Json) -> str:
    """The DNS name without our own suffix."""
    name = str(node["DNSName"]).rstrip(".")
    suffix = status.get("MagicDNSSuffix") or ""
    if not name:
        return f'("{node["HostName"]}")'
    return name.removesuffix("." + suffix) if suffix else name


def _owner(status: Json, node: Json) -> str:
    if node["Tags"]:
        return "tagged-devices"
    user: dict[str, Any] | None = (status.get("User") or {}).get(str(node["UserID"]))
    login = str(user["LoginName"]) if user else ""
    name, at, _ = login.partition("@")
    return name + at or NOTHING
