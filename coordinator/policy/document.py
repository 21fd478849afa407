"""The policy document as written: every section as typed values with their places, nothing resolved yet.

Here only the shape is checked: known field names, lists where lists belong, texts where texts belong. What a
text means (an alias, a port, a duration) is decided by the module of its section: `aliases`, `rules`, `ssh`,
`node_attributes`, `assertions`, `ssh_assertions`. Names of fields are the same in upper and lower case.
Whatever is absent or null has the default of its section (coordinator-behaviour §8.1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from coordinator.policy import hujson
from coordinator.policy.hujson import Array, Object, Position, Value
from coordinator.policy.problems import Problems

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Text:
    """A text of the document and where it stands."""

    text: str
    at: Position

    def __str__(self) -> str:
        return self.text


Texts = tuple[Text, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """An entry of a section that maps names to lists: a group, a tag's owners, a route's approvers."""

    name: Text
    members: Texts


@dataclass(frozen=True, slots=True)
class Host:
    """A name for an address or prefix."""

    name: Text
    address: Text


@dataclass(frozen=True, slots=True)
class AclRule:
    """An entry of `acls`; `destinations` are written `alias:ports`."""

    at: Position
    action: Text | None
    protocol: Text | None
    sources: Texts
    destinations: Texts


@dataclass(frozen=True, slots=True)
class Capability:
    """An entry of a grant's `app`: the name of a capability and its parameters, as JSON values."""

    name: Text
    parameters: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Grant:
    """An entry of `grants`. `destinations` have no ports: those are in `ports`, the field `ip`."""

    at: Position
    sources: Texts
    destinations: Texts
    ports: Texts
    app: tuple[Capability, ...]
    via: Texts


@dataclass(frozen=True, slots=True)
class AutoApprovers:
    """Who may announce which routes without an administrator: by prefix, and for exit routes."""

    routes: tuple[Named, ...] = ()
    exit_node: Texts = ()


@dataclass(frozen=True, slots=True)
class SshRule:
    """An entry of `ssh`. `users` is None when absent, which is another mistake than an empty list."""

    at: Position
    action: Text | None
    sources: Texts
    destinations: Texts
    users: Texts | None
    check_period: Text | None
    accept_env: Texts


@dataclass(frozen=True, slots=True)
class NodeAttribute:
    """An entry of `nodeAttrs`."""

    at: Position
    targets: Texts
    attributes: Texts
    ip_pool: Texts | None


@dataclass(frozen=True, slots=True)
class Assertion:
    """An entry of `tests`."""

    at: Position
    source: Text | None
    protocol: Text | None
    accept: Texts
    deny: Texts


@dataclass(frozen=True, slots=True)
class SshAssertion:
    """An entry of `sshTests`."""

    at: Position
    source: Text | None
    destinations: Texts
    accept: Texts
    deny: Texts
    check: Texts


@dataclass(frozen=True, slots=True)
class Document:
    """A whole policy. `acls` and `grants` are None when absent: without both, everything is allowed."""

    groups: tuple[Named, ...] = ()
    hosts: tuple[Host, ...] = ()
    tag_owners: tuple[Named, ...] = ()
    acls: tuple[AclRule, ...] | None = None
    grants: tuple[Grant, ...] | None = None
    auto_approvers: AutoApprovers = AutoApprovers()
    ssh: tuple[SshRule, ...] | None = None
    node_attributes: tuple[NodeAttribute, ...] = ()
    tests: tuple[Assertion, ...] = ()
    ssh_tests: tuple[SshAssertion, ...] = ()
    randomize_client_port: bool = False

    @property
    def allows_all(self) -> bool:
        """Whether nothing restricts the packets that nodes send each other."""
        return self.acls is None and self.grants is None


def parse(text: str) -> Document:
    """The document in `text`; an empty text is an empty document. Raises PolicyRefused."""
    problems = Problems()
    if not text.strip():
        return Document()
    try:
        value = hujson.parse(text)
    except hujson.SyntaxProblem as error:
        problems.add(error.at, str(error))
        problems.raise_any()
        raise
    document = _document(_Reader(problems), value)
    problems.raise_any()
    return document


def _document(read: _Reader, value: Value) -> Document:
    fields = read.fields(value, "the policy", SECTIONS)
    return Document(
        groups=read.named(fields.get("groups"), "groups"),
        hosts=read.hosts(fields.get("hosts")),
        tag_owners=read.named(fields.get("tagowners"), "tagOwners"),
        acls=read.entries(fields.get("acls"), "acls", _acl_rule),
        grants=read.entries(fields.get("grants"), "grants", _grant),
        auto_approvers=_auto_approvers(read, fields.get("autoapprovers")),
        ssh=read.entries(fields.get("ssh"), "ssh", _ssh_rule),
        node_attributes=read.entries(fields.get("nodeattrs"), "nodeAttrs", _node_attribute) or (),
        tests=read.entries(fields.get("tests"), "tests", _assertion) or (),
        ssh_tests=read.entries(fields.get("sshtests"), "sshTests", _ssh_assertion) or (),
        randomize_client_port=read.flag(fields.get("randomizeclientport"), "randomizeClientPort"),
    )


SECTIONS = (
    "groups",
    "hosts",
    "tagOwners",
    "acls",
    "grants",
    "autoApprovers",
    "ssh",
    "nodeAttrs",
    "tests",
    "sshTests",
    "randomizeClientPort",
)


def _acl_rule(read: _Reader, value: Value) -> AclRule:
    fields = read.fields(value, "an entry of acls", ("action", "proto", "src", "dst"), comments=True)
    return AclRule(
        at=value.at,
        action=read.text(fields.get("action"), "action"),
        protocol=read.text(fields.get("proto"), "proto"),
        sources=read.texts(fields.get("src"), "src"),
        destinations=read.texts(fields.get("dst"), "dst"),
    )


def _grant(read: _Reader, value: Value) -> Grant:
    fields = read.fields(value, "an entry of grants", ("src", "dst", "ip", "app", "via"))
    return Grant(
        at=value.at,
        sources=read.texts(fields.get("src"), "src"),
        destinations=read.texts(fields.get("dst"), "dst"),
        ports=read.texts(fields.get("ip"), "ip"),
        app=read.capabilities(fields.get("app")),
        via=read.texts(fields.get("via"), "via"),
    )


def _auto_approvers(read: _Reader, value: Value | None) -> AutoApprovers:
    if value is None:
        return AutoApprovers()
    fields = read.fields(value, "autoApprovers", ("routes", "exitNode"))
    return AutoApprovers(
        routes=read.named(fields.get("routes"), "routes"),
        exit_node=read.texts(fields.get("exitnode"), "exitNode"),
    )


def _ssh_rule(read: _Reader, value: Value) -> SshRule:
    known = ("action", "src", "dst", "users", "checkPeriod", "acceptEnv")
    fields = read.fields(value, "an entry of ssh", known)
    users = fields.get("users")
    return SshRule(
        at=value.at,
        action=read.text(fields.get("action"), "action"),
        sources=read.texts(fields.get("src"), "src"),
        destinations=read.texts(fields.get("dst"), "dst"),
        users=None if users is None else read.texts(users, "users"),
        check_period=read.text(fields.get("checkperiod"), "checkPeriod"),
        accept_env=read.texts(fields.get("acceptenv"), "acceptEnv"),
    )


def _node_attribute(read: _Reader, value: Value) -> NodeAttribute:
    fields = read.fields(value, "an entry of nodeAttrs", ("target", "attr", "ipPool"))
    pool = fields.get("ippool")
    return NodeAttribute(
        at=value.at,
        targets=read.texts(fields.get("target"), "target"),
        attributes=read.texts(fields.get("attr"), "attr"),
        ip_pool=None if pool is None else read.texts(pool, "ipPool"),
    )


def _assertion(read: _Reader, value: Value) -> Assertion:
    fields = read.fields(value, "an entry of tests", ("src", "proto", "accept", "deny"))
    return Assertion(
        at=value.at,
        source=read.text(fields.get("src"), "src"),
        protocol=read.text(fields.get("proto"), "proto"),
        accept=read.texts(fields.get("accept"), "accept"),
        deny=read.texts(fields.get("deny"), "deny"),
    )


def _ssh_assertion(read: _Reader, value: Value) -> SshAssertion:
    fields = read.fields(value, "an entry of sshTests", ("src", "dst", "accept", "deny", "check"))
    return SshAssertion(
        at=value.at,
        source=read.text(fields.get("src"), "src"),
        destinations=read.texts(fields.get("dst"), "dst"),
        accept=read.texts(fields.get("accept"), "accept"),
        deny=read.texts(fields.get("deny"), "deny"),
        check=read.texts(fields.get("check"), "check"),
    )


class _Reader:
    """Takes values apart. What has the wrong shape becomes a problem and reads as its default."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems

    def fields(
        self, value: Value, what: str, known: tuple[str, ...], comments: bool = False
    ) -> dict[str, Value]:
        """The fields of an object by lower-case name, without those that are null.

        With `comments`, names that begin with `#` are left out, whatever they hold.
        """
        names = {name.lower(): name for name in known}
        found: dict[str, Value] = {}
        for member in self._object(value, what):
            name = member.name.lower()
            if comments and name.startswith("#"):
                continue
            if name not in names:
                self._problems.add(
                    member.at,
                    f'unknown field: "{member.name}"; {what} may have {", ".join(known)}',
                )
            elif name in found:
                self._problems.add(member.at, f'"{names[name]}" is here for the second time')
            elif member.value.data is not None:
                found[name] = member.value
        return found

    def entries(
        self, value: Value | None, what: str, read: Callable[[_Reader, Value], Result]
    ) -> tuple[Result, ...] | None:
        """The elements of a list, each taken apart by `read`; None when the list is absent."""
        return None if value is None else tuple(read(self, item) for item in self._array(value, what))

    def named(self, value: Value | None, what: str) -> tuple[Named, ...]:
        """A section that maps names to lists of texts."""
        members = () if value is None else self._object(value, what)
        return tuple(
            Named(Text(member.name, member.at), self.texts(member.value, f'"{member.name}"'))
            for member in members
        )

    def hosts(self, value: Value | None) -> tuple[Host, ...]:
        members = () if value is None else self._object(value, "hosts")
        texts = ((member, self.text(member.value, f'"{member.name}"')) for member in members)
        return tuple(Host(Text(m.name, m.at), text) for m, text in texts if text is not None)

    def capabilities(self, value: Value | None) -> tuple[Capability, ...]:
        members = () if value is None else self._object(value, "app")
        return tuple(
            Capability(
                Text(member.name, member.at),
                tuple(item.plain for item in self._array(member.value, f'"{member.name}"')),
            )
            for member in members
        )

    def texts(self, value: Value | None, what: str) -> Texts:
        """A list of texts; empty when absent."""
        items = () if value is None else self._array(value, what)
        found = (self.text(item, f"an element of {what}") for item in items)
        return tuple(text for text in found if text is not None)

    def text(self, value: Value | None, what: str) -> Text | None:
        if value is None:
            return None
        if isinstance(value.data, str):
            return Text(value.data, value.at)
        self._problems.add(value.at, f"{what} must be a text in double quotes, not {value.kind}")
        return None

    def flag(self, value: Value | None, what: str) -> bool:
        if value is not None and not isinstance(value.data, bool):
            self._problems.add(value.at, f"{what} must be true or false, not {value.kind}")
        return value is not None and value.data is True

    def _array(self, value: Value, what: str) -> tuple[Value, ...]:
        if isinstance(value.data, Array):
            return value.data.items
        if value.data is not None:
            self._problems.add(value.at, f"{what} must be a list, as in [...], not {value.kind}")
        return ()

    def _object(self, value: Value, what: str) -> tuple[hujson.Member, ...]:
        if isinstance(value.data, Object):
            return value.data.members
        if value.data is not None:
            self._problems.add(value.at, f"{what} must be an object, as in {{...}}, not {value.kind}")
        return ()
