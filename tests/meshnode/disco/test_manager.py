"""The path to one peer step by step: what is sent where, after what, and when."""

from __future__ import annotations

import itertools

import pytest

from meshnode.disco.constants import DEFAULT
from meshnode.disco.context import Settings
from meshnode.disco.destinations import DerpDestination
from meshnode.disco.events import (
    EndpointsWanted,
    PathChanged,
    PeerInfo,
    PongReceived,
    WireMtuFound,
)
from meshnode.disco.messages import CallMeMaybe, Ping, Pong
from meshnode.disco.status import RelayReason
from meshnode.wireguard import Kind
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


# --- the first packet ---


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


# --- a pong ---


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


# --- what the peer sends ---


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


# --- the path in use ---


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


# --- news ---


def test_a_new_endpoint_is_told_to_peers_we_talk_to(bench: Bench) -> None:
    bench.go_direct()
    for _ in range(4):
        bench.wait(0.5)
        bench.answer_pings(PUBLIC)
    bench.manager.set_own_endpoints([OWN, ELSEWHERE], bench.now, mapping_varies=False)
    calls = [message for _, message in bench.sent() if isinstance(message, CallMeMaybe)]
    assert calls == [CallMeMaybe((OWN, ELSEWHERE))]
    bench.manager.set_own_endpoints([ELSEWHERE, OWN], bench.now, mapping_varies=False)
    assert bench.sent() == []


def test_old_endpoints_are_measured_anew_for_a_call(bench: Bench) -> None:
    bench.now += 60.0
    bench.send()
    assert EndpointsWanted() in bench.take_events()
    assert any(isinstance(message, CallMeMaybe) for _, message in bench.sent()), "they may still be right"
    bench.wait(1.0)
    bench.send()
    assert EndpointsWanted() not in bench.take_events()


def test_another_network_doubts_everything(bench: Bench) -> None:
    bench.go_direct()
    bench.sent()
    bench.manager.network_changed(bench.now)
    assert bench.send() == (PUBLIC, bench.derp)
    assert set(bench.pinged()) == {PUBLIC, LAN}
    bench.wait(0.14)
    bench.sent()
    bench.wait(0.1)
    bench.answer_pings(PUBLIC)
    assert bench.send() == (PUBLIC,)


def test_a_peer_that_restarted_has_another_disco_key(bench: Bench) -> None:
    bench.go_direct()
    bench.sent()
    new = Remote(2)
    info = PeerInfo(bench.peer, new.disco_key, [PUBLIC], REGION)
    bench.manager.set_peer(info, bench.now)
    assert bench.receive(Ping(bytes(12)), PUBLIC) is not None, "the old key is nobody's"
    new.node_key = bench.remote.node_key
    bench.remote = new
    assert bench.ping(PUBLIC) is None
    assert bench.send() == (PUBLIC, bench.derp)
    assert len(bench.manager._context.keys) == 1


def test_a_peer_that_nobody_talks_to_is_no_news(bench: Bench) -> None:
    bench.manager.set_peer(bench.remote.info([ELSEWHERE]), bench.now)
    bench.manager.set_own_endpoints([OWN, ELSEWHERE], bench.now)
    assert bench.take_events() == []
    assert bench.sent() == []


def test_a_peer_that_moved_home(bench: Bench) -> None:
    bench.send()
    bench.manager.set_peer(bench.remote.info(home_region=9), bench.now)
    assert bench.send() == (DerpDestination(9, bench.peer),)


def test_a_peer_without_a_home_is_reached_where_it_was_heard() -> None:
    bench = Bench(info=Remote().info(home_region=0))
    assert bench.send()[:1] == (LAN,)
    bench.manager.heard_from(bench.peer, DerpDestination(4, bench.peer), bench.now)
    assert bench.send() == (DerpDestination(4, bench.peer),)
    bench.manager.gone_from(bench.peer, 4)
    assert bench.send() == (LAN,)


def test_a_removed_peer_is_forgotten(bench: Bench) -> None:
    bench.send()
    bench.manager.set_peers([], bench.now)
    bench.manager.take_datagrams()
    assert bench.send() == ()
    assert bench.ping(PUBLIC) is not None
    assert bench.manager.next_timeout() is None
    assert bench.manager._senders == {}


# --- without DERP, without disco ---


def test_without_derp_handshakes_go_everywhere() -> None:
    bench = Bench()
    bench.manager.set_reachability(bench.now, has_derp=False)
    assert bench.send(Kind.HANDSHAKE) == (LAN, PUBLIC)
    assert bench.send(Kind.DATA) == (LAN,)
    bench.manager.heard_from(bench.peer, PUBLIC, bench.now)
    assert bench.send(Kind.HANDSHAKE) == (PUBLIC, LAN)
    bench.answer_pings(PUBLIC)
    assert bench.send(Kind.HANDSHAKE) == (PUBLIC,)
    bench.wait(20.0)
    assert bench.send(Kind.HANDSHAKE)[0] == PUBLIC, "a path that is doubted is still the likeliest"


def test_a_handshake_that_waits_goes_everywhere_once_the_relay_is_known_to_be_dead() -> None:
    """The peer may have restarted while no coordinator could tell its new disco key."""
    bench = Bench()
    assert bench.send(Kind.HANDSHAKE) == (bench.derp,)
    bench.take_events()
    bench.manager.set_reachability(bench.now, has_derp=True, dead_regions=frozenset({REGION}))
    assert PathChanged(bench.peer, None, None) in bench.take_events()
    assert bench.send(Kind.HANDSHAKE) == (LAN, PUBLIC)
    bench.manager.heard_from(bench.peer, PUBLIC, bench.now)
    assert bench.send(Kind.DATA) == (PUBLIC,)
    bench.manager.set_reachability(bench.now, has_derp=True)
    assert bench.send(Kind.DATA) == (bench.derp,)


def test_the_call_is_made_up_for_when_there_is_derp() -> None:
    bench = Bench()
    bench.manager.set_reachability(bench.now, has_derp=False)
    bench.send()
    bench.wait(2.0)
    assert not any(isinstance(message, CallMeMaybe) for _, message in bench.sent())
    bench.manager.set_reachability(bench.now, has_derp=True)
    assert bench.send() == (bench.derp,)
    assert any(isinstance(message, CallMeMaybe) for _, message in bench.sent())


def test_a_peer_without_disco_is_found_by_handshakes() -> None:
    bench = Bench()
    other = Remote(5)
    bench.manager.set_peer(PeerInfo(other.node_key, None, [LAN, PUBLIC]), bench.now)
    assert tuple(bench.manager.destinations(other.node_key, Kind.HANDSHAKE, bench.now)) == (LAN, PUBLIC)
    bench.manager.heard_from(other.node_key, PUBLIC, bench.now)
    assert tuple(bench.manager.destinations(other.node_key, Kind.DATA, bench.now)) == (PUBLIC,)
    bench.manager.set_peer(other.info(), bench.now)
    assert tuple(bench.manager.destinations(other.node_key, Kind.DATA, bench.now)) == (
        DerpDestination(REGION, other.node_key),
    )


# --- what a person asks ---


def test_ping_over_derp(bench: Bench) -> None:
    tx_ids = bench.manager.ping(bench.peer, 0, bench.now)
    sent = bench.sent()
    asked = [message for to, message in sent if isinstance(message, Ping) and message.tx_id == tx_ids[0]]
    bench.wait(0.06)
    bench.receive(Pong(asked[0].tx_id, AddrPort("127.3.3.40", REGION)), REGION)
    event = bench.take_events()[-1]
    assert isinstance(event, PongReceived)
    assert event.via == bench.derp
    assert event.latency == pytest.approx(0.06)
    assert PUBLIC in [to for to, _ in sent], "and a direct path is looked for"


def test_ping_of_a_size(bench: Bench) -> None:
    bench.manager.take_datagrams()
    bench.manager.ping(bench.peer, 1000, bench.now)
    assert 1000 in [len(one.payload) for one in bench.manager.take_datagrams()]


def test_ping_is_for_peers_that_speak_disco(bench: Bench) -> None:
    with pytest.raises(KeyError):
        bench.manager.ping(Remote(9).node_key, 0, bench.now)


def test_status_says_why(bench: Bench) -> None:
    def reason() -> RelayReason | None:
        return bench.manager.status(bench.peer, bench.now).relay_reason

    assert reason() is RelayReason.IDLE
    bench.send()
    assert reason() is RelayReason.DISCOVERING
    bench.wait(2.0)
    assert reason() is RelayReason.NO_ANSWER
    bench.manager.set_reachability(bench.now, has_derp=True, has_udp=False)
    assert reason() is RelayReason.UDP_BLOCKED
    bench.manager.set_reachability(bench.now, has_derp=True)
    bench.wait(3.5)
    bench.answer_pings(PUBLIC)
    status = bench.manager.status(bench.peer, bench.now)
    assert status.is_direct
    assert status.relay_reason is None
    best = [one for one in status.candidates if one.is_best]
    assert [one.path for one in best] == [PUBLIC]
    assert best[0].last_pong_age == 0.0


def test_no_candidates_is_a_reason() -> None:
    bench = Bench(info=Remote().info([]))
    bench.send()
    bench.wait(2.0)
    assert bench.manager.status(bench.peer, bench.now).relay_reason is RelayReason.NO_CANDIDATES


# --- MTU ---


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
