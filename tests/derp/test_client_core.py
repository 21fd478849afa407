"""The client's core: login with and without a fast start, events, limits, and relays that misbehave."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derp import frames
from derp.client_core import (
    MAX_KNOWN_KEYS,
    QUEUE_PACKETS,
    ClientCore,
    Connected,
    Event,
    HealthChanged,
    PacketsReceived,
    PeerGone,
    PongReceived,
    RelaySilent,
    Restarting,
)
from derp.drops import DropReason, Kind
from derp.frames import FrameError, FrameType, PeerPresent
from derp.liveness import Delivery
from derp.login import ClientInfo, ServerInfo, open_client_info_untrusted, seal_server_info
from tests.derp.keys import ALICE, BOB, RELAY, zeros
from tests.derp.relay_sim import DISCO
from tests.meshproto.feeding import Feeding, every_feeding

SERVER_KEY = frames.server_key(RELAY.public)


def server_info(info: ServerInfo | None = None) -> bytes:
    return frames.encode(
        FrameType.SERVER_INFO, seal_server_info(info or ServerInfo(), RELAY, ALICE.public, zeros)
    )


def connecting(*, fast: bool = False) -> ClientCore:
    return ClientCore(ALICE, 0.0, entropy=zeros, server=RELAY.public if fast else None)


def connected(info: ServerInfo | None = None) -> ClientCore:
    core = connecting(fast=True)
    core.data_to_send()
    core.receive_data(SERVER_KEY + server_info(info), 0.0)
    return core


def received(core: ClientCore, *encoded: bytes) -> list[Event]:
    return core.receive_data(b"".join(encoded), 1.0)


def test_login_waits_for_the_server_key() -> None:
    core = connecting()
    assert core.data_to_send() == b""
    assert core.receive_data(SERVER_KEY, 0.0) == []
    login = core.data_to_send()
    assert login[0] == FrameType.CLIENT_INFO
    assert open_client_info_untrusted(login[5:], RELAY) == (ALICE.public, ClientInfo(can_ack_pings=True))
    assert core.receive_data(server_info(), 0.0) == [Connected(RELAY.public, ServerInfo())]
    assert core.is_connected


def test_fast_start_logs_in_at_once() -> None:
    core = connecting(fast=True)
    assert core.data_to_send()[0] == FrameType.CLIENT_INFO
    assert core.receive_data(SERVER_KEY + server_info(), 0.0) == [Connected(RELAY.public, ServerInfo())]


def test_packets_wait_for_the_login_and_none_is_lost() -> None:
    core = connecting()
    core.send_packets(BOB.public, (b"first",), 0.0)
    core.note_preferred(True)
    core.receive_data(SERVER_KEY, 0.0)
    assert core.data_to_send()[0] == FrameType.CLIENT_INFO
    assert core.data_to_send() == b""
    core.receive_data(server_info(), 0.0)
    expected = frames.send_packet(BOB.public.raw, b"first") + frames.note_preferred(True)
    assert core.data_to_send() == expected


@every_feeding
def test_events(feed: Feeding) -> None:
    core = connecting()
    present = PeerPresent(BOB.public, "192.0.2.1", 5)
    stream = b"".join(
        [
            SERVER_KEY,
            server_info(),
            frames.recv_packet(BOB.public.raw, b"packet"),
            frames.KEEP_ALIVE,
            frames.encode(0x55, b"unknown"),
            frames.peer_gone(BOB.public.raw, frames.PeerGoneReason.NOT_HERE),
            frames.peer_present(present),
            frames.pong(b"12345678"),
            frames.health("trouble"),
            frames.health(""),
            frames.encode(FrameType.HEALTH, b"\xff"),
            frames.restarting(100, 2000),
        ]
    )
    events = [event for piece in feed(stream) for event in core.receive_data(piece, 0.0)]
    assert events == [
        Connected(RELAY.public, ServerInfo()),
        PacketsReceived(BOB.public, [b"packet"]),
        PeerGone(BOB.public, 1),
        present,
        PongReceived(b"12345678"),
        HealthChanged("trouble"),
        HealthChanged(""),
        HealthChanged("\ufffd"),
        Restarting(0.1, 2.0),
    ]


def test_pings_are_answered() -> None:
    core = connected()
    received(core, frames.encode(FrameType.PING, b"12345678extra"))
    assert core.data_to_send() == frames.pong(b"12345678")
    assert received(core, frames.encode(FrameType.PING, b"short"), frames.pong(b"")) == []
    assert core.data_to_send() == b""


def test_what_relays_say_to_each_other() -> None:
    core = connected()
    core.watch_connections()
    core.close_peer(BOB.public)
    core.forward_packets(ALICE.public.raw, BOB.public.raw, (b"packet",), 0.0)
    core.ping(b"12345678")
    assert core.data_to_send() == (
        frames.WATCH_CONNS
        + frames.close_peer(BOB.public.raw)
        + frames.forward_packet(ALICE.public.raw, BOB.public.raw, b"packet")
        + frames.ping(b"12345678")
    )


def test_blocked_socket_keeps_the_newest_packets() -> None:
    core = connected()
    core.set_writable(False)
    for number in range(QUEUE_PACKETS + 3):
        core.send_packets(BOB.public, (b"%d" % number,), 0.0)
    assert core.data_to_send() == b""
    core.set_writable(True)
    assert core.data_to_send() == b"".join(
        frames.send_packet(BOB.public.raw, b"%d" % number) for number in range(3, QUEUE_PACKETS + 3)
    )
    assert core.drops == {(DropReason.QUEUE_HEAD, Kind.OTHER): 3}


def test_socket_that_blocks_during_the_login() -> None:
    core = connecting(fast=True)
    core.data_to_send()
    core.set_writable(False)
    core.send_packets(BOB.public, (b"packet",), 0.0)
    core.receive_data(server_info(), 0.0)
    assert core.data_to_send() == b""
    core.set_writable(True)
    assert core.data_to_send() == frames.send_packet(BOB.public.raw, b"packet")


def test_limit_of_the_relay_is_kept() -> None:
    core = connected(ServerInfo(bytes_per_second=1000, burst_bytes=100))
    size = 60_000
    core.send_packets(BOB.public, (bytes(size),), 0.0)
    core.send_packets(BOB.public, (bytes(size),), 0.0)
    core.send_packets(BOB.public, (DISCO + bytes(size),), 0.0)
    assert len(core.data_to_send()) == 5 + 32 + size
    assert core.drops == {(DropReason.RATE_LIMIT, Kind.OTHER): 1, (DropReason.RATE_LIMIT, Kind.DISCO): 1}
    core.send_packets(BOB.public, (bytes(size),), 60.0)
    assert core.data_to_send()


def test_mistakes_of_ours() -> None:
    core = connected()
    with pytest.raises(ValueError, match="65536"):
        core.send_packets(BOB.public, (bytes(65537),), 0.0)
    with pytest.raises(ValueError, match="8 bytes"):
        core.ping(b"short")


def test_silence() -> None:
    core = connecting()
    assert core.next_timeout() == 10.0
    core.handle_timeout(9.0)
    with pytest.raises(FrameError, match="does not answer"):
        core.handle_timeout(10.0)


def test_idle_relay_is_asked() -> None:
    core = connected()
    core.receive_data(frames.KEEP_ALIVE, 100.0)
    assert core.next_timeout() == 130.0
    core.handle_timeout(129.0)
    assert core.data_to_send() == b""
    core.handle_timeout(130.0)
    assert core.data_to_send() == frames.ping(bytes(8))
    assert core.receive_data(frames.pong(bytes(8)), 130.1) == []  # nobody else's business
    assert core.next_timeout() == 160.1


def test_relay_that_is_cut_off_while_we_send() -> None:
    core = connected()
    core.send_packets(BOB.public, (b"packet",), 20.0)
    core.send_packets(BOB.public, (b"packet",), 20.4)
    core.data_to_send()
    assert core.next_timeout() == 20.5
    core.handle_timeout(20.5)
    assert core.data_to_send() == frames.ping(bytes(8))
    assert core.next_timeout() == 21.3
    with pytest.raises(RelaySilent, match="does not answer any more"):
        core.handle_timeout(21.3, Delivery.STALLED)


def when_given_up(ping: Callable[[float], Delivery]) -> float:
    """When a relay is, to which we send from 20 s on, and that says nothing."""
    core = connected()
    core.send_packets(BOB.public, (b"packet",), 20.0)
    while True:
        now = core.next_timeout()
        try:
            core.handle_timeout(now, ping(now))
        except RelaySilent:
            return now


def test_relay_whose_host_takes_what_we_send_has_longer() -> None:
    assert when_given_up(lambda _: Delivery.STALLED) == 21.3
    assert when_given_up(lambda _: Delivery.DELIVERED) == 24.3
    assert when_given_up(lambda now: Delivery.UNDERWAY if now < 25 else Delivery.STALLED) == pytest.approx(
        25.3
    )
    assert when_given_up(lambda now: Delivery.UNDERWAY if now < 30 else Delivery.DELIVERED) == pytest.approx(
        33.3, 0.1
    )
    assert when_given_up(lambda _: Delivery.UNDERWAY) == 50.5


def test_any_frame_shows_that_the_relay_is_there() -> None:
    core = connected()
    core.send_packets(BOB.public, (b"packet",), 20.0)
    core.handle_timeout(20.5)
    core.receive_data(frames.recv_packet(BOB.public.raw, b"answer"), 20.6)
    core.handle_timeout(21.3, Delivery.STALLED)
    assert core.next_timeout() == 50.6
    assert core.heard_at == 20.6


def test_doubt_asks_at_once() -> None:
    core = connected()
    core.doubt(20.0)
    assert core.next_timeout() == 20.0
    core.handle_timeout(20.0)
    core.doubt(20.1)
    assert core.next_timeout() == 20.8


@pytest.mark.parametrize(
    "stream",
    [
        b"HTTP/1.1 200 OK\r\n",
        frames.KEEP_ALIVE,
        frames.encode(FrameType.SERVER_KEY, b"DERP"),
        frames.encode(FrameType.SERVER_KEY, bytes(1025)),
        frames.encode(FrameType.SERVER_KEY, frames.MAGIC + bytes(32)),
        SERVER_KEY + frames.encode(FrameType.SERVER_INFO, bytes(100)),
    ],
)
def test_not_a_relay(stream: bytes) -> None:
    with pytest.raises(FrameError):
        connecting().receive_data(stream, 0.0)


@pytest.mark.parametrize(
    "stream",
    [
        frames.encode(FrameType.RECV_PACKET, bytes(31)),
        frames.encode(FrameType.RECV_PACKET, bytes(1024 * 1024 + 1)),
        frames.encode(0x77, bytes(1024 * 1024 + 1)),
        frames.encode(FrameType.PEER_GONE, bytes(31)),
        frames.encode(FrameType.PEER_PRESENT, bytes(31)),
        frames.encode(FrameType.RESTARTING, bytes(7)),
    ],
)
def test_relay_that_misbehaves(stream: bytes) -> None:
    with pytest.raises(FrameError):
        received(connected(), stream)


def test_packets_before_the_login_is_answered_are_ignored() -> None:
    core = connecting(fast=True)
    packet = frames.recv_packet(BOB.public.raw, b"packet")
    assert core.receive_data(SERVER_KEY + packet + server_info() + packet, 0.0) == [
        Connected(RELAY.public, ServerInfo()),
        PacketsReceived(BOB.public, [b"packet"]),
    ]


def test_keys_that_are_kept_are_bounded() -> None:
    core = connected()
    for number in range(MAX_KNOWN_KEYS + 10):
        received(core, frames.recv_packet(number.to_bytes(32, "big"), b""))
    assert len(core._known_keys) == 10


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(stream: bytes, is_connected: bool) -> None:
    core = connected() if is_connected else connecting()
    with contextlib.suppress(FrameError):
        core.receive_data(stream, 0.0)
    core.data_to_send()
