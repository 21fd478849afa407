"""The path to one peer once there is one: heartbeats, doubt, and what takes over."""

from __future__ import annotations

import itertools

import pytest

from meshnode.disco.constants import DEFAULT
from meshnode.disco.context import Settings
from meshnode.disco.events import (
    PathChanged,
    WireMtuFound,
)
from meshnode.disco.messages import CallMeMaybe, Ping, Pong
from meshnode.disco.status import RelayReason
from tests.meshnode.disco.remote import (
    LAN,
    OWN,
    PUBLIC,
    Bench,
)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_heartbeats_are_frequent_while_there_is_traffic(bench: Bench) -> None:
    bench.go_direct()
    begin, beats = bench.now, []
    for _ in range(50):
        bench.send()
        beats += [bench.now - begin for to in bench.answer_pings(PUBLIC) if to == PUBLIC]
        bench.wait(0.08)
    gaps = [later - earlier for earlier, later in itertools.pairwise(beats)]
    assert all(0.9 <= gap <= 1.15 for gap in gaps)


def test_heartbeats_are_rare_without_traffic_and_then_stop(bench: Bench) -> None:
    bench.go_direct()
    begin, beats = bench.now, []
    while bench.now < begin + 120:
        beats += [bench.now - begin for to in bench.answer_pings(PUBLIC) if to == PUBLIC]
        bench.wait(0.08)
    late = [beat for beat in beats if beat > 8]
    assert all(2.9 <= later - earlier <= 3.2 for earlier, later in itertools.pairwise(late))
    assert 41 < late[-1] <= 45.2
    assert bench.manager.next_timeout() is None


def test_a_dead_path_is_doubted_and_derp_used_as_well(bench: Bench) -> None:
    bench.go_direct()
    died = bench.now
    while bench.send() == (PUBLIC,):
        bench.wait(0.02)
    assert bench.now - died <= 1.5
    assert bench.send() == (PUBLIC, bench.derp)
    assert any(isinstance(message, CallMeMaybe) for _, message in bench.sent())
    assert bench.take_events()[-1] == PathChanged(bench.peer, bench.derp, None)


def test_a_dead_path_is_left_in_the_end(bench: Bench) -> None:
    bench.go_direct()
    died = bench.now
    while PUBLIC in bench.send():
        bench.wait(0.1)
    assert 5.0 <= bench.now - died <= 7.0
    assert bench.manager.status(bench.peer, bench.now).relay_reason is RelayReason.PATH_LOST


def test_a_very_slow_path_is_left_too(bench: Bench) -> None:
    """Its answers may take longer than pings are remembered; trust in it must end all the same."""
    bench.send()
    bench.answer_pings(LAN, after=3.0)
    assert bench.send() == (LAN,)
    bench.wait(5.1)
    assert LAN not in bench.send()


def test_a_path_that_answers_again_is_trusted_again(bench: Bench) -> None:
    bench.go_direct()
    while bench.send() == (PUBLIC,):
        bench.wait(0.02)
    bench.sent()
    bench.wait(0.6)
    bench.answer_pings(PUBLIC)
    assert bench.send() == (PUBLIC,)


def test_another_path_takes_over_from_a_dead_one(bench: Bench) -> None:
    bench.go_direct()
    died = bench.now
    while LAN not in bench.send():
        bench.answer_pings(LAN)
        bench.wait(0.02)
    assert bench.now - died <= 1.6
    assert bench.send() == (LAN,)


def test_a_rested_path_is_checked_before_it_is_trusted(bench: Bench) -> None:
    bench.go_direct()
    begin = bench.now
    while bench.now < begin + 100:
        bench.answer_pings(PUBLIC)
        bench.wait(0.5)
    assert bench.manager.confirmed(bench.peer) == PUBLIC, "it only rests"
    assert bench.send() == (PUBLIC, bench.derp)
    bench.answer_pings(PUBLIC)
    assert bench.send() == (PUBLIC,)


def test_a_handshake_without_answer_makes_data_use_derp_as_well(bench: Bench) -> None:
    bench.go_direct()
    bench.manager.handshake_timed_out(bench.peer, bench.now)
    assert bench.send() == (PUBLIC, bench.derp)
    bench.answer_pings(PUBLIC)
    assert bench.send() == (PUBLIC, bench.derp), "whatever pings say"
    bench.manager.heard_from(bench.peer, PUBLIC, bench.now)
    assert bench.send() == (PUBLIC,)


def test_a_path_that_the_host_cannot_send_over_is_doubted_at_once(bench: Bench) -> None:
    bench.go_direct()
    bench.manager.send_failed(LAN, bench.now)
    assert bench.send() == (PUBLIC,)
    bench.manager.send_failed(PUBLIC, bench.now)
    assert bench.send() == (PUBLIC, bench.derp)
    bench.wait(0.2)
    assert LAN in bench.pinged()


def test_activity_is_what_somebody_sends(bench: Bench) -> None:
    bench.ping(PUBLIC)
    assert not bench.manager.is_active(bench.now)
    bench.send()
    assert bench.manager.is_active(bench.now + 44.0)
    assert not bench.manager.is_active(bench.now + 46.0)


def test_upgrades_are_looked_for_now_and_then(bench: Bench) -> None:
    bench.go_direct()
    begin, rounds = bench.now, 0
    while bench.now < begin + 130:
        bench.send()
        rounds += LAN in bench.answer_pings(PUBLIC)
        bench.wait(0.48)
    assert 2 <= rounds <= 6


def test_the_mtu_of_the_path_in_use_is_probed_where_wanted() -> None:
    bench = Bench(Settings(probe_mtu=True))
    bench.send()
    bench.answer_pings(PUBLIC)
    datagrams = bench.manager.take_datagrams()
    sizes = {len(one.payload): one for one in datagrams if one.dont_fragment}
    assert sorted(sizes) == [1252, 1332, 1372, 1472, 7972, 8972]
    ping = bench.remote.open(sizes[1472])
    assert isinstance(ping, Ping)
    bench.receive(Pong(ping.tx_id, OWN), PUBLIC)
    assert bench.take_events()[-1] == WireMtuFound(bench.peer, PUBLIC, 1500)
    assert bench.manager.status(bench.peer, bench.now).candidates[1].wire_mtu == 1500
    while bench.now < 1060.0:  # probes that get no answer are no reason to doubt the path
        assert bench.send() == (PUBLIC,)
        bench.answer_pings(PUBLIC)
        bench.wait(0.2)


def test_it_is_not_probed_otherwise(bench: Bench) -> None:
    bench.go_direct()
    bench.wait(5.0)
    assert not any(one.dont_fragment for one in bench.manager.take_datagrams())
    assert DEFAULT.mtu_again_after > 0
