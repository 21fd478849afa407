"""Allowed IPs, replay window, sessions: each against its slow twin or its rules."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.dataplane import NO_PEER, SessionSpent
from meshnode.dataplane.replay import COUNTER_LIMIT
from meshnode.dataplane.types import IPNetwork
from tests.meshnode.dataplane.kernels import Kernel
from tests.meshnode.dataplane.models import RingReplayWindow, SlowAllowedIPs, SlowReplayWindow

PEERS = st.integers(0, 3)


def prefixes() -> st.SearchStrategy[IPNetwork]:
    """Few bits, so that prefixes nest and repeat."""
    first_byte = st.integers(0, 7).map(lambda high: high << 5)
    ipv4: st.SearchStrategy[IPNetwork] = st.builds(
        lambda high, length: ipaddress.IPv4Network((high << 24, length), strict=False),
        first_byte,
        st.integers(0, 4) | st.just(32),
    )
    ipv6: st.SearchStrategy[IPNetwork] = st.builds(
        lambda high, length: ipaddress.IPv6Network((high << 120, length), strict=False),
        first_byte,
        st.integers(0, 4) | st.just(128),
    )
    return ipv4 | ipv6


ADDRESSES = st.builds(
    lambda high, rest: bytes([high << 5]) + rest,
    st.integers(0, 7),
    st.sampled_from([bytes(3), bytes([1, 2, 3]), bytes(15), bytes(range(15))]),
)
OPERATIONS = st.lists(
    st.tuples(st.just("insert"), prefixes(), PEERS)
    | st.tuples(st.just("remove"), prefixes(), PEERS)
    | st.tuples(st.just("remove_peer"), PEERS)
)


@given(OPERATIONS, st.lists(ADDRESSES, min_size=1))
def test_allowed_ips_matches_model(
    kernel: Kernel, operations: list[tuple[object, ...]], addresses: list[bytes]
) -> None:
    fast, slow = kernel.AllowedIPs(), SlowAllowedIPs()
    for name, *arguments in operations:
        getattr(fast, str(name))(*arguments)
        getattr(slow, str(name))(*arguments)
        assert [fast.lookup(ip) for ip in addresses] == [slow.lookup(ip) for ip in addresses]
    for peer in range(4):
        assert fast.prefixes_of(peer) == slow.prefixes_of(peer)


def test_a_moved_prefix_follows_its_new_owner(kernel: Kernel) -> None:
    table = kernel.AllowedIPs()
    table.insert(ipaddress.ip_network("10.0.0.0/8"), 1)
    table.insert(ipaddress.ip_network("10.1.0.0/16"), 1)
    assert table.lookup(bytes([10, 1, 0, 1])) == 1
    table.insert(ipaddress.ip_network("10.1.0.0/16"), 2)
    assert table.lookup(bytes([10, 1, 0, 1])) == 2
    assert table.lookup(bytes([10, 2, 0, 1])) == 1
    table.remove(ipaddress.ip_network("10.1.0.0/16"), 1)  # no longer its own
    assert table.lookup(bytes([10, 1, 0, 1])) == 2


@pytest.mark.parametrize("size", [0, 3, 5, 15, 17])
def test_what_is_no_address_belongs_to_nobody(kernel: Kernel, size: int) -> None:
    table = kernel.AllowedIPs()
    table.insert(ipaddress.ip_network("0.0.0.0/0"), 1)
    table.insert(ipaddress.ip_network("::/0"), 1)
    assert table.lookup(bytes(size)) == NO_PEER


def test_more_addresses_than_the_cache_holds(kernel: Kernel) -> None:
    table = kernel.AllowedIPs()
    table.insert(ipaddress.ip_network("10.0.0.0/16"), 7)
    addresses = [bytes([10, 0]) + number.to_bytes(2, "big") for number in range(5000)]
    assert {table.lookup(address) for address in addresses * 2} == {7}


COUNTERS = st.lists(
    st.integers(0, 300)
    | st.integers(8000, 8300)
    | st.integers(16000, 16600)
    | st.integers(COUNTER_LIMIT - 9000, COUNTER_LIMIT + 2),
    max_size=200,
)


@given(COUNTERS)
def test_replay_window_matches_models(kernel: Kernel, counters: list[int]) -> None:
    fast, slow, ring = kernel.ReplayWindow(), SlowReplayWindow(), RingReplayWindow()
    expected = [slow.accept(counter) for counter in counters]
    assert [fast.accept(counter) for counter in counters] == expected
    assert [ring.accept(counter) for counter in counters] == expected


@given(st.lists(st.integers(-9000, 9000), max_size=60), st.integers(0, 2**40))
def test_replay_window_walks_like_its_models(kernel: Kernel, steps: list[int], start: int) -> None:
    """Long runs in order, between jumps both ways."""
    fast, ring = kernel.ReplayWindow(), RingReplayWindow()
    counter = start
    for step in steps:
        counter = max(0, counter + step)
        for _ in range(abs(step) % 70):
            assert fast.accept(counter) == ring.accept(counter)
            counter += 1


def test_a_session_stops_at_the_limit(kernel: Kernel) -> None:
    session = kernel.Session(bytes(32), bytes(32), 1, 2)
    session.send_counter = COUNTER_LIMIT - 1
    before = session.is_spent
    assert len(kernel.seal_packet(session, b"", 1280)) == 32
    assert (before, session.is_spent) == (False, True)
    with pytest.raises(SessionSpent):
        kernel.seal_packet(session, b"", 1280)
    assert session.send_counter == COUNTER_LIMIT


def test_a_wiped_session_seals_nothing(kernel: Kernel) -> None:
    session = kernel.Session(bytes(32), bytes(32), 1, 2)
    session.wipe()
    assert session.is_spent
    with pytest.raises(SessionSpent):
        session.reserve(1)
    assert session.send_counter == 0


def test_keys_do_not_show(kernel: Kernel) -> None:
    assert "ab" * 4 not in repr(kernel.Session(b"\xab" * 32, b"\xab" * 32, 1, 2))


def test_session_table(kernel: Kernel) -> None:
    table = kernel.SessionTable()
    session = kernel.Session(bytes(32), bytes(32), 1, 2)
    table.set(1, session, 9)
    assert table.get(1) == (session, 9)
    assert len(table) == 1
    table.delete(1)
    table.delete(1)
    assert table.get(1) is None
