"""A mesh over an internet with NATs: a coordinator with its relay and STUN servers, and nodes in places.

with Lab("nat") as lab:
    mesh = NatMesh(lab)
    mesh.add("left", KINDS["cgnat-port-restricted"].site)
    mesh.add("right", KINDS["symmetric-random"].site)
    mesh.start()
    mesh.members["left"].node.wait_to_reach(mesh.members["right"].node)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from tests.netlab import localapi
from tests.netlab.lab import Lab
from tests.netlab.networks import Network, Shared
from tests.netlab.programs import Coordinator, Node
from tests.netlab.sites import Carrier, Internet, Place, Site
from tests.netlab.waiting import wait_for

COORDINATOR_ADDRESSES = ("25.0.113.2", "2001:db8::2")
COORDINATOR_PORT = 443
"""The one port that every network lets out."""

# Starting a program costs most of a core for a second, and there are few cores.
AT_ONCE = 4
SETTLE_TIMEOUT = 60.0


@dataclass
class Member:
    """A node of the mesh, and where it stands. `key` is its public node key, once it has joined."""

    place: Place
    node: Node
    key: str = ""
    ipv4: str = ""

    @property
    def name(self) -> str:
        return self.place.name

    def status(self) -> dict[str, Any]:
        """The status document."""
        return dict(localapi.get(self.node.socket, "status"))

    def path_to(self, other: Member) -> dict[str, Any]:
        """How it reaches another member, as `meshnode debug paths --json` has it."""
        return dict(localapi.get(self.node.socket, f"debug-paths?peer={other.key}"))


class NatMesh:
    """See the module."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.internet = Internet(lab)
        host = self.internet.server("coordinator", *COORDINATOR_ADDRESSES)
        self.coordinator = Coordinator(host, COORDINATOR_ADDRESSES[0], port=COORDINATOR_PORT)
        self.members: dict[str, Member] = {}

    @classmethod
    def of(cls, lab: Lab, network: Network) -> NatMesh:
        """The two places of a network of the catalogue, named `left` and `right`."""
        mesh = cls(lab)
        if network.shared is Shared.HOME:
            left = mesh.add("left", network.left)
            mesh.add_neighbour("right", left)
            return mesh
        carrier: Carrier | None = None
        if network.shared is Shared.CARRIER:
            assert network.left.carrier is not None
            carrier = mesh.internet.carrier(network.left.carrier, hairpins=network.left.hairpins)
        mesh.add("left", network.left, carrier=carrier)
        mesh.add("right", network.right, carrier=carrier)
        return mesh

    def add(self, name: str, site: Site, *, carrier: Carrier | None = None) -> Member:
        """Build a place with a node in it, which `start` starts."""
        return self._member(self.internet.place(name, site, carrier=carrier))

    def add_neighbour(self, name: str, other: Member) -> Member:
        """One more machine in another's home."""
        return self._member(self.internet.neighbour(name, other.place))

    def _member(self, place: Place) -> Member:
        member = self.members[place.name] = Member(place, Node(place.host))
        return member

    # The programs

    def start(self) -> None:
        """The coordinator, and then all nodes, which join; returns once everybody knows everything."""
        self.coordinator.start()
        key = self.coordinator.create_key("ana", "--reusable")
        in_parallel(lambda member: self._join(member, key), self.members.values())
        self.wait_until_settled()

    def _join(self, member: Member, key: str) -> None:
        member.node.join(self.coordinator, key)
        own = member.status()["Self"]
        member.key, member.ipv4 = own["PublicKey"], own["TailscaleIPs"][0]

    def restart_nodes(self) -> None:
        """All daemons anew, behind NATs that remember nothing. Nobody is up while others still know it."""
        members = self.members.values()
        in_parallel(lambda member: member.node.stop_daemon(), members)
        in_parallel(lambda member: member.place.forget_flows(), members)
        in_parallel(lambda member: member.node.start_daemon(), members)
        self.wait_until_settled()

    def wait_until_settled(self) -> None:
        """Until every node has checked its network, and all others know where it is at home."""
        for member in self.members.values():
            wait_for(
                lambda member=member: self._is_settled(member),  # type: ignore[misc]
                SETTLE_TIMEOUT,
                what=f"{member.name} to have a home relay and to know those of the others",
            )

    def _is_settled(self, member: Member) -> bool:
        status = member.status()
        peers = (status["Peer"] or {}).values()
        return bool(
            status["BackendState"] == "Running"
            and status["Self"]["Relay"]
            and len(peers) == len(self.members) - 1
            and all(peer["Relay"] and peer["Online"] for peer in peers)
        )


def in_parallel(action: Callable[[Member], None], members: Iterable[Member]) -> None:
    """Do it for all, some at a time. Raises what the first one raised."""
    with ThreadPoolExecutor(AT_ONCE) as executor:
        for _ in executor.map(action, members):
            pass
