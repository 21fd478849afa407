"""What strangers, and peers that mean no good, can make us send, keep or believe."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshnode.disco.constants import (
    ANSWER_BURST,
    ANSWERS_PER_SECOND,
    CALL_BURST,
    MAX_CALL_ENDPOINTS,
    MAX_LEARNED,
    OPENING_BURST,
    PING_BURST,
    PINGS_PER_SECOND,
)
from meshnode.disco.destinations import AuxPath, Path, RelayPath
from meshnode.disco.events import DiscoDrop
from meshnode.disco.messages import (
    AllocateUDPRelayEndpointRequest,
    BindUDPRelayEndpoint,
    CallMeMaybe,
    Message,
    Ping,
    Pong,
)
from meshnode.wireguard import Kind
from meshproto.addresses import AddrPort
from tests.meshnode.disco.remote import ELSEWHERE, LAN, OWN, PUBLIC, REGION, Bench, Remote

ALLOCATE = AllocateUDPRelayEndpointRequest((Remote(1).disco_key, Remote(2).disco_key), 1)
VICTIMS = [AddrPort(f"198.18.{high}.{low}", 53) for high in range(16) for low in range(250)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_strangers_cost_no_cryptography(bench: Bench) -> None:
    stranger = Remote(3)
    assert bench.receive(Ping(bytes(12)), PUBLIC, stranger) is DiscoDrop.UNKNOWN_SENDER
    assert len(bench.manager._context.keys) == 0
    assert bench.manager.take_datagrams() == []


def test_a_forgery_in_a_peers_name(bench: Bench) -> None:
    stranger = Remote(3)
    sealed = bytearray(stranger.keys.seal(bench.manager.disco_key, Ping(bytes(12)).encode()))
    sealed[6:38] = bench.remote.disco_key.raw
    assert bench.manager.receive_udp(bytes(sealed), PUBLIC, bench.now) is DiscoDrop.INVALID_TAG
    assert bench.manager.take_datagrams() == []
    assert bench.manager.drops[DiscoDrop.INVALID_TAG] == 1


def test_a_flood_of_forgeries_is_cut_off(bench: Bench) -> None:
    forged = b"TS\xf0\x9f\x92\xac" + bench.remote.disco_key.raw + bytes(100)
    outcomes = [bench.manager.receive_udp(forged, PUBLIC, bench.now) for _ in range(int(OPENING_BURST) + 10)]
    assert outcomes.count(DiscoDrop.INVALID_TAG) == int(OPENING_BURST)
    assert outcomes[-1] is DiscoDrop.RATE_LIMITED


@pytest.mark.parametrize(
    ("message", "via", "reason"),
    [
        (CallMeMaybe((ELSEWHERE,)), PUBLIC, DiscoDrop.WRONG_CHANNEL),
        (ALLOCATE, PUBLIC, DiscoDrop.WRONG_CHANNEL),
        (ALLOCATE, REGION, DiscoDrop.UNASKED_RELAY),
        (BindUDPRelayEndpoint(1, 1, Remote(1).disco_key), REGION, DiscoDrop.UNASKED_RELAY),
        (Pong(b"\x09" * 12, OWN), PUBLIC, DiscoDrop.UNKNOWN_PONG),
        (Pong(b"\x09" * 12, OWN), REGION, DiscoDrop.UNKNOWN_PONG),
    ],
)
def test_out_of_place(bench: Bench, message: Message, via: Path | int, reason: DiscoDrop) -> None:
    assert bench.receive(message, via) is reason
    assert bench.manager.take_datagrams() == []


def test_the_relay_vouches_for_another_node(bench: Bench) -> None:
    other = Remote(4)
    bench.manager.set_peer(other.info(), bench.now)
    sealed = bench.remote.keys.seal(bench.manager.disco_key, CallMeMaybe((ELSEWHERE,)).encode())
    outcome = bench.manager.receive_derp(sealed, other.node_key, REGION, bench.now)
    assert outcome is DiscoDrop.WRONG_NODE


def test_unknown_types_and_malformed_ones(bench: Bench) -> None:
    for body, reason in ((b"\x0a\x00", DiscoDrop.UNKNOWN_TYPE), (b"\x01\x00abc", DiscoDrop.MALFORMED)):
        sealed = bench.remote.keys.seal(bench.manager.disco_key, body)
        assert bench.manager.receive_udp(sealed, PUBLIC, bench.now) is reason


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_in_an_envelope(body: bytes, over_derp: bool) -> None:
    bench = Bench()
    sealed = bench.remote.keys.seal(bench.manager.disco_key, body)
    if over_derp:
        bench.manager.receive_derp(sealed, bench.peer, REGION, bench.now)
    else:
        bench.manager.receive_udp(sealed, PUBLIC, bench.now)
    assert len(bench.manager.take_datagrams()) <= 5


@given(st.binary(min_size=38, max_size=200))
def test_any_bytes_at_all(datagram: bytes) -> None:
    bench = Bench()
    for data in (datagram, b"TS\xf0\x9f\x92\xac" + datagram):
        assert bench.manager.receive_udp(data, PUBLIC, bench.now) is not None
        assert bench.manager.receive_derp(data, bench.peer, REGION, bench.now) is not None
        assert bench.manager.receive_geneve(data, PUBLIC, bench.now) is not None
    assert bench.manager.take_datagrams() == []


def test_pings_from_everywhere_are_answered_within_bounds(bench: Bench) -> None:
    """A peer, or somebody who replays one ping of it from forged sources: twice the bytes, for a moment."""
    seconds, each = 10, 2000
    sent = {"pings": 0, "pongs": 0}
    for second in range(seconds):
        for number in range(each):
            bench.ping(VICTIMS[number])
            if number % 100 == 0:
                bench.wait(1 / 20)
        for one in bench.manager.take_datagrams():
            sent["pings" if len(one.payload) == 124 else "pongs"] += 1
        assert len(bench.manager.status(bench.peer, bench.now).candidates) <= MAX_LEARNED + 2, second
    assert sent["pongs"] <= ANSWER_BURST + ANSWERS_PER_SECOND * seconds * 1.01
    assert sent["pings"] <= PING_BURST + PINGS_PER_SECOND * seconds * 1.01
    assert bench.manager.drops[DiscoDrop.RATE_LIMITED] > 0


def test_calls_to_ping_others_are_bounded(bench: Bench) -> None:
    """A peer that names victims: 64 of them per call, and no more pings than the budget."""
    seconds, sent = 8, 0
    rng = random.Random(1)
    for _ in range(seconds * 10):
        bench.call(*rng.sample(VICTIMS, 200))
        bench.wait(0.1)
        sent += len(bench.pinged())
    assert sent <= PING_BURST + PINGS_PER_SECOND * seconds * 1.01
    assert len(bench.manager.status(bench.peer, bench.now).candidates) <= MAX_CALL_ENDPOINTS + 2


def test_calls_are_acted_on_now_and_then_only(bench: Bench) -> None:
    outcomes = []
    for _ in range(20):
        bench.call(ELSEWHERE)
        outcomes.append(bench.manager.drops[DiscoDrop.RATE_LIMITED])
    assert outcomes[-1] == 20 - CALL_BURST


def test_a_peer_that_answers_pings_that_went_elsewhere_gains_nothing(bench: Bench) -> None:
    """It can only confirm paths that it was pinged on, and knows the transaction id of."""
    bench.send()
    bench.sent()
    for number in range(1000):
        bench.receive(Pong(number.to_bytes(12, "big"), OWN), ELSEWHERE)
    assert bench.send() == (bench.derp,)


def test_an_answer_after_the_time_confirms_nothing(bench: Bench) -> None:
    bench.send()
    pings = [message for to, message in bench.sent() if to == PUBLIC and isinstance(message, Ping)]
    bench.wait(5.1)
    assert bench.receive(Pong(pings[0].tx_id, OWN), PUBLIC) is DiscoDrop.UNKNOWN_PONG
    assert bench.send() == (bench.derp,)


def test_an_answer_counts_once(bench: Bench) -> None:
    bench.send()
    pings = [message for to, message in bench.sent() if to == PUBLIC and isinstance(message, Ping)]
    bench.wait(0.02)
    assert bench.receive(Pong(pings[0].tx_id, OWN), PUBLIC) is None
    assert bench.receive(Pong(pings[0].tx_id, OWN), PUBLIC) is DiscoDrop.UNKNOWN_PONG


PLACES: list[Path] = [LAN, PUBLIC, ELSEWHERE, AuxPath(PUBLIC, 1), RelayPath(ELSEWHERE, 3)]
OPERATIONS = st.one_of(
    st.tuples(st.just("wait"), st.floats(0, 20)),
    st.tuples(st.just("send"), st.sampled_from(Kind)),
    st.tuples(st.just("ping"), st.sampled_from([*PLACES, REGION, 3])),
    st.tuples(st.just("call"), st.lists(st.sampled_from([LAN, PUBLIC, ELSEWHERE]))),
    st.tuples(st.just("answer"), st.lists(st.sampled_from([*PLACES, "derp"]), min_size=1)),
    st.tuples(st.just("heard"), st.sampled_from(PLACES)),
    st.tuples(st.just("timed out"), st.none()),
    st.tuples(st.just("network"), st.none()),
    st.tuples(st.just("own"), st.lists(st.sampled_from([OWN, ELSEWHERE]))),
    st.tuples(st.just("netmap"), st.lists(st.sampled_from([LAN, PUBLIC, ELSEWHERE]))),
    st.tuples(st.just("hard"), st.sampled_from([None, True, False])),
    st.tuples(st.just("derp"), st.booleans()),
    st.tuples(st.just("asked"), st.integers(0, 2000)),
)


@given(st.lists(OPERATIONS, max_size=40))
def test_whatever_happens(operations: list[tuple[str, object]]) -> None:
    """No exception, no endless timers, always somewhere to send to, and never more than two places."""
    bench = Bench()
    for operation, argument in operations:
        apply(bench, operation, argument)
        turns = 0
        while (due := bench.manager.next_timeout()) is not None and due <= bench.now:
            bench.manager.handle_timeout(bench.now)
            turns += 1
            assert turns < 20, "timers do not come to rest"
        places = bench.send()
        assert 1 <= len(places) <= 2
        status = bench.manager.status(bench.peer, bench.now)
        assert status.destinations == places
        assert status.is_direct == (status.relay_reason is None)
        assert sum(one.is_best for one in status.candidates) <= 1


def apply(bench: Bench, operation: str, argument: object) -> None:
    manager, now = bench.manager, bench.now
    match operation, argument:
        case "wait", float(seconds):
            bench.wait(seconds)
        case "send", Kind() as kind:
            bench.send(kind)
        case "ping", via:
            bench.ping(via)  # type: ignore[arg-type]
        case "call", list(endpoints):
            bench.call(*endpoints)
        case "answer", list(places):
            bench.answer_pings(*[bench.derp if one == "derp" else one for one in places])
        case "heard", via:
            manager.heard_from(bench.peer, via, now)  # type: ignore[arg-type]
        case "timed out", _:
            manager.handshake_timed_out(bench.peer, now)
        case "network", _:
            manager.network_changed(now)
        case "own", list(endpoints):
            manager.set_own_endpoints(endpoints, now, mapping_varies=len(endpoints) > 1)
        case "netmap", list(endpoints):
            manager.set_peer(bench.remote.info([*endpoints, LAN]), now)
        case "hard", hard:
            manager.set_peer(bench.remote.info(mapping_varies=hard), now)  # type: ignore[arg-type]
        case "derp", bool(has_derp):
            manager.set_reachability(now, has_derp=has_derp)
        case "asked", int(size):
            manager.ping(bench.peer, size, now)
        case unknown:
            raise AssertionError(unknown)
