"""From the network to the tunnel, both in one turn, and what is told about it when."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

import pytest

from meshnode.dataplane import Coalescing, DropReason, Gate, Heard, Sent, Turn
from tests.meshnode.dataplane.packets import udp_packet
from tests.meshnode.engine.fast_paths import (
    FOR_EVER,
    MAC1_KEY,
    NUMBER,
    OTHER,
    Far,
    Near,
    Outcome,
    address_of,
    datagram_size,
    handshake,
    incoming,
    loopback,
    outgoing,
)


class TestFromTheNetwork:
    def test_a_batch_is_written(self, near: Near) -> None:
        far = near.fars[1]
        packets = [incoming(1, bytes([k]) * 400) for k in range(10)] + [incoming(1, b"last")]
        datagrams = far.seal(packets)
        far.send(datagrams, near.sock)
        turn = near.turn()
        assert near.written() == packets
        heard = Heard(1, far.ours, 11, 11, sum(map(len, datagrams)), far.address, NUMBER)
        assert turn == Outcome(heard=[heard])

    def test_merged_where_the_tunnel_takes_it(self, near: Near) -> None:
        far = near.fars[1]
        packets = [incoming(1, bytes([k]) * 400) for k in range(10)]
        far.send(far.seal(packets), near.sock)
        near.merge(Coalescing.UDP)
        near.turn()
        (unit,) = near.tun.written()
        assert len(unit) == 10 + 28 + 10 * 400

    def test_heard_is_merged_by_session_and_source(self, near: Near, stack: ExitStack) -> None:
        one, two = near.fars[1], near.fars[2]
        elsewhere = stack.enter_context(loopback())
        home = one.sock
        for far, sock, packet in (
            (one, home, incoming(1, b"a")),
            (one, home, incoming(1, b"b")),
            (one, elsewhere, incoming(1, b"c")),
            (one, home, b""),
            (two, two.sock, incoming(2, b"d")),
            (one, home, incoming(1, b"e")),
        ):
            sock.sendto(far.seal([packet])[0], near.sock.getsockname())
        turn = near.turn()
        assert [(heard.peer, heard.packets, heard.data_packets, heard.source) for heard in turn.heard] == [
            (1, 4, 3, one.address),
            (1, 1, 1, address_of(elsewhere)),
            (2, 1, 1, two.address),
        ]
        assert [heard.session.local_index for heard in turn.heard] == [11, 11, 12]
        assert near.written() == [
            incoming(1, b"a"),
            incoming(1, b"b"),
            incoming(1, b"c"),
            incoming(2, b"d"),
            incoming(1, b"e"),
        ]

    def test_bad_datagrams_of_a_batch_cost_only_themselves(self, near: Near) -> None:
        far = near.fars[1]
        packets = [incoming(1, bytes([k]) * 40) for k in range(6)]
        datagrams = far.seal(packets)
        datagrams[1] = datagrams[1][:-1] + bytes([datagrams[1][-1] ^ 1])
        datagrams[3] = datagrams[0]
        datagrams.append(far.seal([packets[0]])[0][:20])
        far.send(datagrams, near.sock)
        turn = near.turn()
        assert near.written() == [packets[0], packets[2], packets[4], packets[5]]
        assert turn.drops == {
            DropReason.INVALID_TAG: 1,
            DropReason.REPLAYED_COUNTER: 1,
            DropReason.TOO_SHORT: 1,
        }
        assert [(heard.packets, heard.datagram_bytes) for heard in turn.heard] == [(4, 4 * len(datagrams[0]))]

    def test_a_source_that_is_not_the_peers(self, near: Near) -> None:
        far = near.fars[1]
        far.send(far.seal([incoming(2, b"spoofed")]), near.sock)
        turn = near.turn()
        assert near.written() == []
        assert turn.drops == {DropReason.SOURCE_NOT_ALLOWED: 1}

    def test_over_ipv6(self, near_ipv6: Near) -> None:
        near = near_ipv6
        far = near.fars[1]
        far.send(far.seal([incoming(1, b"six")]), near.sock)
        (heard,) = near.turn().heard
        assert heard.source == ("::1", far.address[1], 0)
        assert near.written() == [incoming(1, b"six")]

    def test_handshakes_go_where_their_verdict_says(self, near: Near) -> None:
        far = near.fars[1]
        forged = handshake(mac1_key=bytes(32))
        near.gate.set_room(1)
        good = handshake(2)
        for datagram in (forged, good, good[:-1], *[good] * 8):
            far.send([datagram], near.sock)
        turn = near.turn()
        expected = [(good, far.address)]
        assert turn.admitted == expected * 2  # one for the room, and the first that needs proof
        assert turn.cookies_wanted == expected * 5
        assert turn.drops == {
            DropReason.INVALID_MAC1: 1,
            DropReason.INVALID_LENGTH: 1,
            DropReason.UNDER_LOAD: 2,
        }
        assert turn.other == []

    def test_whatever_else_comes_is_left_to_the_caller(self, near: Near) -> None:
        far = near.fars[1]
        others = [OTHER, b"\x03\0\0\0" + bytes(60), b"x"]
        for datagram in others:
            far.send([datagram], near.sock)
        assert near.turn() == Outcome(other=[(datagram, far.address) for datagram in others])

    def test_an_empty_datagram(self, near: Near) -> None:
        far = near.fars[1]
        far.send([b""], near.sock)
        far.send([OTHER], near.sock)
        assert near.turn() == Outcome(other=[(OTHER, far.address)])

    def test_messages_in_the_midst_of_a_batch(self, near: Near) -> None:
        far = near.fars[1]
        packets = [incoming(1, bytes([k]) * 84) for k in range(2)]
        datagrams = far.seal(packets)
        assert len(datagrams[0]) == 148 - 4
        far.send([datagrams[0], OTHER.ljust(144, b"\xff"), datagrams[1]], near.sock)
        turn = near.turn()
        assert near.written() == packets
        assert turn.other == [(OTHER.ljust(144, b"\xff"), far.address)]

    def test_so_many_messages_a_turn(self, near: Near) -> None:
        for _ in range(70):
            near.fars[1].send([OTHER], near.sock)
        assert [len(near.turn().other), len(near.turn().other), len(near.turn().other)] == [64, 6, 0]

    def test_what_the_tunnel_does_not_take(self, near: Near) -> None:
        """Two units fit after the first was read; then no more is received until the caller has seen it."""
        far = near.fars[1]
        packets = [incoming(1, bytes([k]) * 1000) for k in range(6)]
        datagrams = far.seal(packets)
        far.send(datagrams[:5], near.sock)
        far.send(datagrams[5:], near.sock)
        fill(near)
        near.tun.kernel.recv(1 << 17)
        turn = near.turn()
        written = [unit for unit in near.tun.written() if unit.strip(b"\0")]
        assert 0 < len(written) < 5
        assert written + turn.unwritten == [bytes(10) + packet for packet in packets[:5]]
        assert turn.heard[0].packets == 5
        assert near.turn().unwritten == []
        assert near.written() == packets[5:]


def fill(near: Near) -> None:
    """Until the tunnel takes no more."""
    for size in (4000, 100):
        while True:
            try:
                os.write(near.tun.device.fd, bytes(size))
            except BlockingIOError:
                break


class TestBoth:
    def test_an_answer_leaves_in_the_turn_of_its_question(
        self, near: Near, make: Any, stack: ExitStack
    ) -> None:
        """The tunnel gives back what it was given, to a host that is in the same network."""
        echo = stack.enter_context(loopback(gro=False))
        echo.connect(echo.getsockname())
        path = near.path_over(make, echo.fileno())
        far = near.fars[1]
        path.set_flow(1, far.ours, near.sock, far.address, FOR_EVER)
        question = udp_packet(b"to another one there", addresses=(bytes([10, 0, 0, 2]), bytes([10, 0, 0, 3])))
        far.send(far.seal([question]), near.sock)
        assert path.turn(near.sock, NUMBER, True, 0.0) is None
        moved = path.take_moved()
        assert moved.heard
        assert moved.sent == [Sent(1, 1, datagram_size(question))]
        assert far.packets() == [question]

    def test_a_tunnel_that_is_gone(self, near: Near) -> None:
        near.decide(1)
        far = near.fars[1]
        far.send(far.seal([incoming(1, b"too late")]), near.sock)
        near.tun.device.close()
        turn = near.turn()
        assert turn.is_tun_gone
        assert turn.unwritten == [bytes(10) + incoming(1, b"too late")]
        assert turn.sent == []
        assert not near.turn(tun=False).is_tun_gone

    def test_what_is_refused(self, near: Near, make: Any) -> None:
        far = near.fars[1]
        for host in ("derp-3", "fe80::1%lo", "127.0.0.1:80", ""):
            with pytest.raises(ValueError, match="not an IP address"):
                near.path.set_flow(1, far.ours, near.sock, (host, 1, 0), FOR_EVER)
        with pytest.raises(ValueError, match="not a file descriptor"):
            near.path_over(make, -1)


class TestWhatIsTold:
    """A turn of data only is not told about until the caller asks, but for what it should know soon."""

    def turn(self, near: Near) -> Any:
        return near.path.turn(near.sock, NUMBER, True, 0.0)

    def test_not_what_is_sent(self, near: Near) -> None:
        near.decide(1)
        packet = outgoing(1, b"x")
        for _ in range(3):
            near.give(packet)
            assert self.turn(near) is None
        size = datagram_size(packet)
        assert near.path.take_moved() == ([Sent(1, 3, 3 * size)], [], {})
        assert near.path.take_moved() == ([], [], {})

    def test_not_what_is_dropped(self, near: Near) -> None:
        near.fars[1].send([handshake(mac1_key=bytes(32))], near.sock)
        near.give(b"no packet")
        assert self.turn(near) is None
        drops = {DropReason.INVALID_MAC1: 1, DropReason.NO_PEER_FOR_DESTINATION: 1}
        assert near.path.take_moved() == ([], [], drops)
        assert near.path.take_moved() == ([], [], {})

    def test_who_is_heard_first(self, near: Near) -> None:
        one, two = near.fars[1], near.fars[2]

        def hear(far: Far) -> bool:
            far.send(far.seal([incoming(far.peer, b"x")]), near.sock)
            turn = self.turn(near)
            assert turn is None or turn == Turn(None, [], [], [], [], [], is_tun_gone=False)
            return turn is not None

        assert hear(one)
        assert hear(one)  # until that was taken
        near.path.take_moved()
        assert not hear(one)
        assert hear(two)
        near.path.clear_flows()
        assert hear(one)
        near.path.clear_flows()
        near.decide(1)
        assert not hear(one)

    def test_very_many_sources(self, near: Near, stack: ExitStack) -> None:
        near.decide(1)
        far = near.fars[1]
        for count in range(1, 66):
            sock = stack.enter_context(loopback())
            sock.sendto(far.seal([b""])[0], near.sock.getsockname())
            assert (self.turn(near) is not None) == (count > 64)
        assert len(near.path.take_moved().heard) == 65
        far.send(far.seal([b""]), near.sock)
        assert self.turn(near) is None

    def test_the_same_source_through_two_sockets(self, near: Near) -> None:
        near.decide(1)
        far = near.fars[1]
        for number in (7, 8, 7):
            far.send(far.seal([b""]), near.sock)
            assert near.path.turn(near.sock, number, True, 0.0) is None
        assert [(one.packets, one.socket) for one in near.path.take_moved().heard] == [(2, 7), (1, 8)]

    def test_another_gate(self, near: Near) -> None:
        """After our own key has changed."""
        gate = Gate(bytes(32))
        gate.set_room(64)
        near.path.set_tunnel(gate, 1280, 65473, Coalescing.NONE)
        for mac1_key in (bytes(32), MAC1_KEY):
            near.fars[1].send([handshake(mac1_key=mac1_key)], near.sock)
        turn = near.turn()
        assert len(turn.admitted) == 1
        assert turn.drops == {DropReason.INVALID_MAC1: 1}
