"""The relay's core: who gets in, and what is no login."""

from __future__ import annotations

import pytest

from derp import frames
from derp.client_core import (
    Connected,
    PongReceived,
)
from derp.frames import FrameType
from derp.login import ClientInfo, ServerInfo, seal_client_info
from derp.session import Admission, Arrival, SessionClosed, State
from meshproto.keys import NodePrivate
from tests.derp.keys import ALICE, BOB, RELAY, zeros
from tests.derp.relay_sim import RelaySim

OTHER_RELAY = NodePrivate(bytes(range(9, 41)))


class TestLogin:
    @pytest.mark.parametrize("fast", [False, True])
    def test_client_is_told_that_it_is_in(self, fast: bool) -> None:
        sim = RelaySim()
        client = sim.connect(ALICE, fast=fast)
        assert client.take_events() == [Connected(RELAY.public, ServerInfo())]
        assert client.session.state is State.ACTIVE
        assert client.session.member is not None
        assert client.session.member.key == ALICE.public.raw

    def test_first_bytes_are_the_server_key(self) -> None:
        sim = RelaySim()
        session = sim.core.connect(Arrival("192.0.2.1", 1), 0.0)
        assert sim.core.take_ready() == [session]
        assert session.take_output(0.0) == frames.server_key(RELAY.public)

    def test_frames_right_behind_the_login(self) -> None:
        """NotePreferred and packets need not wait for ServerInfo."""
        sim = RelaySim()
        bob = sim.log_in(BOB)
        alice = sim.core.connect(Arrival("192.0.2.2", 2), sim.now)
        login = seal_client_info(ClientInfo(), ALICE, RELAY.public, zeros)
        alice.receive_data(
            frames.encode(FrameType.CLIENT_INFO, login)
            + frames.note_preferred(True)
            + frames.send_packet(BOB.public.raw, b"packet"),
            sim.now,
        )
        assert alice.member is not None
        assert alice.member.is_home
        bob.events += bob.core.receive_data(bob.session.take_output(sim.now), sim.now)
        assert bob.take_packets() == [(ALICE.public, b"packet")]

    @pytest.mark.parametrize(
        "stream",
        [
            frames.send_packet(BOB.public.raw, b"packet"),
            frames.ping(bytes(8)),
            frames.encode(FrameType.CLIENT_INFO, b""),
            frames.encode(FrameType.CLIENT_INFO, bytes(56)),
            frames.encode(FrameType.CLIENT_INFO, bytes(20_000)),
        ],
    )
    def test_anything_but_a_login_is_refused(self, stream: bytes) -> None:
        session = RelaySim().core.connect(Arrival("192.0.2.1", 1), 0.0)
        with pytest.raises(SessionClosed):
            session.receive_data(stream, 0.0)

    def test_login_has_a_deadline(self) -> None:
        core = RelaySim().core
        session = core.connect(Arrival("192.0.2.1", 1), 100.0)
        assert session.next_timeout() == 110.0
        session.handle_timeout(109.9, 0)
        with pytest.raises(SessionClosed, match="no login"):
            session.handle_timeout(110.0, 0)
        session.close()
        assert not core.sessions

    def test_second_login_on_a_connection_is_an_unknown_frame(self) -> None:
        sim = RelaySim()
        client = sim.log_in(ALICE)
        sim.say(client, frames.encode(FrameType.CLIENT_INFO, b"again"))
        assert not client.closed
        assert sim.core.counters.unknown_frames == 1


class TestAdmission:
    def test_client_waits_until_it_is_admitted(self) -> None:
        sim = RelaySim(verifies_clients=True)
        client = sim.connect(ALICE, arrival=Arrival("192.0.2.7", 7))
        assert client.session.admission == Admission(ALICE.public, "192.0.2.7")
        assert client.take_events() == []
        assert sim.core.registry.local_keys == 0
        assert client.session.next_timeout() is None
        sim.say(client, frames.ping(b"12345678") + frames.note_preferred(True))
        client.session.admit(sim.now)
        sim.settle()
        assert client.session.state is State.ACTIVE
        assert client.take_events() == [Connected(RELAY.public, ServerInfo()), PongReceived(b"12345678")]

    def test_client_that_left_is_not_admitted(self) -> None:
        sim = RelaySim(verifies_clients=True)
        client = sim.connect(ALICE)
        sim.disconnect(client)
        client.session.admit(sim.now)
        assert sim.core.registry.local_keys == 0

    def test_nonsense_that_waited_is_refused(self) -> None:
        sim = RelaySim(verifies_clients=True)
        client = sim.connect(ALICE)
        sim.say(client, frames.encode(FrameType.PING, b"short"))
        with pytest.raises(SessionClosed, match="ping"):
            client.session.admit(sim.now)

    def test_relays_of_the_region_need_no_admission(self) -> None:
        sim = RelaySim(verifies_clients=True)
        assert sim.mesh_peer(OTHER_RELAY).session.state is State.ACTIVE
