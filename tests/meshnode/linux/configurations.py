"""Named router configurations, for tests of what follows from them."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network

from meshnode.linux.plan import Ipv6
from meshnode.linux.router_config import RouterConfig
from meshproto.addresses import IPNetwork

OWN = (ip_interface("100.64.0.1/32"), ip_interface("fd7a:115c:a1e0::1/128"))


def nets(*texts: str) -> frozenset[IPNetwork]:
    """Networks from their texts."""
    return frozenset(map(ip_network, texts))


PEERS = nets("100.64.0.2/32", "100.64.0.3/32", "fd7a:115c:a1e0::/48")
EXIT = nets("0.0.0.0/0", "::/0")
LAN = nets("192.168.1.0/24", "2001:db8:1::/64")

CONFIGURATIONS: dict[str, RouterConfig] = {
    "nothing": RouterConfig(),
    "peers": RouterConfig(addresses=OWN, routes=PEERS, listen_port=41641),
    "accept_subnets": RouterConfig(
        addresses=OWN, routes=PEERS | nets("192.168.0.0/16", "10.1.0.0/24", "fd00:1::/64"), listen_port=41641
    ),
    "accept_subnet_of_own_lan": RouterConfig(
        addresses=OWN, routes=PEERS | nets("192.168.1.0/24", "192.168.1.128/25"), local_routes=LAN
    ),
    "exit_node": RouterConfig(addresses=OWN, routes=PEERS | EXIT, listen_port=41641),
    "exit_node_allow_lan": RouterConfig(
        addresses=OWN, routes=PEERS | EXIT, local_routes=LAN, listen_port=41641
    ),
    "exit_node_with_strict_filter": RouterConfig(addresses=OWN, routes=PEERS | EXIT),
    "exit_node_ipv4_only": RouterConfig(addresses=OWN[:1], routes=PEERS | nets("0.0.0.0/0")),
    "serve_subnet": RouterConfig(
        addresses=OWN, routes=PEERS, subnet_routes=LAN | nets("192.168.1.64/26"), listen_port=41641
    ),
    "serve_subnet_without_snat": RouterConfig(
        addresses=OWN, routes=PEERS | nets("10.1.0.0/24"), subnet_routes=LAN, snat=False, mtu=1420
    ),
    "serve_exit_node": RouterConfig(addresses=OWN, routes=PEERS, subnet_routes=LAN, exit_node_offered=True),
    "serve_subnet_behind_exit_node": RouterConfig(
        addresses=OWN, routes=PEERS | EXIT, subnet_routes=nets("192.168.1.0/24")
    ),
    "exit_node_without_ipv6": RouterConfig(addresses=OWN, routes=PEERS | EXIT, local_routes=LAN),
    "small_mtu": RouterConfig(addresses=OWN, routes=PEERS, mtu=1200),
}

IPV6: dict[str, Ipv6] = {"exit_node_without_ipv6": Ipv6.OFF_ON_INTERFACE}
"""What the host can do, where it is not everything."""

STRICT = {"exit_node_with_strict_filter"}
"""Where the host has a strict reverse-path filter."""
