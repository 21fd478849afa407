"""`coordinator debug`: what nodes are told, and why two do not see each other; `coordinator generate`."""

from __future__ import annotations

from typing import Any

import click

from coordinator.cli.grammar import Group
from coordinator.cli.invocation import Invocation, pass_invocation

debug = Group(name="debug", help="Look at what nodes are told, and find out why two do not see each other.")
generate = Group(name="generate", aliases=("gen",), help="Make keys.")


@debug.command("map", epilog="coordinator debug map laptop\ncoordinator debug map 3 -o yaml")
@click.argument("node", metavar="NODE")
@pass_invocation
def show_map(invocation: Invocation, node: str) -> None:
    """Print the whole map of NODE (its ID or name) as it would be sent now, in JSON."""
    from coordinator.cli.output import dump

    response = invocation.client.get("debug", "map", node)
    invocation.emit(response, lambda: dump(response, "json").rstrip("\n"))


@debug.command("filter", epilog="coordinator debug filter router")
@click.argument("node", metavar="NODE")
@pass_invocation
def show_filter(invocation: Invocation, node: str) -> None:
    """Print what the packet filter of NODE (its ID or name) lets in: sources, destinations, protocols."""
    rules = _rules(invocation.client.get("debug", "map", node))
    invocation.emit(rules, lambda: _filter_table(rules) if rules else "The filter lets nothing in")


@debug.command("why", epilog="coordinator debug why laptop server")
@click.argument("node", metavar="NODE")
@click.argument("peer", metavar="PEER")
@pass_invocation
def why(invocation: Invocation, node: str, peer: str) -> None:
    """Say what keeps NODE and PEER (IDs or names) from seeing each other."""
    reply = invocation.client.get("debug", "why", node, peer)
    nothing = "Nothing keeps them apart: each is in the other's map, and both are connected"
    invocation.emit(reply, lambda: "\n".join(reply["reasons"]) or nothing)


@generate.command("private-key", epilog="coordinator generate private-key")
@pass_invocation
def private_key(invocation: Invocation) -> None:
    """Print a new private key, as the file noise.private_key_path holds it."""
    import os

    from meshproto.keys import MachinePrivate

    key = MachinePrivate.generate(os.urandom).to_text()
    invocation.emit({"private_key": key}, key)


def _rules(response: dict[str, Any]) -> list[dict[str, Any]]:
    filters = response.get("PacketFilters") or {}
    return [rule for name in sorted(filters) for rule in filters[name] or []]


def _filter_table(rules: list[dict[str, Any]]) -> str:
    from coordinator.cli.output import table

    rows = [
        (
            [str(source) for source in rule.get("SrcIPs") or []],
            [f"{to['IP']}:{_ports(to['Ports'])}" for to in rule.get("DstPorts") or []]
            or [f"{dst} (grant)" for grant in rule.get("CapGrant") or [] for dst in grant.get("Dsts") or []],
            [str(number) for number in rule.get("IPProto") or []] or "any of TCP, UDP, ICMP",
        )
        for rule in rules
    ]
    return table(["Sources", "Destinations", "Protocols"], rows)


def _ports(ports: dict[str, int]) -> str:
    first, last = ports.get("First", 0), ports.get("Last", 0)
    if (first, last) == (0, 65535):
        return "*"
    return str(first) if first == last else f"{first}-{last}"
