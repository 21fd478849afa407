"""Port mapping against a real gateway: miniupnpd behind a home router's NAT, and the internet around it.

stranger 25.0.113.80          192.168.50.0/24
      └──── internet ──── router ────┬──── node .2
                    25.0.113.20      └──── other .3
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from meshnode.linux.marks import FWMARK
from tests.meshnode.portmap.mapped_node import MappedNode
from tests.netlab import Host, Lab, Router, wait_for
from tests.netlab.miniupnpd import Miniupnpd, Service

pytestmark = pytest.mark.interop

PORT = 41641
GATEWAY, NODE, OUTSIDE = "192.168.50.1", "192.168.50.2", "25.0.113.20"

# A gateway's clock that lags by this many seconds need not have begun anew (RFC 6886 §3.6), and one more for
# what is rounded.
EPOCH_TOLERANCE = 4.0
SLACK = 4.0
"""Seconds that the new gateway's first answer may be late."""

NO_MULTICAST = """
table inet no-multicast {
  chain input { type filter hook input priority filter; ip daddr 224.0.0.0/4 drop; }
}
"""

# What asks the gateway without the mark is lost: with an exit node it would go into the tunnel.
ONLY_MARKED = f"""
table inet only-marked {{
  chain output {{
    type filter hook output priority filter;
    oif lo accept
    udp sport {PORT} accept
    meta mark != {FWMARK:#x} drop
  }}
}}
"""

SEND = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(0.5)
host, port, text = sys.argv[1:]
sock.sendto(text.encode(), (host, int(port)))
try:
    print(sock.recvfrom(2000))
except TimeoutError:
    print("nothing")
"""


@dataclass
class Home:
    """The lab above. Nodes that were started are stopped at its end."""

    lab: Lab
    router: Router
    node: Host
    other: Host
    stranger: Host
    nodes: list[MappedNode] = field(default_factory=list)

    @classmethod
    def build(cls, lab: Lab) -> Home:
        internet, lan = lab.lan("internet"), lab.lan("home")
        router = lab.router("router")
        internet.attach(router, f"{OUTSIDE}/24", interface="wan")
        lan.attach(router, f"{GATEWAY}/24", interface="lan")
        router.masquerade("wan")
        node, other, stranger = (lab.host(name) for name in ("node", "other", "stranger"))
        lan.attach(node, f"{NODE}/24", gateways=[GATEWAY])
        lan.attach(other, "192.168.50.3/24", gateways=[GATEWAY])
        internet.attach(stranger, "25.0.113.80/24")
        node.nft(ONLY_MARKED)
        return cls(lab, router, node, other, stranger)

    def serve(self, services: Service = Service.ALL, **options: bool) -> Miniupnpd:
        server = Miniupnpd(self.router, services=services, **options)
        server.start()
        return server

    def map(self, *, host: Host | None = None, **timings: object) -> MappedNode:
        node = MappedNode(host or self.node, PORT, **timings)
        self.nodes.append(node)
        return node

    def send_to(self, external: str, text: str) -> str:
        """What the stranger gets back for a datagram that nobody asked for."""
        host, _, port = external.rpartition(":")
        return self.stranger.run("python3", "-c", SEND, host, port, text).stdout.strip()

    def assert_reachable(self, external: str, text: str, node: MappedNode) -> None:
        """A datagram of a stranger gets in, and the answer comes from where it was sent to."""
        host, _, port = external.rpartition(":")
        assert self.send_to(external, text) == repr((text.encode(), (host, int(port))))
        assert node.last("datagram") == text
        assert node.last("source").startswith("25.0.113.80:")


@pytest.fixture
def home() -> Iterator[Home]:
    with Lab("portmap") as lab:
        yield Home.build(lab)


@pytest.mark.parametrize(
    ("services", "options", "used"),
    [
        (Service.ALL, {}, "PCP"),
        (Service.PCP, {}, "PCP"),
        (Service.NAT_PMP, {}, "NAT-PMP"),
        (Service.UPNP, {}, "UPnP"),
        (Service.UPNP, {"igd1": True}, "UPnP"),
    ],
    ids=["all", "pcp", "nat-pmp", "upnp-2", "upnp-1"],
)
def test_a_stranger_reaches_the_mapped_port(
    home: Home, services: Service, options: dict[str, bool], used: str
) -> None:
    server = home.serve(services, **options)
    node = home.map()
    external, service = node.wait_for_external()
    assert (external, service) == (f"{OUTSIDE}:{PORT}", used)
    home.assert_reachable(external, "hello", node)
    wait_for(lambda: node.last("seconds"), what="the end of the probe")
    assert [node.last(key) for key in ("pcp", "pmp", "upnp")] == [
        wanted in services for wanted in (Service.PCP, Service.NAT_PMP, Service.UPNP)
    ]
    node.stop()
    assert server.mappings() == ""
    assert home.send_to(external, "late") == "nothing"


def test_a_gateway_that_maps_nothing_is_asked_briefly(home: Home) -> None:
    node = home.map()
    wait_for(lambda: node.last("problem"), what="the reason")
    assert [node.last(key) for key in ("pcp", "pmp", "upnp")] == [False] * 3
    assert node.last("seconds") < 2.5
    assert node.last("external") is None
    assert "NAT-PMP: the gateway has no such service" in node.last("problem")
    # … and when it begins to, it says so.
    home.serve(Service.NAT_PMP)
    external, _ = node.wait_for_external()
    home.assert_reachable(external, "now", node)
    node.stop()


@pytest.mark.parametrize("services", [Service.PCP, Service.NAT_PMP, Service.UPNP], ids=lambda s: s.name)
def test_a_gateway_that_says_it_has_restarted_maps_again(home: Home, services: Service) -> None:
    server = home.serve(services)
    node = home.map(announced_gap=0.2)
    external, _ = node.wait_for_external()
    home.assert_reachable(external, "before", node)
    server.restart()
    wait_for(server.mappings, 10, what="the mapping in the restarted gateway")
    home.assert_reachable(external, "after", node)
    assert node.last("external") == external
    node.stop()


@pytest.mark.parametrize("services", [Service.NAT_PMP, Service.UPNP], ids=lambda s: s.name)
def test_a_gateway_that_restarts_unheard_maps_again(home: Home, services: Service) -> None:
    begun_at = time.monotonic()
    server = home.serve(services)
    home.node.nft(NO_MULTICAST)
    node = home.map(check=1.0)
    external, _ = node.wait_for_external()
    if services is Service.NAT_PMP:
        # It will take about as long again until the node has an answer of the new one.
        time.sleep(EPOCH_TOLERANCE + SLACK + (time.monotonic() - begun_at))
    server.restart()
    wait_for(server.mappings, 30, what="the mapping in the restarted gateway")
    home.assert_reachable(external, "after", node)
    node.stop()


def test_a_port_that_another_host_has_mapped_is_not_taken(home: Home) -> None:
    home.serve()
    first = home.map(host=home.other)
    one, _ = first.wait_for_external()
    second = home.map()
    two, _ = second.wait_for_external()
    assert one != two
    home.assert_reachable(one, "first", first)
    home.assert_reachable(two, "second", second)
    first.stop()
    home.assert_reachable(two, "second again", second)
    second.stop()


@pytest.mark.parametrize("services", [Service.ALL, Service.UPNP], ids=["all", "upnp"])
def test_the_mapping_of_a_node_that_crashed_is_taken_over(home: Home, services: Service) -> None:
    home.serve(services)
    crashed = home.map()
    crashed.wait_for_external()
    crashed.process.kill()
    node = home.map()
    external, _ = node.wait_for_external()
    home.assert_reachable(external, "again", node)
    node.stop()


def test_a_mapping_moves_with_the_node(home: Home) -> None:
    server = home.serve(Service.PCP)
    node = home.map()
    node.wait_for_external()
    home.node.set_addresses("eth0", ["192.168.50.9/24"])
    home.node.add_default_routes([GATEWAY])
    wait_for(lambda: "192.168.50.9:" in server.mappings(), what="a mapping to the new address")
    wait_for(lambda: node.last("external"), what="the news of it")
    home.assert_reachable(node.last("external"), "here", node)
    home.node.link_down()
    wait_for(lambda: not node.last("external"), what="the news that there is no network")
    node.stop()


def test_a_gateway_behind_another_nat_maps_nothing(home: Home) -> None:
    home.router.set_addresses("wan", ["192.168.1.20/24"])
    home.serve()
    node = home.map()
    wait_for(lambda: node.last("problem"), 15, what="the reason")
    assert node.last("external") is None
    node.stop()
