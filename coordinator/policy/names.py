"""What sections that work on nodes, not on packets, ask about the aliases in them."""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping
from ipaddress import ip_network
from typing import Protocol

from coordinator.model import IPAddress, IPNetwork, NodeID, User, UserID


class Kind(enum.Enum):
    """Kinds of aliases, told apart by how they are written (coordinator-behaviour §8.2)."""

    PREFIX = enum.auto()
    WILDCARD = enum.auto()
    USER = enum.auto()
    GROUP = enum.auto()
    TAG = enum.auto()
    AUTOGROUP = enum.auto()
    HOST = enum.auto()


def kind_of(alias: str) -> Kind:
    """The kind of an alias. An address is a prefix, and any text without a mark is the name of a host."""
    if is_prefix(alias):
        return Kind.PREFIX
    if alias == "*":
        return Kind.WILDCARD
    if "@" in alias:
        return Kind.USER
    for mark, kind in (("group:", Kind.GROUP), ("tag:", Kind.TAG), ("autogroup:", Kind.AUTOGROUP)):
        if alias.startswith(mark):
            return kind
    return Kind.HOST


def is_prefix(text: str) -> bool:
    """Whether `text` is an address or a prefix; bits beyond its length may be set."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


class Node(Protocol):
    """What these sections need of a node."""

    @property
    def id(self) -> NodeID: ...
    @property
    def user_id(self) -> UserID | None: ...
    @property
    def tags(self) -> tuple[str, ...]: ...
    @property
    def addresses(self) -> tuple[IPAddress, ...]: ...


class Names(Protocol):
    """What is defined in the document."""

    def refusal(self, alias: str) -> str | None:
        """Why the alias means nothing in this document, e.g. an undefined tag; None when it is defined."""

    def host(self, name: str) -> IPNetwork | None:
        """The prefix of a name in `hosts`."""


class Directory(Names, Protocol):
    """The document's aliases in one state of the tailnet."""

    @property
    def users(self) -> Mapping[UserID, User]: ...

    @property
    def nodes(self) -> Collection[Node]: ...

    def nodes_of(self, alias: str) -> Collection[Node]:
        """The nodes that an alias means; those with an address in it, for a host or a prefix."""
