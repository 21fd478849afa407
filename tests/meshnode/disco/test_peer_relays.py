"""Meeting a peer at the peer relay that it asks us to meet it at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshnode.disco import geneve
from meshnode.disco.constants import MAX_RELAY_ADDRESSES
from meshnode.disco.context import Settings
from meshnode.disco.destinations import Destination, RelayPath
from meshnode.disco.events import Datagram, DiscoDrop
from meshnode.disco.geneve import GeneveHeader
from meshnode.disco.messages import (
    BindUDPRelayEndpoint,
    BindUDPRelayEndpointAnswer,
    BindUDPRelayEndpointChallenge,
    CallMeMaybeVia,
    Message,
    Ping,
    Pong,
    RelayEndpoint,
)
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic
from tests.meshnode.disco.remote import OWN, PUBLIC, REGION, Bench, Remote

RELAY = Remote(50)
RELAY_AT = AddrPort("198.51.100.50", 7777)
RELAY_AT_IPV6 = AddrPort("2001:db8::50", 7777)
VNI = 42
CHALLENGE = b"\x77" * 32
PATH = RelayPath(RELAY_AT, VNI)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def endpoint(bench: Bench, lamport: int = 1, vni: int = VNI, **changes: object) -> RelayEndpoint:
    offered = RelayEndpoint(
        server_key=RELAY.disco_key,
        client_keys=(bench.manager.disco_key, bench.remote.disco_key),
        lamport_id=lamport,
        vni=vni,
        bind_lifetime=30.0,
        steady_state_lifetime=300.0,
        addresses=(RELAY_AT, RELAY_AT_IPV6),
    )
    return replace(offered, **changes)  # type: ignore[arg-type]


def offer(bench: Bench, offered: RelayEndpoint | None = None) -> DiscoDrop | None:
    return bench.receive(CallMeMaybeVia(offered or endpoint(bench)), REGION)


def from_relay(
    bench: Bench, message: Message, *, vni: int = VNI, source: AddrPort = RELAY_AT
) -> DiscoDrop | None:
    header = GeneveHeader(geneve.DISCO, vni, is_control=True).encode()
    sealed = RELAY.keys.seal(bench.manager.disco_key, message.encode())
    return bench.manager.receive_geneve(header + sealed, source, bench.now)


def through_relay(bench: Bench, message: Message) -> DiscoDrop | None:
    header = GeneveHeader(geneve.DISCO, VNI).encode()
    sealed = bench.remote.keys.seal(bench.manager.disco_key, message.encode())
    return bench.manager.receive_geneve(header + sealed, RELAY_AT, bench.now)


def opened(bench: Bench, datagrams: list[Datagram]) -> list[tuple[Destination, Message]]:
    """What went to the relay itself; other datagrams are left out."""
    messages = []
    for one in datagrams:
        header = geneve.read_header(one.payload)
        if header is not None and header.is_control:
            assert header.vni == VNI
            messages.append((one.destination, RELAY.open(one)))
    return messages


def bound(bench: Bench) -> BindUDPRelayEndpoint:
    """The offer is taken up; returns what the relay was asked."""
    assert offer(bench) is None
    (_, message), *_ = opened(bench, bench.manager.take_datagrams())
    assert isinstance(message, BindUDPRelayEndpoint)
    return message


def challenge(bind: BindUDPRelayEndpoint, **changes: object) -> BindUDPRelayEndpointChallenge:
    asked = BindUDPRelayEndpointChallenge(bind.vni, bind.generation, bind.remote_key, CHALLENGE)
    return replace(asked, **changes)  # type: ignore[arg-type]


def test_every_address_of_the_relay_is_asked(bench: Bench) -> None:
    assert offer(bench) is None
    asked = opened(bench, bench.manager.take_datagrams())
    assert [to for to, _ in asked] == [RELAY_AT, RELAY_AT_IPV6]
    message = asked[0][1]
    assert isinstance(message, BindUDPRelayEndpoint)
    assert (message.vni, message.remote_key) == (VNI, bench.remote.disco_key)
    assert message.generation != 0


def test_a_silent_relay_is_asked_again_and_then_no_more(bench: Bench) -> None:
    offer(bench)
    bench.manager.take_datagrams()
    asked = 0
    for _ in range(100):
        bench.wait(0.5)
        asked += len(opened(bench, bench.manager.take_datagrams()))
    assert asked == 2 * 6
    assert bench.manager.next_timeout() is None


def test_its_challenge_is_answered_and_the_peer_pinged_through_it(bench: Bench) -> None:
    bind = bound(bench)
    assert from_relay(bench, challenge(bind)) is None
    datagrams = bench.manager.take_datagrams()
    assert opened(bench, datagrams) == [
        (RELAY_AT, BindUDPRelayEndpointAnswer(VNI, bind.generation, bind.remote_key, CHALLENGE))
    ]
    pings = [one for one in datagrams if one.destination == PATH]
    header = geneve.read_header(pings[0].payload)
    assert header == GeneveHeader(geneve.DISCO, VNI)
    assert isinstance(bench.remote.open(pings[0]), Ping)


def relayed(bench: Bench) -> None:
    """Have the path through the relay in use."""
    from_relay(bench, challenge(bound(bench)))
    bench.send()
    pings = [message for to, message in bench_sent(bench) if to == PATH and isinstance(message, Ping)]
    bench.wait(0.05)
    assert through_relay(bench, Pong(pings[0].tx_id, OWN)) is None
    assert bench.send() == (PATH,)


def bench_sent(bench: Bench) -> list[tuple[Destination, Message]]:
    """What went to the peer."""
    return [
        (one.destination, bench.remote.open(one))
        for one in bench.manager.take_datagrams()
        if not getattr(geneve.read_header(one.payload), "is_control", False)
    ]


def test_a_pong_through_it_makes_it_a_path(bench: Bench) -> None:
    relayed(bench)


def test_a_ping_through_it_is_answered_through_it(bench: Bench) -> None:
    assert through_relay(bench, Ping(bytes(12), bench.peer)) is None
    assert bench_sent(bench)[0] == (PATH, Pong(bytes(12), RELAY_AT))


def test_a_direct_path_is_better_however_slow(bench: Bench) -> None:
    relayed(bench)
    for _ in range(80):
        bench.send()
        pings = [(to, message) for to, message in bench_sent(bench) if isinstance(message, Ping)]
        bench.wait(0.5)
        for to, ping in pings:
            if to == PATH:
                through_relay(bench, Pong(ping.tx_id, OWN))
            elif to == PUBLIC:
                bench.receive(Pong(ping.tx_id, OWN), PUBLIC)
    assert bench.send() == (PUBLIC,)


def test_only_over_derp(bench: Bench) -> None:
    assert bench.receive(CallMeMaybeVia(endpoint(bench)), PUBLIC) is DiscoDrop.WRONG_CHANNEL


@pytest.mark.parametrize(
    "changes",
    [
        {"client_keys": (DiscoPublic(b"\x01" * 32), DiscoPublic(b"\x02" * 32))},
        {"vni": 0},
        {"vni": geneve.MAX_VNI + 1},
    ],
)
def test_offers_that_are_not_for_us(bench: Bench, changes: dict[str, object]) -> None:
    assert offer(bench, endpoint(bench, **changes)) is DiscoDrop.UNASKED_RELAY  # type: ignore[arg-type]
    assert bench.manager.take_datagrams() == []
    assert bench.manager._relays == {}


def test_the_switch() -> None:
    bench = Bench(Settings(peer_relays=False))
    assert offer(bench) is DiscoDrop.UNASKED_RELAY


def test_an_older_allocation_is_not_gone_back_to(bench: Bench) -> None:
    assert offer(bench, endpoint(bench, lamport=5)) is None
    assert offer(bench, endpoint(bench, lamport=4)) is DiscoDrop.UNASKED_RELAY
    assert offer(bench, endpoint(bench, lamport=6, vni=43)) is None
    assert len(bench.manager._relays) == 1


def test_the_same_offer_again_changes_nothing(bench: Bench) -> None:
    relayed(bench)
    assert offer(bench) is DiscoDrop.UNASKED_RELAY
    assert bench.send() == (PATH,)


@pytest.mark.parametrize(
    "changes",
    [{"generation": 7}, {"remote_key": DiscoPublic(b"\x03" * 32)}, {"vni": 41}],
)
def test_a_challenge_that_answers_something_else(bench: Bench, changes: dict[str, object]) -> None:
    bind = bound(bench)
    assert from_relay(bench, challenge(bind, **changes)) is DiscoDrop.UNASKED_RELAY
    assert bench.manager.take_datagrams() == []


def test_strangers_under_a_geneve_header(bench: Bench) -> None:
    bind = bound(bench)
    assert from_relay(bench, challenge(bind), vni=VNI + 1) is DiscoDrop.UNKNOWN_SENDER
    assert bench.manager.receive_geneve(b"\x00" * 8, RELAY_AT, bench.now) is DiscoDrop.MALFORMED
    header = GeneveHeader(geneve.DISCO, VNI, is_control=True).encode()
    forged = header + b"TS\xf0\x9f\x92\xac" + RELAY.disco_key.raw + bytes(100)
    assert bench.manager.receive_geneve(forged, RELAY_AT, bench.now) is DiscoDrop.INVALID_TAG


def test_one_allocation_is_for_one_peer(bench: Bench) -> None:
    other = Remote(9)
    bench.manager.set_peer(other.info(), bench.now)
    assert offer(bench) is None
    offered = endpoint(bench, client_keys=(bench.manager.disco_key, other.disco_key))
    assert bench.receive(CallMeMaybeVia(offered), REGION, other) is DiscoDrop.UNASKED_RELAY


def test_no_more_addresses_than_some(bench: Bench) -> None:
    many = tuple(AddrPort("198.51.100.50", port) for port in range(1, 100))
    offer(bench, endpoint(bench, addresses=many))
    assert len(opened(bench, bench.manager.take_datagrams())) == MAX_RELAY_ADDRESSES


def test_nothing_is_left_of_a_removed_peer(bench: Bench) -> None:
    relayed(bench)
    bench.manager.set_peers([], bench.now)
    assert bench.manager._relays == {}
    assert len(bench.manager._context.keys) == 0


def test_another_network_means_another_allocation(bench: Bench) -> None:
    relayed(bench)
    bench.manager.network_changed(bench.now)
    assert bench.manager._relays == {}
    assert offer(bench) is None
