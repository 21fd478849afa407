"""The `sshTests` section: logins that the policy must allow, ask a check for, or deny (behaviour §8.10).

`accept` is also met by a rule that asks for a check; `check` by nothing else. All addresses of all nodes of
the source must be treated alike.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Final

from coordinator.model import IPAddress
from coordinator.policy.document import SshAssertion, Text
from coordinator.policy.login_users import lets_in
from coordinator.policy.names import Directory, Kind, Names, Node, kind_of
from coordinator.policy.problems import Problems
from coordinator.policy.ssh_rules import SshRules
from meshproto.messages import SSHRule

SELF: Final = "autogroup:self"
INTERNET: Final = "autogroup:internet"


def check_ssh_assertions(entries: Iterable[SshAssertion], names: Names, problems: Problems) -> None:
    """Adds what is wrong with how the section is written to `problems`."""
    for entry in entries:
        if entry.source is None or not entry.source.text.strip():
            problems.add(entry.at, "SSH tests must have a src")
        if not entry.destinations:
            problems.add(entry.at, "SSH tests must have a dst")
        if not (entry.accept or entry.deny or entry.check):
            problems.add(entry.at, "SSH tests must have accept, deny or check; this one would test nothing")
        for destination in entry.destinations:
            why = _destination_refusal(destination.text.strip(), names)
            if why is not None:
                problems.add(destination.at, why)


def failures(entries: Iterable[SshAssertion], directory: Directory, rules: SshRules) -> list[str]:
    """A line for each assertion that does not hold; none when all do. For a section without problems."""
    return [line for entry in entries for line in _failures(entry, directory, rules)]


def _failures(entry: SshAssertion, directory: Directory, rules: SshRules) -> Iterator[str]:
    source = "" if entry.source is None else entry.source.text.strip()
    why = directory.refusal(source)
    if why is not None:
        yield f"{source}: {why}"
        return
    sources = directory.nodes_of(source)
    addresses = [address for node in sources for address in node.addresses]
    if not addresses:
        yield f"{source}: means no node, so nothing can be tested"
        return
    for destination in dict.fromkeys(text.text.strip() for text in entry.destinations):
        nodes = _destinations(destination, sources, directory)
        if not nodes:
            yield f"{source}: dst {destination} means no node"
        for node in nodes:
            found = _Logins(rules.policy(node, "").rules, addresses)
            for user, wanted, got in found.differences(entry):
                shown = user or '""'
                yield f"{source}/{shown} -> {destination}: expected {wanted}, got {got}"


class _Logins:
    """How logins from some addresses at one node end."""

    def __init__(self, rules: Iterable[SSHRule], addresses: Collection[IPAddress]) -> None:
        texts = {str(address) for address in addresses}
        self._addresses = texts
        self._rules = [(rule, texts & {principal.node_ip for principal in rule.principals}) for rule in rules]

    def differences(self, entry: SshAssertion) -> Iterator[tuple[str, str, str]]:
        """The user, what the assertion wants and what it gets, for each that does not hold."""
        for user in _users(entry.accept):
            if self._let_in(user) != self._addresses:
                yield user, "ALLOWED", "DENIED"
        for user in _users(entry.deny):
            if self._let_in(user):
                yield user, "DENIED", "ALLOWED"
        for user in _users(entry.check):
            if self._let_in(user, checked=True) != self._addresses:
                got = "ALLOWED via accept" if self._let_in(user) == self._addresses else "DENIED"
                yield user, "ALLOWED via check", got

    def _let_in(self, user: str, checked: bool = False) -> set[str]:
        """The addresses from where `user` is let in; only after a check, if `checked`."""
        reached: set[str] = set()
        for rule, addresses in self._rules:
            is_check = rule.action is not None and bool(rule.action.hold_and_delegate)
            if (is_check or not checked) and lets_in(rule.ssh_users, user):
                reached |= addresses
        return reached


def _users(texts: Iterable[Text]) -> list[str]:
    return [text.text.strip() for text in texts]


def _destinations(alias: str, sources: Collection[Node], directory: Directory) -> Collection[Node]:
    if alias != SELF:
        return directory.nodes_of(alias)
    owners = {node.user_id for node in sources if not node.tags}
    return [node for node in directory.nodes if not node.tags and node.user_id in owners]


def _destination_refusal(alias: str, names: Names) -> str | None:
    """Why an alias cannot be tested as a destination: it has to be machines, without a port."""
    kind = kind_of(alias)
    if kind is Kind.TAG and names.refusal(alias) is not None:
        return f'SSH tests dst contains unknown tag "{alias}"; ports are not written here'
    if alias == INTERNET or kind is Kind.WILDCARD or not _is_one_address(alias, kind, names):
        return f'SSH tests dst contains disallowed element "{alias}"; name users, tags or single addresses'
    if alias != SELF:
        return names.refusal(alias)
    return None


def _is_one_address(alias: str, kind: Kind, names: Names) -> bool:
    """Whether it is a single address, where it is an address or the name of one."""
    match kind:
        case Kind.PREFIX:
            return "/" not in alias or alias.endswith("/32" if "." in alias else "/128")
        case Kind.HOST:
            prefix = names.host(alias)
            return prefix is None or prefix.num_addresses == 1
        case _:
            return True
