"""Nodes in a status document: what they answer to, and which one a word means."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from meshnode.cli.errors import CommandError

Json = dict[str, Any]


def names_of(node: Json) -> set[str]:
    """What a node answers to: first DNS label, full name, stable ID, addresses. Lower case."""
    full_name = str(node.get("DNSName", "")).rstrip(".").lower()
    names = {full_name, full_name.partition(".")[0], str(node.get("ID", "")).lower()}
    return {name for name in names if name} | {str(address) for address in node.get("TailscaleIPs") or ()}


def short_name(node: Json) -> str:
    """The first DNS label, or the host name where there is none."""
    return str(node.get("DNSName", "")).partition(".")[0] or str(node.get("HostName", ""))


def matches(nodes: Iterable[Json], word: str) -> list[Json]:
    """The nodes that answer to `word`."""
    wanted = word.rstrip(".").lower()
    return [node for node in nodes if wanted in names_of(node)]


def find_peer(status: Json, word: str) -> Json:
    """The node that `word` means, this one included. Raises CommandError."""
    nodes = [status["Self"], *(status.get("Peer") or {}).values()]
    found = matches(nodes, word)
    if not found:
        raise CommandError(f'no node "{word}" in this network; "meshnode status" lists them')
    if len(found) > 1:
        raise CommandError(f'"{word}" names {len(found)} nodes; give an address instead')
    return found[0]
