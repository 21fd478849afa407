"""The packet filter that the receiving node enforces (reference §8.7).

`SrcBits` and `Bits`, the old way to write prefixes, do not exist here: one occurrence makes a client
discard the whole filter.
"""

from __future__ import annotations

import msgspec

from meshproto.addresses import IPNetwork
from meshproto.messages.base import CapMap, Int64, Message, Uint16, always


class PortRange(Message, frozen=True, kw_only=True):
    """Ports `first` to `last`, both included."""

    first: Uint16 = always(0)
    last: Uint16 = always(0)


ANY_PORT = PortRange(first=0, last=65535)


class NetPortRange(Message, frozen=True, kw_only=True):
    """Destination of a rule: an address, prefix, `a-b` range or `*`, and ports."""

    ip: str = always("")
    ports: PortRange = always(PortRange())


class CapGrant(Message, frozen=True, kw_only=True):
    """Peer capabilities that the rule's sources have towards `dsts`."""

    dsts: tuple[IPNetwork, ...] = always(())
    caps: tuple[str, ...] = ()
    cap_map: CapMap = msgspec.field(default_factory=dict)


class FilterRule(Message, frozen=True, kw_only=True):
    """Allows traffic (`dst_ports`) or grants capabilities (`cap_grant`) to `src_ips`; never both."""

    src_ips: tuple[str, ...] = always(())
    """Addresses, prefixes, `a-b` ranges, `*` or `cap:<node capability>`."""
    dst_ports: tuple[NetPortRange, ...] = ()
    ip_proto: tuple[Int64, ...] = ()
    """IP protocol numbers; empty means TCP, UDP, ICMP and ICMPv6."""
    cap_grant: tuple[CapGrant, ...] = ()


ALLOW_ALL = (FilterRule(src_ips=("*",), dst_ports=(NetPortRange(ip="*", ports=ANY_PORT),)),)
