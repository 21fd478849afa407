"""Paths and DERP as WireGuard sees them, and as messages write them."""

from __future__ import annotations

import pytest

from meshnode.disco.destinations import (
    AuxPath,
    DerpDestination,
    Destination,
    RelayPath,
    address_of,
    as_source,
    from_source,
)
from meshproto.addresses import AddrPort
from meshproto.keys import NodePublic

ADDRESS = AddrPort("203.0.113.1", 41641)
IPV6 = AddrPort("2001:db8::1", 41641)
PEER = NodePublic(b"\x42" * 32)
ALL: list[Destination] = [
    ADDRESS,
    IPV6,
    AuxPath(ADDRESS, 7),
    AuxPath(IPV6, 7),
    RelayPath(ADDRESS, 7),
    DerpDestination(900, PEER),
]


@pytest.mark.parametrize("one", ALL, ids=str)
def test_as_a_source_and_back(one: Destination) -> None:
    assert from_source(as_source(one)) == one


def test_no_two_are_alike() -> None:
    assert len(set(ALL)) == len({as_source(one) for one in ALL}) == len(ALL)


@pytest.mark.parametrize(
    ("one", "written"),
    [
        (ADDRESS, ADDRESS),
        (AuxPath(IPV6, 1), IPV6),
        (RelayPath(ADDRESS, 1), ADDRESS),
        (DerpDestination(900, PEER), AddrPort("127.3.3.40", 900)),
    ],
)
def test_as_messages_write_them(one: Destination, written: AddrPort) -> None:
    assert address_of(one) == written


def test_for_people() -> None:
    assert [str(one) for one in ALL] == [
        "203.0.113.1:41641",
        "[2001:db8::1]:41641",
        "203.0.113.1:41641 (socket 7)",
        "[2001:db8::1]:41641 (socket 7)",
        "203.0.113.1:41641:vni:7",
        "127.3.3.40:900",
    ]
