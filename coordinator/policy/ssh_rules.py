"""SSH rules of each node, out of the policy's `ssh` section (coordinator-behaviour §8.9, §8.10).

A node gets the rules for logins at itself. A rule names its sources by address, one principal an address.
Rules that ask for a check come first: clients take the first rule that matches, and the stricter one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from coordinator.model import IPAddress, NodeID, User, UserID
from coordinator.policy.login_users import LoginUsers
from coordinator.policy.names import Node
from meshproto.messages import SSHAction, SSHPolicy, SSHPrincipal, SSHRule

DEFAULT_CHECK_PERIOD: Final = timedelta(hours=12)
ACCEPT: Final = SSHAction(
    accept=True,
    allow_agent_forwarding=True,
    allow_local_port_forwarding=True,
    allow_remote_port_forwarding=True,
)
# The client fills the names with $ in.
CHECK_PATH: Final = "/machine/ssh/action/$SRC_NODE_ID/to/$DST_NODE_ID?local_user=$LOCAL_USER"

Principals = tuple[SSHPrincipal, ...]


@dataclass(frozen=True, slots=True)
class ResolvedEntry:
    """An `ssh` entry whose aliases are resolved to nodes.

    `sources` counts how often a node is named: tagged nodes occur in the principals that often, as in the
    service that clients were made for. `to_self` is for `autogroup:self` among the destinations,
    `has_destinations` for others, whether or not they are any node's. `check` is whether a login has to be
    confirmed, `period` how long that is remembered; zero for once.
    """

    sources: Mapping[NodeID, int]
    destinations: frozenset[NodeID]
    to_self: bool
    has_destinations: bool
    users: LoginUsers
    check: bool
    period: timedelta
    accept_env: tuple[str, ...]


class SshRules:
    """The rules of all nodes of one state of the tailnet; those of a node are made when asked for."""

    def __init__(
        self, entries: Iterable[ResolvedEntry], nodes: Iterable[Node], users: Mapping[UserID, User]
    ) -> None:
        by_id = {node.id: node for node in nodes}
        self._entries = [_Compiled(entry, by_id, users) for entry in entries]

    def policy(self, node: Node, server_url: str) -> SSHPolicy:
        """The rules for logins at `node`; checks are asked for at `server_url`."""
        rules = [rule for entry in self._entries for rule in entry.rules(node, server_url)]
        # Sorting is stable: the order of the document otherwise.
        return SSHPolicy(rules=tuple(sorted(rules, key=lambda rule: not _is_check(rule))))

    def check_period(self, source: Node, destination: Node) -> timedelta | None:
        """How long a check from one node to the other lasts, zero for one login; None where none is asked.

        The first entry that asks for one decides.
        """
        matching = (entry for entry in self._entries if entry.asks_check(source, destination))
        found = next(matching, None)
        return None if found is None else found.entry.period


class _Compiled:
    """An entry with the principals of its sources."""

    def __init__(
        self, entry: ResolvedEntry, nodes: Mapping[NodeID, Node], users: Mapping[UserID, User]
    ) -> None:
        self.entry = entry
        self._users = users
        sources = [nodes[node_id] for node_id in sorted(entry.sources)]
        self._of_user = _by_user(sources)
        self._of_tagged = tuple(
            principal
            for node in sources
            if node.tags
            for _ in range(entry.sources[node.id])
            for principal in _principals(node.addresses)
        )

    def rules(self, node: Node, server_url: str) -> Iterator[SSHRule]:
        """The rules of this entry for logins at `node`."""
        action = SSHAction(hold_and_delegate=server_url + CHECK_PATH) if self.entry.check else ACCEPT
        for owner, principals in self._admitted(node):
            if principals:
                yield self._rule(principals, self.entry.users.names, action)
                own_name = self._own_name(owner)
                if own_name is not None:
                    yield self._rule(principals, {own_name: own_name}, action)

    def asks_check(self, source: Node, destination: Node) -> bool:
        entry = self.entry
        if not entry.check or source.id not in entry.sources:
            return False
        return destination.id in entry.destinations or (entry.to_self and _same_owner(source, destination))

    def _admitted(self, node: Node) -> Iterator[tuple[UserID | None, Principals]]:
        """Who may log in at `node`, each with the user whose own name counts; None for nobody's."""
        entry = self.entry
        if entry.to_self and _owner(node) is not None:
            yield self._own(node)
        if node.id in entry.destinations:
            if entry.users.domains:
                yield from sorted(self._of_user.items())
                yield None, self._of_tagged
            else:
                everybody = [p for _, principals in sorted(self._of_user.items()) for p in principals]
                yield None, (*everybody, *self._of_tagged)
        elif entry.has_destinations and entry.users.domains and node.id in entry.sources:
            # With own names, a source is told the rules for its own user as well (§8.9).
            yield (None, _principals(node.addresses)) if node.tags else self._own(node)

    def _own(self, node: Node) -> tuple[UserID | None, Principals]:
        owner = _owner(node)
        return owner, () if owner is None else self._of_user.get(owner, ())

    def _own_name(self, owner: UserID | None) -> str | None:
        user = None if owner is None else self._users.get(owner)
        return None if user is None else self.entry.users.own_name(user.email)

    def _rule(self, principals: Principals, names: Mapping[str, str], action: SSHAction) -> SSHRule:
        return SSHRule(
            principals=principals, ssh_users=dict(names), action=action, accept_env=self.entry.accept_env
        )


def _is_check(rule: SSHRule) -> bool:
    return rule.action is not None and bool(rule.action.hold_and_delegate)


def _owner(node: Node) -> UserID | None:
    """Whose own device the node is; nobody's when it is tagged."""
    return None if node.tags else node.user_id


def _same_owner(node: Node, other: Node) -> bool:
    owner = _owner(node)
    return owner is not None and owner == _owner(other)


def _by_user(nodes: Sequence[Node]) -> dict[UserID, Principals]:
    addresses: dict[UserID, list[IPAddress]] = {}
    for node in nodes:
        owner = _owner(node)
        if owner is not None:
            addresses.setdefault(owner, []).extend(node.addresses)
    return {owner: _principals(found) for owner, found in addresses.items() if found}


def _principals(addresses: Iterable[IPAddress]) -> Principals:
    ordered = sorted(addresses, key=lambda address: (address.version, int(address)))
    return tuple(SSHPrincipal(node_ip=str(address)) for address in ordered)
