"""The path to one peer step by step: how it is found, and what the peer has to do with it."""

from __future__ import annotations

import pytest

from meshnode.disco.destinations import DerpDestination
from meshnode.disco.events import (
    PathChanged,
)
from meshnode.disco.messages import CallMeMaybe, Ping, Pong
from meshproto.addresses import AddrPort
from tests.meshnode.disco.remote import (
    ELSEWHERE,
    LAN,
    OWN,
    PUBLIC,
    PUBLIC_IPV6,
    REGION,
    Bench,
    Remote,
)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_first_packet_goes_over_derp_and_discovery_begins(bench: Bench) -> None:
    assert bench.send() == (bench.derp,)
    sent = bench.sent()
    assert [to for to, _ in sent] == [LAN, PUBLIC, bench.derp]
    assert all(isinstance(message, Ping) for _, message in sent[:2])
    assert sent[2][1] == CallMeMaybe((OWN,))
    assert bench.take_events() == [PathChanged(bench.peer, bench.derp, None)]


def test_a_ping_names_our_node_key(bench: Bench) -> None:
    bench.send()
    (_, ping), *_ = bench.sent()
    assert isinstance(ping, Ping)
    assert ping.node_key == bench.manager._context.node_key


def test_it_names_the_new_one_after_a_rotation(bench: Bench) -> None:
    new = Remote(77).node_key
    bench.manager.set_node_key(new)
    bench.send()
    (_, ping), *_ = bench.sent()
    assert isinstance(ping, Ping)
    assert ping.node_key == new


def test_nothing_is_sent_to_a_peer_that_nobody_talks_to(bench: Bench) -> None:
    bench.wait(1000.0)
    assert bench.sent() == []
    assert bench.manager.next_timeout() is None


def test_more_packets_make_no_more_pings(bench: Bench) -> None:
    bench.send()
    bench.sent()
    for _ in range(100):
        assert bench.send() == (bench.derp,)
    assert bench.sent() == []


def test_candidates_that_do_not_answer_are_pinged_in_steps(bench: Bench) -> None:
    bench.send()
    bench.sent()
    begin = bench.now
    times = []
    while bench.now < begin + 4.9:
        bench.wait(0.01)
        times += [bench.now - begin for to in bench.pinged() if to == PUBLIC]
    assert times == pytest.approx([0.15, 0.4, 0.9], abs=0.02)


def test_while_there_is_no_path_rounds_get_rarer(bench: Bench) -> None:
    calls = []
    begin = bench.now
    while bench.now < begin + 100:
        bench.send()
        calls += [round(bench.now - begin) for _, one in bench.sent() if isinstance(one, CallMeMaybe)]
        bench.wait(0.5)
    assert calls == [0, 5, 15, 35, 65, 95]


def test_a_pong_confirms_a_path(bench: Bench) -> None:
    bench.send()
    bench.answer_pings(PUBLIC)
    assert bench.send() == (PUBLIC,)
    event = bench.take_events()[-1]
    assert isinstance(event, PathChanged)
    assert event.destination == PUBLIC
    assert event.latency == pytest.approx(0.02)
    assert bench.manager.confirmed(bench.peer) == PUBLIC


def test_nothing_but_a_pong_confirms_one(bench: Bench) -> None:
    bench.send()
    bench.ping(PUBLIC)
    bench.call(PUBLIC)
    bench.manager.heard_from(bench.peer, PUBLIC, bench.now)
    bench.receive(Pong(b"\x01" * 12, OWN), PUBLIC)
    assert bench.send() == (bench.derp,)


def test_a_pong_over_another_channel_confirms_nothing(bench: Bench) -> None:
    bench.send()
    pings = [message for to, message in bench.sent() if to == PUBLIC and isinstance(message, Ping)]
    bench.receive(Pong(pings[0].tx_id, OWN), REGION)
    assert bench.send() == (bench.derp,)


def test_the_better_path_is_taken_whoever_answers_first(bench: Bench) -> None:
    bench.send()
    pings = {to: message for to, message in bench.sent() if isinstance(message, Ping)}
    bench.wait(0.001)
    bench.receive(Pong(pings[LAN].tx_id, OWN), LAN)
    bench.wait(0.02)
    bench.receive(Pong(pings[PUBLIC].tx_id, OWN), PUBLIC)
    assert bench.send() == (LAN,)


def test_a_faster_path_that_answers_later_is_taken(bench: Bench) -> None:
    bench.manager.set_peer(bench.remote.info([PUBLIC, PUBLIC_IPV6]), bench.now)
    bench.send()
    bench.answer_pings(PUBLIC, after=0.1)
    assert bench.send() == (PUBLIC,)
    bench.wait(0.05)
    bench.answer_pings(PUBLIC_IPV6, after=0.05)
    assert bench.send() == (PUBLIC_IPV6,)


def test_a_ping_is_answered_to_where_it_came_from(bench: Bench) -> None:
    assert bench.ping(ELSEWHERE) is None
    sent = bench.sent()
    assert sent[0] == (ELSEWHERE, Pong(bytes(12), ELSEWHERE))
    assert isinstance(sent[1][1], Ping), "and by a ping of ours"
    assert sent[1][0] == ELSEWHERE


def test_a_ping_over_derp_is_answered_over_derp(bench: Bench) -> None:
    assert bench.ping(3) is None
    assert bench.sent() == [
        (DerpDestination(3, bench.peer), Pong(bytes(12), AddrPort("127.3.3.40", 3))),
    ]


def test_the_others_heartbeats_are_not_answered_by_pings_for_ever(bench: Bench) -> None:
    bench.go_direct()
    bench.sent()
    for _ in range(10):
        bench.wait(0.1)
        bench.ping(PUBLIC)
    assert len([to for to in bench.pinged() if to == PUBLIC]) <= 1


def test_an_idle_node_keeps_its_path_proven_by_the_others_heartbeats(bench: Bench) -> None:
    for number in range(40):
        bench.ping(PUBLIC, number)
        bench.answer_pings(PUBLIC)
        bench.wait(3.0)
    assert bench.send() == (PUBLIC,), "its answer goes direct at once, and only there"


def test_a_call_makes_us_ping_and_call_back(bench: Bench) -> None:
    bench.call(ELSEWHERE)
    sent = bench.sent()
    assert {to for to, message in sent if isinstance(message, Ping)} == {LAN, PUBLIC, ELSEWHERE}
    assert [message for _, message in sent if isinstance(message, CallMeMaybe)] == [CallMeMaybe((OWN,))]


def test_two_calls_do_not_go_back_and_forth(bench: Bench) -> None:
    bench.send()
    bench.sent()
    bench.wait(0.05)
    bench.call(ELSEWHERE)
    assert not any(isinstance(message, CallMeMaybe) for _, message in bench.sent())


def test_a_call_replaces_the_call_before(bench: Bench) -> None:
    bench.call(ELSEWHERE)
    bench.sent()
    bench.wait(1.5)
    bench.sent()
    bench.call(PUBLIC_IPV6)
    assert ELSEWHERE not in bench.pinged()
