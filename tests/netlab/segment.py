"""A LAN: one Ethernet bridge that hosts are plugged into."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from tests.netlab.host import Host
from tests.netlab.waiting import wait_for
from tests.netlab.weather import CLEAR, Weather

# The kernel's limit for an interface name is 15 characters.
INTERFACE_NAME_LIMIT = 15


class Lan:
    """A switch. All of a lab's live in one host without addresses, so nothing is routed between them."""

    def __init__(self, name: str, switch: Host) -> None:
        if len(name) > INTERFACE_NAME_LIMIT:
            raise ValueError(f"a LAN's name has at most {INTERFACE_NAME_LIMIT} characters: {name!r}")
        self.name = name
        self._switch = switch
        self._ports = 0
        switch.ip(f"link add {name} type bridge stp_state 0 mcast_snooping 0", f"link set {name} up")

    def __repr__(self) -> str:
        return f"Lan({self.name})"

    def attach(
        self,
        host: Host,
        *addresses: str,
        interface: str = "eth0",
        gateways: Iterable[str] = (),
        mtu: int = 1500,
        weather: Weather = CLEAR,
    ) -> None:
        """Plug `host` in by a new interface with these addresses (written with their prefix length).

        `gateways` become the host's default routes, at most one for each address family. `weather` is that on
        the cable, in both directions.
        """
        self._ports += 1
        port = f"{self.name[: INTERFACE_NAME_LIMIT - 4]}.{self._ports}"
        if weather == CLEAR:
            connect((host, interface), (self._switch, port), mtu)
        else:
            self._connect_through_weather((host, interface), port, mtu, weather)
        self._switch.ip(f"link set {port} master {self.name}")
        host.set_addresses(interface, addresses)
        host.add_default_routes(gateways)

    def _connect_through_weather(self, end: tuple[Host, str], port: str, mtu: int, weather: Weather) -> None:
        """Two cables, and between them a program that carries the frames from one to the other.

        What comes out of either end is taken apart to single packets first: weather is for each of them.
        """
        short = f"{self.name[: INTERFACE_NAME_LIMIT - 6]}.{self._ports}"
        near, far = f"{short}-n", f"{short}-f"
        connect(end, (self._switch, near), mtu)
        connect((self._switch, port), (self._switch, far), mtu)
        end[0].ip(f"link set {end[1]} gso_max_segs 1")
        self._switch.ip(f"link set {port} gso_max_segs 1")
        numbers = {"delay": weather.delay, "jitter": weather.jitter, "loss": weather.loss}
        flags = [f"--{name}={value:g}" for name, value in numbers.items()]
        wire = self._switch.popen(
            sys.executable, "-m", "tests.netlab.wire", *flags, near, far, log=f"wire-{port}"
        )
        wait_for(lambda: "carrying" in wire.output(), 10, what=f"the weather on {self.name}")


def connect(end: tuple[Host, str], other: tuple[Host, str], mtu: int = 1500) -> None:
    """Lay a cable (a veth pair) between two new interfaces, each given as host and name."""
    (host, interface), (peer, peer_interface) = end, other
    host.ip(
        f"link add {interface} mtu {mtu} type veth"
        f" peer name {peer_interface} mtu {mtu} netns {peer.namespace}",
        f"link set {interface} up",
    )
    peer.ip(f"link set {peer_interface} up")
