"""Kinds of NAT, in RFC 4787's terms, and the nftables rules that make a Linux router behave as each of them.

Linux' own masquerading keeps the port of a flow where it can and goes on using a translation that the same
inner address and port has already: endpoint-independent mapping. What it lets in depends on address and port,
for it knows nothing but flows. Everything else is made from that:

- More is let in by sending packets from outside to whom a table of the mappings in use says. Every packet
  that leaves writes its mapping into the table, which forgets it MAPPING_LIFETIME after the last one.
- Ports that depend on the destination come from `random`, which makes the kernel choose anew for each flow,
  or from a counter.

Only UDP is treated so. TCP and ICMP are always masqueraded plainly.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NamedTuple

MAPPING_LIFETIME = "5m"
"""RFC 4787 REQ-5: how long a mapping of the table should live after the last packet that left through it."""

COUNTED_PORTS = range(40000, 40000 + 8192)
"""The ports of a NAT that takes the next one for each flow. It starts again at its end."""

CARRIER_PORTS = range(10000, 30000)
"""Where a carrier puts its subscribers' ports, since they cannot all keep theirs. None of those that Linux
gives to programs is among them: it would be kept."""


class Mapping(enum.Enum):
    """On what the outer address and port depend, besides the inner ones."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Filtering(enum.Enum):
    """Who may send to a mapped port."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


class Ports(enum.Enum):
    """Which outer port a new mapping gets."""

    PRESERVED = "preserved"
    SEQUENTIAL = "sequential"
    RANDOM = "random"


class Behaviour(NamedTuple):
    """How a NAT treats UDP."""

    mapping: Mapping
    filtering: Filtering
    ports: Ports


_SAME = Mapping.ENDPOINT_INDEPENDENT
_VARIES = Mapping.ADDRESS_AND_PORT_DEPENDENT
_STRICT = Filtering.ADDRESS_AND_PORT_DEPENDENT


class Nat(enum.Enum):
    """The kinds of NAT; the value is the behaviour."""

    FULL_CONE = Behaviour(_SAME, Filtering.ENDPOINT_INDEPENDENT, Ports.PRESERVED)
    ADDRESS_RESTRICTED = Behaviour(_SAME, Filtering.ADDRESS_DEPENDENT, Ports.PRESERVED)
    PORT_RESTRICTED = Behaviour(_SAME, _STRICT, Ports.PRESERVED)
    SYMMETRIC_SEQUENTIAL = Behaviour(_VARIES, _STRICT, Ports.SEQUENTIAL)
    SYMMETRIC_RANDOM = Behaviour(_VARIES, _STRICT, Ports.RANDOM)
    CARRIER = Behaviour(_SAME, _STRICT, Ports.RANDOM)
    """A carrier's, as RFC 6888 wants it: one outer port per inner one, but not the same."""

    @property
    def behaviour(self) -> Behaviour:
        return self.value


@dataclass(frozen=True)
class Interfaces:
    """Where a router translates: its two interfaces, its address on the outer one."""

    wan: str
    wan_address: str
    lan: str


TABLE = """
table ip nat {{
  map cone {{
    type inet_service : ipv4_addr . inet_service
    flags dynamic,timeout
    timeout {lifetime}
    size 65535
  }}
  map known {{
    type ipv4_addr . inet_service : ipv4_addr . inet_service
    flags dynamic,timeout
    timeout {lifetime}
    size 65535
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    {let_in}
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    {hairpin}
    oifname "{wan}" {translate}
    oifname "{wan}" masquerade
  }}
  chain learn {{
    type filter hook postrouting priority srcnat + 50; policy accept;
    {learn}
  }}
}}
"""


def ruleset(nat: Nat, interfaces: Interfaces, *, hairpins: bool = False) -> str:
    """The nftables rules that translate IPv4 as `nat` does.

    `hairpins`: hosts on the inner side reach each other by their outer addresses (RFC 4787 REQ-9), and see
    each other's. Raises ValueError where outer ports depend on the destination: such NATs have no hairpins.
    """
    behaviour = nat.behaviour
    if hairpins and behaviour.mapping is not Mapping.ENDPOINT_INDEPENDENT:
        raise ValueError(f"no hairpinning with {behaviour.mapping.value} mapping")
    let_in = [*_let_in(behaviour.filtering, interfaces), *(_hairpin_in(interfaces) if hairpins else [])]
    hairpin = f'oifname "{interfaces.lan}" ct status dnat snat to {interfaces.wan_address}'
    return TABLE.format(
        lifetime=MAPPING_LIFETIME,
        wan=interfaces.wan,
        let_in=_lines(let_in),
        hairpin=hairpin if hairpins else "",
        translate=_translate(behaviour, interfaces),
        learn=_lines(_learn(interfaces)),
    )


def _lines(rules: list[str]) -> str:
    return "\n    ".join(rules)


def _let_in(filtering: Filtering, interfaces: Interfaces) -> list[str]:
    match filtering:
        case Filtering.ENDPOINT_INDEPENDENT:
            return [f'iifname "{interfaces.wan}" meta l4proto udp dnat ip to udp dport map @cone']
        case Filtering.ADDRESS_DEPENDENT:
            return [f'iifname "{interfaces.wan}" meta l4proto udp dnat ip to ip saddr . udp dport map @known']
        case Filtering.ADDRESS_AND_PORT_DEPENDENT:
            return []


def _hairpin_in(interfaces: Interfaces) -> list[str]:
    outside = f'iifname "{interfaces.lan}" ip daddr {interfaces.wan_address}'
    return [f"{outside} meta l4proto udp dnat ip to udp dport map @cone"]


def _translate(behaviour: Behaviour, interfaces: Interfaces) -> str:
    match behaviour:
        case Behaviour(mapping=Mapping.ENDPOINT_INDEPENDENT, ports=Ports.PRESERVED):
            return "meta l4proto udp masquerade"
        case Behaviour(mapping=Mapping.ENDPOINT_INDEPENDENT):
            return f"meta l4proto udp masquerade to :{CARRIER_PORTS[0]}-{CARRIER_PORTS[-1]}"
        case Behaviour(ports=Ports.SEQUENTIAL):
            # A counter used as a port without the map has its bytes swapped: the steps would be 256.
            table = ", ".join(f"{number} : {port}" for number, port in enumerate(COUNTED_PORTS))
            counter = f"numgen inc mod {len(COUNTED_PORTS)} map {{ {table} }}"
            return f"meta l4proto udp snat to {interfaces.wan_address}:{counter}"
        case _:
            return "meta l4proto udp masquerade random"


def _learn(interfaces: Interfaces) -> list[str]:
    """Write the mapping that a leaving packet uses into both tables.

    The packet has been translated when these rules see it, but only its connection knows both sides: the
    first two rules are for those opened from inside, the others for answers to those that were let in.
    """
    out = f'oifname "{interfaces.wan}" meta l4proto udp'
    opened, inner = "ct reply proto-dst", "ct original ip saddr . ct original proto-src"
    let_in, server = "ct original proto-dst", "ct reply ip saddr . ct reply proto-src"
    return [
        f"{out} ct direction original update @cone {{ {opened} : {inner} }}",
        f"{out} ct direction original update @known {{ ip daddr . {opened} : {inner} }}",
        f"{out} ct direction reply ct status dnat update @cone {{ {let_in} : {server} }}",
        f"{out} ct direction reply ct status dnat update @known {{ ip daddr . {let_in} : {server} }}",
    ]
