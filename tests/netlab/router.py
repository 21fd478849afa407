"""A router: a host that forwards, and that can filter, translate, and cut what passes."""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.netlab.host import Host
from tests.netlab.nat import Interfaces, Nat, ruleset

# What a home router lets in from outside: answers, and what was forwarded on purpose. It drops the rest
# silently; a router that answers unsolicited packets breaks hole punching in ways that are hard to find.
FIREWALL = """
table inet firewall {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{wan}" ct state established,related accept
    iifname "{wan}" meta l4proto {{ icmp, icmpv6 }} accept
    {accepted}
    {unsolicited}
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state established,related accept
    iifname "{wan}" ct status dnat accept
    {forwarded}
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


# What an office's or a hotel's router lets out, told by the rules that drop the rest. They come before the
# firewall, so that what it accepts as an answer is dropped too.
RESTRICTED = """
table inet restricted
delete table inet restricted
table inet restricted {{
  chain forward {{
    type filter hook forward priority filter - 10; policy accept;
    {dropped}
  }}
}}
"""

# A cut in the middle of everything: what matches is dropped on its way through, whoever sent it.
CUT = """
table inet cut
delete table inet cut
table inet cut {{
  chain forward {{
    type filter hook forward priority filter - 20; policy accept;
    {dropped} drop
  }}
}}
"""


# There is no command for it in what every Debian has.
FORGET_FLOWS = "from pyroute2 import NFCTSocket; NFCTSocket().flush()"


class Egress(enum.Enum):
    """What may pass a router. The value are the rules that drop the rest."""

    ALL = ""
    NO_UDP = "meta l4proto udp drop"
    ONLY_HTTPS = "tcp dport 443 accept; tcp sport 443 ct state established accept; drop"


class Router(Host):
    """A host with IP forwarding on. Without `masquerade` it is a plain router that filters nothing."""

    def __init__(self, name: str, namespace: str, directory: Path) -> None:
        super().__init__(name, namespace, directory)
        self.set_sysctl(
            net__ipv4__ip_forward=1,
            net__ipv4__conf__all__send_redirects=0,
            net__ipv4__conf__default__send_redirects=0,
            net__ipv6__conf__all__forwarding=1,
        )

    def firewall(
        self,
        wan: str,
        *,
        open_udp: Iterable[int] = (),
        open_ipv6: bool = False,
        drops_unsolicited: bool = True,
    ) -> None:
        """Let nothing in from `wan` that was not asked for from inside, except to these UDP ports.

        `open_ipv6`: IPv6 for those inside comes in, asked for or not. Without `drops_unsolicited` the router
        takes what comes to its own address, and refuses it.
        """
        ports = ", ".join(map(str, open_udp))
        rules = FIREWALL.format(
            wan=wan,
            accepted=f'iifname "{wan}" udp dport {{ {ports} }} accept' if ports else "",
            unsolicited=f'iifname "{wan}" drop' if drops_unsolicited else "",
            forwarded=f'iifname "{wan}" meta nfproto ipv6 accept' if open_ipv6 else "",
        )
        self.nft(rules)

    def masquerade(self, wan: str, *, open_udp: Iterable[int] = ()) -> None:
        """Be a home router: IPv4 leaves `wan` under the router's address, and the firewall is up."""
        self.firewall(wan, open_udp=open_udp)
        self.nft(MASQUERADE.format(wan=wan))

    def translate(self, nat: Nat, interfaces: Interfaces, *, hairpins: bool = False) -> None:
        """Translate IPv4 as this kind of NAT does. Unlike `masquerade` this puts no firewall up."""
        self.nft(ruleset(nat, interfaces, hairpins=hairpins))

    def restrict(self, egress: Egress) -> None:
        """Let only this pass, from now on."""
        self.nft(RESTRICTED.format(dropped=egress.value))

    def cut(self, expression: str) -> None:
        """Drop what matches this nftables expression, such as `meta l4proto udp`, until `mend`."""
        self.nft(CUT.format(dropped=expression))

    def mend(self) -> None:
        """Let through again what `cut` dropped."""
        self.nft("table inet cut\ndelete table inet cut")

    def forget_flows(self) -> None:
        """Lose every translation and every connection the firewall knew, as a restart does."""
        self.run(sys.executable, "-c", FORGET_FLOWS)
