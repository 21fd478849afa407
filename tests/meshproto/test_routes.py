"""Route algebra and the tailnet's ranges."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshproto.addresses import IPAddress, IPNetwork
from meshproto.capver import (
    CLIENT_RELEASES,
    CURRENT_CAPABILITY_VERSION,
    HISTORY,
    MINIMUM_CAPABILITY_VERSION,
    client_release,
    is_supported,
)
from meshproto.routes import (
    CGNAT_RANGE,
    CHROMEOS_RANGE,
    EXIT_ROUTES,
    MAGIC_DNS_IPV4,
    MAGIC_DNS_IPV6,
    ULA_RANGE,
    VIA_RANGE,
    effective_routes,
    host_prefix,
    is_assignable,
    is_exit_route,
    is_tailnet_address,
    offers_exit,
    prefix_sort_key,
    sorted_prefixes,
    with_exit_pair,
    without_exit_routes,
)
from tests.meshproto.message_strategies import addresses, prefixes

# Few enough that two draws often share some.
route_sets = st.frozensets(
    st.sampled_from([*sorted(EXIT_ROUTES, key=str), ip_network("10.0.0.0/8"), ip_network("fd00::/8")])
    | prefixes,
    max_size=6,
)


@given(route_sets, route_sets)
def test_effective_is_what_both_name(
    advertised: frozenset[IPNetwork], approved: frozenset[IPNetwork]
) -> None:
    effective = effective_routes(advertised, approved)
    assert effective <= advertised
    assert effective <= approved
    assert effective == effective_routes(approved, advertised)
    assert effective_routes(advertised, advertised) == advertised
    assert all(route in effective for route in advertised if route in approved)


def test_approval_is_exact() -> None:
    assert not effective_routes([ip_network("10.1.0.0/16")], [ip_network("10.0.0.0/8")])
    assert not effective_routes([ip_network("10.1.0.0/16")], EXIT_ROUTES)


@given(route_sets)
def test_exit_pair(routes: frozenset[IPNetwork]) -> None:
    paired = with_exit_pair(routes)
    assert routes <= paired
    assert with_exit_pair(paired) == paired
    assert offers_exit(paired) == any(is_exit_route(route) for route in routes)
    assert without_exit_routes(paired) == without_exit_routes(routes)
    assert without_exit_routes(routes) | {route for route in routes if is_exit_route(route)} == routes


def test_half_an_exit_is_none() -> None:
    assert not offers_exit([ip_network("0.0.0.0/0"), ip_network("10.0.0.0/8")])
    assert not offers_exit([])
    assert offers_exit(EXIT_ROUTES)


@given(prefixes)
def test_exit_routes_are_the_two(prefix: IPNetwork) -> None:
    assert is_exit_route(prefix) == (prefix in EXIT_ROUTES)


@given(st.lists(prefixes, max_size=8))
def test_sorting(routes: list[IPNetwork]) -> None:
    ordered = sorted_prefixes(routes)
    assert set(ordered) == set(routes)
    assert len(ordered) == len(set(ordered))
    assert sorted_prefixes(reversed(ordered)) == ordered
    keys = [prefix_sort_key(route) for route in ordered]
    assert keys == sorted(set(keys))


def test_order_for_people() -> None:
    texts = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/16", "10.1.0.0/16", "192.168.0.0/24", "::/0", "fd7a::/16"]
    assert [str(route) for route in sorted_prefixes(map(ip_network, reversed(texts)))] == texts


@given(addresses)
def test_host_prefix(address: IPAddress) -> None:
    prefix = host_prefix(address)
    assert prefix.num_addresses == 1
    assert address in prefix
    assert isinstance(prefix, IPv4Network if address.version == 4 else IPv6Network)


@pytest.mark.parametrize(
    ("text", "tailnet", "assignable"),
    [
        ("100.64.0.0", True, True),
        ("100.127.255.255", True, True),
        ("100.63.255.255", False, False),
        ("100.128.0.0", False, False),
        ("100.115.91.255", True, True),
        ("100.115.92.0", False, False),
        ("100.115.93.255", False, False),
        ("100.115.94.0", True, True),
        ("100.100.100.100", True, False),
        ("fd7a:115c:a1e0::1", True, True),
        ("fd7a:115c:a1e0:ffff::", True, True),
        ("fd7a:115c:a1e1::1", False, False),
        ("fd7a:115c:a1e0::53", True, False),
        ("fd7a:115c:a1e0:b1a::1", True, False),
        ("192.168.0.1", False, False),
    ],
)
def test_tailnet_addresses(text: str, tailnet: bool, assignable: bool) -> None:
    assert is_tailnet_address(ip_address(text)) is tailnet
    assert is_assignable(ip_address(text)) is assignable


def test_reserved_ranges_lie_inside() -> None:
    assert CHROMEOS_RANGE.subnet_of(CGNAT_RANGE)
    assert VIA_RANGE.subnet_of(ULA_RANGE)
    assert MAGIC_DNS_IPV4 in CGNAT_RANGE
    assert MAGIC_DNS_IPV6 in ULA_RANGE


def test_our_capability_version_is_served_and_documented() -> None:
    assert is_supported(CURRENT_CAPABILITY_VERSION)
    assert is_supported(MINIMUM_CAPABILITY_VERSION)
    assert not is_supported(MINIMUM_CAPABILITY_VERSION - 1)
    assert CURRENT_CAPABILITY_VERSION in CLIENT_RELEASES
    assert MINIMUM_CAPABILITY_VERSION in CLIENT_RELEASES
    assert list(HISTORY) == sorted(HISTORY)


@pytest.mark.parametrize(
    ("version", "release"),
    [(112, "unknown"), (113, "1.80"), (114, "1.80"), (123, "1.86"), (130, "1.90"), (145, "1.102")],
)
def test_client_release(version: int, release: str) -> None:
    assert client_release(version) == release
