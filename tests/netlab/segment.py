"""A LAN: one Ethernet bridge that hosts are plugged into."""

from __future__ import annotations

from collections.abc import Iterable

from tests.netlab import namespaces
from tests.netlab.host import Host

# The kernel's limit for an interface name is 15 characters.
INTERFACE_NAME_LIMIT = 15


class Lan:
    """A switch. All of a lab's live in one namespace without addresses, so nothing is routed between them."""

    def __init__(self, name: str, switch_namespace: str) -> None:
        if len(name) > INTERFACE_NAME_LIMIT:
            raise ValueError(f"a LAN's name has at most {INTERFACE_NAME_LIMIT} characters: {name!r}")
        self.name = name
        self._switch = switch_namespace
        self._ports = 0
        namespaces.batch(
            switch_namespace,
            [
                f"link add {name} type bridge stp_state 0 mcast_snooping 0",
                f"link set {name} up",
            ],
        )

    def __repr__(self) -> str:
        return f"Lan({self.name})"

    def attach(
        self,
        host: Host,
        *addresses: str,
        interface: str = "eth0",
        gateways: Iterable[str] = (),
        mtu: int = 1500,
    ) -> None:
        """Plug `host` in by a new interface with these addresses (written with their prefix length).

        `gateways` become the host's default routes, at most one for each address family.
        """
        self._ports += 1
        port = f"{self.name[: INTERFACE_NAME_LIMIT - 4]}.{self._ports}"
        connect((host, interface), (self._switch, port), mtu)
        namespaces.batch(self._switch, [f"link set {port} master {self.name}"])
        host.set_addresses(interface, addresses)
        host.add_default_routes(gateways)


def connect(end: tuple[Host, str], other: tuple[Host | str, str], mtu: int = 1500) -> None:
    """Lay a cable (a veth pair) between two new interfaces, each given as host or namespace and name."""
    (host, interface), (peer, peer_interface) = end, other
    peer_namespace = peer.namespace if isinstance(peer, Host) else peer
    namespaces.batch(
        host.namespace,
        [
            f"link add {interface} mtu {mtu} type veth"
            f" peer name {peer_interface} mtu {mtu} netns {peer_namespace}",
            f"link set {interface} up",
        ],
    )
    namespaces.batch(peer_namespace, [f"link set {peer_interface} up"])
