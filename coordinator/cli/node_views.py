"""Nodes as people read them: the list, one node in full, and the routes."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from coordinator.cli.output import Cell, Coloured, parse_time, printable, table, when

Node = Mapping[str, Any]

OVERVIEW = (
    "ID",
    "Hostname",
    "Name",
    "MachineKey",
    "NodeKey",
    "User",
    "Tags",
    "IP addresses",
    "Ephemeral",
    "Last seen",
    "Expiration",
    "Connected",
    "Expired",
)
ROUTES = ("ID", "Hostname", "Approved", "Available", "Serving (Primary)")


def overview(nodes: Sequence[Node]) -> str:
    """The table of `nodes list`."""
    now = datetime.now(UTC)
    return table(OVERVIEW, [_overview_row(node, now) for node in nodes])


def detail(node: Node) -> str:
    """One node, a fact a line."""
    row = dict(zip(OVERVIEW, _overview_row(node, datetime.now(UTC)), strict=True))
    row["MachineKey"], row["NodeKey"] = node["machineKey"], node["nodeKey"]
    facts: dict[str, Cell] = {
        **row,
        "Registered": f"{when(node['createdAt'])} {_method(node['registerMethod'])}".strip(),
        "Approved routes": node["approvedRoutes"],
        "Available routes": node["availableRoutes"],
        "Serving routes": node["subnetRoutes"],
    }
    width = max(map(len, facts)) + 1
    return "\n".join(f"{name + ':':<{width}} {_one_line(cell)}".rstrip() for name, cell in facts.items())


def routes(nodes: Sequence[Node]) -> str:
    """The table of `nodes list-routes`."""
    rows = [
        [n["id"], n["givenName"], n["approvedRoutes"], n["availableRoutes"], n["subnetRoutes"]] for n in nodes
    ]
    return table(ROUTES, rows)


def has_routes(node: Node) -> bool:
    """Whether the node has a route in any state."""
    return bool(node["approvedRoutes"] or node["availableRoutes"] or node["subnetRoutes"])


def _overview_row(node: Node, now: datetime) -> list[Cell]:
    expiry = parse_time(node["expiry"])
    is_expired = expiry is not None and expiry <= now
    return [
        node["id"],
        node["name"],
        node["givenName"],
        _short_key(node["machineKey"]),
        _short_key(node["nodeKey"]),
        _owner(node),
        node["tags"],
        node["ipAddresses"],
        str(bool(node.get("ephemeral"))).lower(),
        when(node["lastSeen"]),
        Coloured(when(node["expiry"], absent="N/A"), is_good=not is_expired),
        Coloured("online", True) if node["online"] else Coloured("offline", False),
        Coloured("yes", False) if is_expired else Coloured("no", True),
    ]


def _owner(node: Node) -> str:
    if node["tags"]:
        return "tagged-devices"
    return str((node["user"] or {}).get("name", ""))


def _short_key(text: str) -> str:
    """`[` five base64 characters `]` of a key's text form; an empty or unreadable one as it is."""
    try:
        raw = bytes.fromhex(text.rpartition(":")[2])
    except ValueError:
        return text
    return f"[{base64.b64encode(raw)[:5].decode()}]"


def _method(register_method: str) -> str:
    words = {
        "REGISTER_METHOD_AUTH_KEY": "(pre-auth key)",
        "REGISTER_METHOD_CLI": "(approved by an administrator)",
        "REGISTER_METHOD_OIDC": "(sign-in)",
    }
    return words.get(register_method, "")


def _one_line(cell: Cell) -> str:
    if isinstance(cell, Coloured):
        return cell.text
    return printable(cell) if isinstance(cell, str) else ", ".join(map(printable, cell))
