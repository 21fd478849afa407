"""The manager: news of peers and networks, life without DERP or disco, and what a person asks."""

from __future__ import annotations

import pytest

from meshnode.disco.destinations import DerpDestination
from meshnode.disco.events import (
    EndpointsWanted,
    PathChanged,
    PeerInfo,
    PongReceived,
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
    REGION,
    Bench,
    Remote,
)


@pytest.fixture
def bench() -> Bench:
    return Bench()


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
