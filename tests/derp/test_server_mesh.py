"""The relay's core: the relays of its region."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from derp import frames
from derp.client_core import (
    PeerGone,
)
from derp.drops import DropReason, Kind
from derp.frames import FrameType, PeerGoneReason, PeerPresent, PresenceFlag
from derp.login import ClientInfo
from derp.session import Arrival
from meshproto.keys import NodePrivate
from tests.derp.keys import ALICE, BOB, CAROL
from tests.derp.relay_sim import DISCO, RelaySim

OTHER_RELAY = NodePrivate(bytes(range(9, 41)))


class Link:
    """A forwarder that remembers."""

    def __init__(self) -> None:
        self.forwarded: list[tuple[bytes, bytes, bytes]] = []

    def forward(self, source: bytes, destination: bytes, packets: Sequence[bytes]) -> None:
        self.forwarded += [(source, destination, packet) for packet in packets]


class TestMesh:
    def test_watcher_hears_of_everyone(self) -> None:
        sim = RelaySim()
        sim.connect(ALICE, arrival=Arrival("2001:db8::1", 5, is_ideal=False)).take_events()
        relay = sim.mesh_peer(OTHER_RELAY)
        relay.core.watch_connections()
        sim.settle()
        present = relay.take_events()
        assert PeerPresent(ALICE.public, "2001:db8::1", 5, PresenceFlag.NOT_IDEAL) in present
        assert PeerPresent(OTHER_RELAY.public, "192.0.2.1", 4000, PresenceFlag.MESH_PEER) in present
        bob = sim.log_in(BOB, ClientInfo(is_prober=True))
        assert relay.take_events() == [PeerPresent(BOB.public, "192.0.2.1", 4000, PresenceFlag.PROBER)]
        duplicate = sim.log_in(BOB)
        assert relay.take_events() == [PeerPresent(BOB.public, "192.0.2.1", 4000, PresenceFlag.REGULAR)]
        sim.disconnect(bob)
        assert relay.take_events() == []
        sim.disconnect(duplicate)
        assert relay.take_events() == [PeerGone(BOB.public, PeerGoneReason.DISCONNECTED)]

    def test_forwarded_packet_arrives(self) -> None:
        sim = RelaySim()
        bob, relay = sim.log_in(BOB), sim.mesh_peer(OTHER_RELAY)
        relay.core.forward_packets(ALICE.public.raw, BOB.public.raw, (b"packet",), sim.now)
        sim.settle()
        assert bob.take_packets() == [(ALICE.public, b"packet")]
        assert sim.core.counters.packets_forwarded_in == 1

    def test_forwarded_packet_is_not_forwarded_again(self) -> None:
        sim = RelaySim()
        relay, link = sim.mesh_peer(OTHER_RELAY), Link()
        sim.core.registry.add_forwarder(BOB.public, link)
        relay.core.forward_packets(ALICE.public.raw, BOB.public.raw, (DISCO,), sim.now)
        sim.settle()
        assert link.forwarded == []
        assert relay.take_events() == [PeerGone(BOB.public, PeerGoneReason.NOT_HERE)]
        assert sim.core.counters.packets_dropped == {(DropReason.UNKNOWN_DEST_ON_FWD, Kind.DISCO): 1}

    def test_packet_for_a_client_of_another_relay(self) -> None:
        sim = RelaySim()
        alice, first, second = sim.log_in(ALICE), Link(), Link()
        registry = sim.core.registry
        registry.add_forwarder(BOB.public, first)
        registry.add_forwarder(BOB.public, second)
        registry.add_forwarder(BOB.public, first)
        assert registry.remote_keys == 1
        sim.send(alice, BOB, b"packet")
        registry.remove_forwarder(BOB.public, first)
        registry.remove_forwarder(BOB.public, first)
        sim.send(alice, BOB, b"packet")
        expected = (ALICE.public.raw, BOB.public.raw, b"packet")
        assert (first.forwarded, second.forwarded) == ([expected], [expected])
        assert sim.core.counters.packets_forwarded_out == 2

    def test_own_client_goes_before_another_relay(self) -> None:
        sim = RelaySim()
        alice, bob, link = sim.log_in(ALICE), sim.log_in(BOB), Link()
        sim.core.registry.add_forwarder(BOB.public, link)
        sim.send(alice, BOB, b"packet")
        assert bob.take_packets() == [(ALICE.public, b"packet")]
        sim.disconnect(bob)
        sim.send(alice, BOB, b"packet")
        assert len(link.forwarded) == 1

    def test_peer_is_gone_when_the_whole_region_has_lost_it(self) -> None:
        sim = RelaySim()
        alice, link, relay = sim.log_in(ALICE), Link(), sim.mesh_peer(OTHER_RELAY)
        registry = sim.core.registry
        registry.add_forwarder(BOB.public, link)
        relay.core.forward_packets(BOB.public.raw, ALICE.public.raw, (b"packet",), sim.now)
        sim.settle()
        alice.take_packets()
        sim.disconnect(sim.log_in(BOB))
        assert alice.take_events() == []
        registry.remove_forwarder(BOB.public, link)
        sim.settle()
        assert alice.take_events() == [PeerGone(BOB.public, PeerGoneReason.DISCONNECTED)]

    def test_close_peer(self) -> None:
        sim = RelaySim()
        first, second, bob = sim.log_in(ALICE), sim.log_in(ALICE), sim.log_in(BOB)
        relay = sim.mesh_peer(OTHER_RELAY)
        relay.core.close_peer(ALICE.public)
        relay.core.close_peer(CAROL.public)
        sim.settle()
        assert first.closed
        assert second.closed
        assert not bob.closed

    @pytest.mark.parametrize(
        "stream",
        [
            frames.encode(FrameType.FORWARD_PACKET, bytes(63)),
            frames.encode(FrameType.FORWARD_PACKET, bytes(64 + 65537)),
            frames.encode(FrameType.CLOSE_PEER, bytes(31)),
            frames.encode(FrameType.CLOSE_PEER, bytes(33)),
            frames.encode(FrameType.WATCH_CONNS, bytes(1)),
        ],
    )
    def test_sizes_are_exact(self, stream: bytes) -> None:
        sim = RelaySim()
        relay = sim.mesh_peer(OTHER_RELAY)
        sim.say(relay, stream)
        assert relay.closed

    def test_wrong_mesh_key_is_no_mesh_key(self) -> None:
        sim = RelaySim()
        client = sim.log_in(ALICE, ClientInfo(mesh_key=bytes(32)))
        sim.say(client, frames.WATCH_CONNS)
        assert "no relay of the region" in client.closed

    def test_without_a_mesh_there_are_no_relays(self) -> None:
        sim = RelaySim(mesh_key=None)
        client = sim.mesh_peer(ALICE)
        sim.say(client, frames.WATCH_CONNS)
        assert client.closed
