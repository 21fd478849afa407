"""Networks with the programs running in them, for the tests of the whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from tests.netlab import Host, Lab, Lan
from tests.netlab.programs import Coordinator, Node


@dataclass
class SmallMesh:
    """One LAN with a coordinator, and nodes as a test adds them."""

    lab: Lab
    lan: Lan
    coordinator: Coordinator
    nodes: list[Node] = field(default_factory=list)

    def add_host(self, name: str) -> Host:
        """Another machine on the LAN."""
        number = len(self.lab.hosts) + 10
        host = self.lab.host(name)
        self.lan.attach(host, f"203.0.113.{number}/24", f"2001:db8::{number}/64", gateways=["203.0.113.1"])
        return host

    def add_node(self, name: str) -> Node:
        """A machine on the LAN on which nothing runs yet."""
        node = Node(self.add_host(name))
        self.nodes.append(node)
        return node

    def join(self, name: str, *flags: str) -> Node:
        """A machine on the LAN that has joined with a fresh key of the user ana."""
        node = self.add_node(name)
        node.join(self.coordinator, self.coordinator.create_key("ana"), *flags)
        return node


def make_small_mesh(lab: Lab, more: str = "") -> SmallMesh:
    """A LAN with a running coordinator; `more` is appended to its configuration."""
    lan = lab.lan("internet")
    host = lab.host("coordinator")
    lan.attach(host, "203.0.113.2/24", "2001:db8::2/64")
    coordinator = Coordinator(host, "203.0.113.2", more=more)
    coordinator.start()
    return SmallMesh(lab, lan, coordinator)


@pytest.fixture
def mesh() -> Iterator[SmallMesh]:
    """A LAN with a running coordinator, for one test."""
    with Lab("sys") as lab:
        yield make_small_mesh(lab)


@pytest.fixture
def mesh_with() -> Iterator[Callable[[str], SmallMesh]]:
    """As `mesh`, with more lines in the coordinator's configuration."""
    with Lab("sys") as lab:
        yield lambda more: make_small_mesh(lab, more)
