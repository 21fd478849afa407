"""Addresses: never twice, never a reserved one, until the prefix is full and not before."""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import ipalloc
from coordinator.errors import Conflict
from coordinator.model import IPAddress, IPNetwork
from coordinator.settings import NetworkSettings
from coordinator.store import PutNode, RemoveNode, Snapshot, apply
from tests.coordinator.records import WALL, node

SMALL = st.sampled_from(
    [
        ip_network("100.64.0.0/28"),
        ip_network("100.100.100.96/28"),
        ip_network("100.115.91.224/27"),
        ip_network("fd7a:115c:a1e0::50/124"),
    ]
)


def is_usable(address: IPAddress, prefix: IPNetwork) -> bool:
    return address not in (prefix.network_address, prefix.broadcast_address) and not any(
        address in reserved for reserved in ipalloc.RESERVED
    )


@given(prefix=SMALL, freed=st.lists(st.integers(0, 31)), random=st.booleans())
def test_every_usable_address_is_given_once(prefix: IPNetwork, freed: list[int], random: bool) -> None:
    usable = {address for address in prefix if is_usable(address, prefix)}
    used: set[IPAddress] = set()
    last: IPAddress | None = None
    for number in range(len(usable) + len(freed)):
        if number < len(freed) and used:
            used.discard(sorted(used, key=int)[freed[number] % len(used)])
        if used == usable:
            break
        if random:
            last = ipalloc.random_address(prefix, used, os.urandom)
        else:
            last = ipalloc.next_address(prefix, used, last)
        assert last in usable - used
        used.add(last)
    for address in usable:
        used.add(address)
    with pytest.raises(Conflict, match="no free address"):
        ipalloc.next_address(prefix, used, last)
    with pytest.raises(Conflict, match="no free address"):
        ipalloc.random_address(prefix, used, os.urandom)


def test_sequential_goes_on_after_the_last_one_before_it_reuses() -> None:
    prefix = ip_network("100.64.0.0/29")
    used = {ip_address("100.64.0.2")}
    assert ipalloc.next_address(prefix, used, ip_address("100.64.0.2")) == ip_address("100.64.0.3")
    assert ipalloc.next_address(prefix, used, ip_address("100.64.0.6")) == ip_address("100.64.0.1")


def test_both_families_have_the_same_number_in_a_fresh_network() -> None:
    snapshot = Snapshot()
    for number in range(1, 4):
        v4, v6 = ipalloc.allocate(snapshot, os.urandom)
        assert (str(v4), str(v6)) == (f"100.64.0.{number}", f"fd7a:115c:a1e0::{number}")
        snapshot, _ = apply(snapshot, [PutNode(node(number, ipv4=v4, ipv6=v6))], WALL)


def test_a_family_without_a_prefix_is_left_out() -> None:
    settings = NetworkSettings(prefix_v4=None, prefix_v6=IPv6Network("fd00::/64"))
    v4, v6 = ipalloc.allocate(Snapshot(settings=settings), os.urandom)
    assert (v4, str(v6)) == (None, "fd00::1")


def test_a_deleted_node_frees_its_address() -> None:
    settings = NetworkSettings(prefix_v4=IPv4Network("100.64.0.0/30"), prefix_v6=None)
    snapshot, _ = apply(
        Snapshot(settings=settings), [PutNode(node(1, ipv6=None)), PutNode(node(2, ipv6=None))], WALL
    )
    with pytest.raises(Conflict):
        ipalloc.allocate(snapshot, os.urandom)
    snapshot, _ = apply(snapshot, [RemoveNode(1)], WALL)
    assert ipalloc.allocate(snapshot, os.urandom)[0] == ip_address("100.64.0.1")
