"""What the kernel's notifications mean for us, read from their fixed headers and one or two attributes. Pure.

A notification only says that something happened: what is there now is always asked of the kernel anew. So the
few fields that tell whether to ask are enough, and a storm of other routes costs next to nothing.

    nlmsghdr    length u32, type u16, flags u16, sequence u32, port u32     then, by type:
    rtmsg       family u8, dst_len u8, src_len u8, tos u8, table u8, protocol u8, scope u8, type u8, flags u32
    fib_rule    family u8, dst_len u8, src_len u8, tos u8, table u8, 2 reserved, action u8, flags u32
    ifinfomsg   family u8, pad u8, type u16, index i32, flags u32, change u32
    nfgenmsg    family u8, version u8, resource u16
    attributes  length u16, type u16, value, padded to 4 bytes              (rtnetlink(7), nfnetlink.h)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import Flag

from meshnode.linux.marks import PROTOCOL, Ownership
from meshnode.linux.plan import TABLE_DEFAULT, TABLE_MAIN

HEADER = struct.Struct("=IHHII")
ROUTE_HEADER = struct.Struct("=8BI")
RULE_HEADER = struct.Struct("=8BI")
LINK_HEADER_SIZE = 16
NETFILTER_HEADER_SIZE = 4
ATTRIBUTE = struct.Struct("=HH")
ATTRIBUTE_TYPE_MASK = 0x3FFF

OVERRUN = 4
NEW_LINK, DELETED_LINK = 16, 17
NEW_ADDRESS, DELETED_ADDRESS = 20, 21
NEW_ROUTE, DELETED_ROUTE = 24, 25
DELETED_RULE = 33
NEW_SETTING = 80
IFLA_IFNAME = 3
RTA_TABLE = 15
FRA_PRIORITY, FRA_PROTOCOL = 6, 21
RTM_F_CLONED = 0x200

NFT = 10 << 8
NFT_DELETED = frozenset(NFT | kind for kind in (2, 5, 8, 11))
"""A table, chain, rule or set was deleted."""
NFTA_TABLE = 1
"""The attribute with the table's name has this number in all of them."""


class Event(Flag):
    """What to look at."""

    NONE = 0
    CHANGED = 1
    """The host's network may be another one."""
    DISTURBED = 2
    """Something of ours may have been removed or changed."""


EVERYTHING = Event.CHANGED | Event.DISTURBED


def read_routing(data: bytes, own: Ownership) -> Event:
    """The meaning of one datagram of NETLINK_ROUTE, which may hold several messages."""
    found = Event.NONE
    for kind, body in _messages(data):
        found |= _routing_event(kind, body, own)
    return found


def _routing_event(kind: int, body: bytes, own: Ownership) -> Event:
    match kind:
        case _ if kind == OVERRUN:
            return EVERYTHING
        case _ if kind in (NEW_LINK, DELETED_LINK):
            named = _attributes(body[LINK_HEADER_SIZE:]).get(IFLA_IFNAME, b"")
            return EVERYTHING if _text(named) == own.interface else Event.CHANGED
        case _ if kind == NEW_ADDRESS:
            return Event.CHANGED
        case _ if kind == DELETED_ADDRESS:
            return EVERYTHING
        case _ if kind in (NEW_ROUTE, DELETED_ROUTE):
            return _route_event(kind, body, own)
        case _ if kind == DELETED_RULE:
            return _rule_event(body, own)
        case _ if kind == NEW_SETTING:  # forwarding, rp_filter ... of an interface or of all
            return Event.DISTURBED
    return Event.NONE


def _route_event(kind: int, body: bytes, own: Ownership) -> Event:
    if len(body) < ROUTE_HEADER.size:
        return EVERYTHING
    _, dst_len, _, _, table, protocol, _, _, flags = ROUTE_HEADER.unpack_from(body)
    if flags & RTM_F_CLONED:
        return Event.NONE
    attributes = _attributes(body[ROUTE_HEADER.size :])
    table = _number(attributes[RTA_TABLE]) if RTA_TABLE in attributes else table
    if table == own.table:
        return Event.DISTURBED if kind == DELETED_ROUTE and protocol == PROTOCOL else Event.NONE
    return Event.CHANGED if dst_len == 0 and table in (TABLE_MAIN, TABLE_DEFAULT) else Event.NONE


def _rule_event(body: bytes, own: Ownership) -> Event:
    attributes = _attributes(body[RULE_HEADER.size :])
    ours = (
        attributes.get(FRA_PROTOCOL) == bytes([PROTOCOL])
        and _number(attributes.get(FRA_PRIORITY, b"")) in own.priorities
    )
    return Event.DISTURBED if ours else Event.NONE


def read_firewall(data: bytes, own: Ownership) -> Event:
    """The meaning of one datagram of NETLINK_NETFILTER."""
    for kind, body in _messages(data):
        table = _attributes(body[NETFILTER_HEADER_SIZE:]).get(NFTA_TABLE, b"")
        if kind == OVERRUN or (kind in NFT_DELETED and _text(table) == own.nft_table):
            return Event.DISTURBED
    return Event.NONE


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + HEADER.size <= len(data):
        length, kind, *_ = HEADER.unpack_from(data, offset)
        if length < HEADER.size:
            return
        yield kind, data[offset + HEADER.size : offset + length]
        offset += _padded(length)


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    offset = 0
    while offset + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, offset)
        if length < ATTRIBUTE.size:
            break
        found[kind & ATTRIBUTE_TYPE_MASK] = data[offset + ATTRIBUTE.size : offset + length]
        offset += _padded(length)
    return found


def _padded(length: int) -> int:
    return (length + 3) & ~3


def _number(value: bytes) -> int:
    return int.from_bytes(value, "little")


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
