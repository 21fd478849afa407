"""A router: a host that forwards, and that can hide a LAN behind its own address."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.netlab.host import Host

# What a home router lets in from outside: answers, and what was forwarded on purpose. It drops the rest
# silently; a router that answers unsolicited packets breaks hole punching in ways that are hard to find.
FIREWALL = """
table inet firewall {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{wan}" ct state established,related accept
    iifname "{wan}" meta l4proto {{ icmp, icmpv6 }} accept
    {accepted}
    iifname "{wan}" drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    iifname "{wan}" ct status dnat accept
    iifname "{wan}" drop
  }}
}}
"""

# The plain home router: endpoint-independent mapping with the port kept where it is free, address-and-port-
# dependent filtering. IPv6 is routed, not translated.
MASQUERADE = """
table ip nat {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "{wan}" masquerade
  }}
}}
"""


class Router(Host):
    """A host with IP forwarding on. Without `masquerade` it is a plain router that filters nothing."""

    def __init__(self, name: str, namespace: str, directory: Path) -> None:
        super().__init__(name, namespace, directory)
        self.set_sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)

    def firewall(self, wan: str, *, open_udp: Iterable[int] = ()) -> None:
        """Let nothing in from `wan` that was not asked for from inside, except to these UDP ports."""
        ports = ", ".join(map(str, open_udp))
        accepted = f'iifname "{wan}" udp dport {{ {ports} }} accept' if ports else ""
        self.nft(FIREWALL.format(wan=wan, accepted=accepted))

    def masquerade(self, wan: str, *, open_udp: Iterable[int] = ()) -> None:
        """Be a home router: IPv4 leaves `wan` under the router's address, and the firewall is up."""
        self.firewall(wan, open_udp=open_udp)
        self.nft(MASQUERADE.format(wan=wan))
