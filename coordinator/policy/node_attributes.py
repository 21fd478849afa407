"""The `nodeAttrs` section: what the clients of which nodes are told to do (coordinator-behaviour §8.10).

An attribute is a name that clients know; names that we do not know are passed on. Some also change what the
coordinator says of a node.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Network, ip_network
from typing import Final

from coordinator.model import NodeID
from coordinator.policy.document import Document, NodeAttribute, Text
from coordinator.policy.names import Directory, Kind, Names, kind_of
from coordinator.policy.problems import Problems
from meshproto.messages import CapMap
from meshproto.routes import CHROMEOS_RANGE

RANDOMIZE_CLIENT_PORT: Final = "randomize-client-port"
DISABLE_IPV4: Final = "disable-ipv4"
SUGGEST_EXIT_NODE: Final = "suggest-exit-node"

MEMBER: Final = "autogroup:member"
# Every user administers the own devices: all nodes of users have the capability of an administrator's.
ADMIN: Final = "autogroup:admin"
AUTOGROUPS: Final = (MEMBER, "autogroup:tagged", ADMIN)

POOL_RANGE: Final = IPv4Network("100.64.0.0/10")
RESERVED: Final = (IPv4Network("100.100.100.0/24"), CHROMEOS_RANGE)

Attributes = frozenset[str]
NONE: Final[Attributes] = frozenset()


def check_node_attributes(entries: Iterable[NodeAttribute], names: Names, problems: Problems) -> None:
    """Adds everything that is wrong with the section to `problems`."""
    for entry in entries:
        for target in entry.targets:
            why = _target_refusal(target.text.strip(), names)
            if why is not None:
                problems.add(target.at, why)
        for pool in entry.ip_pool or ():
            why = _pool_refusal(pool)
            if why is not None:
                problems.add(pool.at, why)


def resolve_node_attributes(document: Document, directory: Directory) -> dict[NodeID, Attributes]:
    """The attributes of every node that has any."""
    found: dict[NodeID, set[str]] = {}
    if document.randomize_client_port:
        found = {node.id: {RANDOMIZE_CLIENT_PORT} for node in directory.nodes}
    for entry in document.node_attributes:
        attributes = {attribute.text for attribute in entry.attributes}
        for node_id in _targeted(entry, directory):
            found.setdefault(node_id, set()).update(attributes)
    return {node_id: frozenset(attributes) for node_id, attributes in found.items() if attributes}


def own_capabilities(baseline: Mapping[str, tuple[object, ...] | None], attributes: Attributes) -> CapMap:
    """What a node is told of itself: `baseline`, and its attributes, which have no parameters."""
    return {**baseline, **dict.fromkeys(sorted(attributes))}


def peer_capabilities(attributes: Attributes, is_exit_node: bool) -> CapMap:
    """What others are told of a node: that it may be suggested as an exit node, if it is an approved one."""
    return {SUGGEST_EXIT_NODE: None} if is_exit_node and SUGGEST_EXIT_NODE in attributes else {}


def _targeted(entry: NodeAttribute, directory: Directory) -> Collection[NodeID]:
    targets = {target.text.strip() for target in entry.targets}
    if "*" in targets:
        return {node.id for node in directory.nodes}
    aliases = {MEMBER if target == ADMIN else target for target in targets}
    return {node.id for alias in aliases for node in directory.nodes_of(alias)}


def _target_refusal(target: str, names: Names) -> str | None:
    kind = kind_of(target)
    if kind is Kind.AUTOGROUP and target not in AUTOGROUPS:
        return f'"{target}" cannot be a target of nodeAttrs; of autogroups, {", ".join(AUTOGROUPS)} can'
    if kind in (Kind.WILDCARD, Kind.PREFIX) or target == ADMIN:
        return None
    why = names.refusal(target)
    return None if why is None else f'target="{target}": {why}'


def _pool_refusal(pool: Text) -> str | None:
    """An address pool lies in the range that clients keep for tailnets, beside what they use themselves."""
    try:
        prefix = ip_network(pool.text.strip(), strict=False)
    except ValueError:
        return f'ipPool "{pool.text}" is not a prefix; write it like 100.85.0.0/16'
    if not isinstance(prefix, IPv4Network) or not prefix.subnet_of(POOL_RANGE):
        return f'ipPool "{pool.text}" must be within {POOL_RANGE}'
    for reserved in RESERVED:
        if prefix.overlaps(reserved):
            return f'ipPool "{pool.text}" must not overlap the reserved range {reserved}'
    return None
