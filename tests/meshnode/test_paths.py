"""Which address a datagram goes to, step by step."""

from __future__ import annotations

import os

import pytest

from meshnode.paths import MAX_CANDIDATES, CandidatePaths
from meshnode.wireguard import Kind
from meshproto.addresses import AddrPort
from meshproto.keys import NodePublic

PEER = NodePublic(os.urandom(32))
LAN = AddrPort("192.168.0.7", 41641)
INTERNET = AddrPort("198.51.100.7", 41641)
IPV6 = AddrPort("2001:db8::7", 41641)
ELSEWHERE = AddrPort("203.0.113.9", 5000)


@pytest.fixture
def paths() -> CandidatePaths:
    paths = CandidatePaths()
    paths.set_peer(PEER, [LAN, INTERNET, IPV6])
    return paths


def sends(paths: CandidatePaths, kind: Kind) -> tuple[AddrPort, ...]:
    return tuple(paths.destinations(PEER, kind, 0.0))


def test_a_handshake_tries_every_candidate_and_data_the_first(paths: CandidatePaths) -> None:
    assert sends(paths, Kind.HANDSHAKE) == (LAN, INTERNET, IPV6)
    assert sends(paths, Kind.DATA) == (LAN,)
    assert sends(paths, Kind.KEEPALIVE) == (LAN,)
    assert paths.confirmed(PEER) is None


def test_an_authenticated_datagram_confirms_a_path_for_everything(paths: CandidatePaths) -> None:
    paths.heard_from(PEER, INTERNET, 1.0)
    assert all(sends(paths, kind) == (INTERNET,) for kind in Kind)
    assert paths.confirmed(PEER) == INTERNET


def test_roaming_to_an_address_that_is_no_candidate(paths: CandidatePaths) -> None:
    paths.heard_from(PEER, INTERNET, 1.0)
    paths.heard_from(PEER, ELSEWHERE, 2.0)
    assert all(sends(paths, kind) == (ELSEWHERE,) for kind in Kind)


def test_a_retry_without_answer_goes_back_to_all(paths: CandidatePaths) -> None:
    paths.heard_from(PEER, ELSEWHERE, 1.0)
    paths.handshake_timed_out(PEER, 6.0)
    assert sends(paths, Kind.HANDSHAKE) == (ELSEWHERE, LAN, INTERNET, IPV6)
    assert sends(paths, Kind.DATA) == (ELSEWHERE,)
    assert paths.confirmed(PEER) is None
    paths.heard_from(PEER, IPV6, 7.0)
    assert sends(paths, Kind.HANDSHAKE) == (IPV6,)


def test_where_the_peer_was_last_is_not_tried_twice(paths: CandidatePaths) -> None:
    paths.heard_from(PEER, INTERNET, 1.0)
    paths.handshake_timed_out(PEER, 6.0)
    assert sends(paths, Kind.HANDSHAKE) == (INTERNET, LAN, IPV6)


def test_new_candidates_leave_a_confirmed_path(paths: CandidatePaths) -> None:
    paths.heard_from(PEER, INTERNET, 1.0)
    paths.set_peer(PEER, [IPV6])
    assert sends(paths, Kind.DATA) == (INTERNET,)
    paths.handshake_timed_out(PEER, 6.0)
    assert sends(paths, Kind.HANDSHAKE) == (INTERNET, IPV6)


def test_candidates_are_bounded_and_distinct(paths: CandidatePaths) -> None:
    many = [AddrPort("192.0.2.1", 1000 + number) for number in range(100)]
    paths.set_peer(PEER, [LAN, LAN, *many])
    assert sends(paths, Kind.HANDSHAKE) == (LAN, *many[: MAX_CANDIDATES - 1])


def test_a_peer_without_candidates_waits_to_be_heard_from(paths: CandidatePaths) -> None:
    paths.set_peer(PEER, [])
    assert sends(paths, Kind.HANDSHAKE) == ()
    paths.heard_from(PEER, ELSEWHERE, 1.0)
    assert sends(paths, Kind.DATA) == (ELSEWHERE,)


def test_a_removed_peer_is_forgotten(paths: CandidatePaths) -> None:
    paths.heard_from(PEER, INTERNET, 1.0)
    paths.remove_peer(PEER)
    paths.remove_peer(PEER)
    paths.heard_from(PEER, INTERNET, 2.0)
    paths.handshake_timed_out(PEER, 3.0)
    assert all(sends(paths, kind) == () for kind in Kind)
    assert paths.confirmed(PEER) is None
    paths.set_peer(PEER, [LAN])
    assert sends(paths, Kind.DATA) == (LAN,)
