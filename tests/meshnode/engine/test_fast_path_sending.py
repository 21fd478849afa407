"""From the tunnel to the network: what leaves, what is left to the caller, and in which order."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from meshnode.dataplane import DropReason, Sent
from tests.meshnode.dataplane.packets import V6, udp_packet
from tests.meshnode.dataplane.test_batch import bulk
from tests.meshnode.engine.fast_paths import (
    FOR_EVER,
    NOWHERE,
    US,
    Near,
    Outcome,
    datagram_size,
    loopback,
    outgoing,
)


class TestFromTheTunnel:
    def test_nothing_to_do(self, near: Near) -> None:
        near.decide(1, 2)
        assert near.turn() == Outcome()

    def test_packets_that_join_leave_in_one_batch(self, near: Near) -> None:
        near.decide(1)
        packets = [outgoing(1, bytes([k]) * 500) for k in range(20)] + [outgoing(1, b"last")]
        near.give(*packets)
        turn = near.turn()
        (receive,) = near.fars[1].receives()
        assert receive.stride == datagram_size(packets[0])
        assert near.fars[1].opened([receive]) == packets
        assert turn == Outcome(sent=[Sent(1, 21, len(receive.data))])

    def test_a_superpacket_joins_what_lies_before_it(self, near: Near) -> None:
        near.decide(1)
        first = bulk(3 * 1240, 1240)
        near.tun.give(first)
        near.tun.give(bulk(2 * 1240, 1240))
        turn = near.turn()
        (receive,) = near.fars[1].receives()
        assert len(near.fars[1].opened([receive])) == 5
        assert turn.sent == [Sent(1, 5, 5 * receive.stride)]

    def test_a_great_superpacket(self, near: Near) -> None:
        near.decide(1)
        read = bulk(60000, 1240)
        near.tun.give(read)
        near.turn()
        assert b"".join(packet[40:] for packet in near.fars[1].packets()) == read[50:]

    def test_any_sizes_keep_their_order(self, near_single: Near) -> None:
        near = near_single
        near.decide(1)
        sizes = [random.Random(7).choice([0, 1, 15, 16, 17, 500, 1200]) for _ in range(60)]
        packets = [outgoing(1, bytes([k]) * size) for k, size in enumerate(sizes)]
        near.give(*packets)
        turn = near.turn()
        receives = near.fars[1].receives()
        assert near.fars[1].opened(receives) == packets
        assert turn.sent == [Sent(1, 60, sum(len(receive.data) for receive in receives))]

    def test_two_peers_keep_the_order_of_each(self, near: Near) -> None:
        near.decide(1, 2)
        mine = {peer: [outgoing(peer, bytes([k]) * 300) for k in range(10)] for peer in (1, 2)}
        for pair in zip(mine[2], mine[1], strict=True):
            near.give(*pair)
        turn = near.turn()
        assert [(sent.peer, sent.packets) for sent in turn.sent] == [(2, 10), (1, 10)]
        for peer, packets in mine.items():
            assert near.fars[peer].packets() == packets

    def test_over_ipv6(self, near_ipv6: Near) -> None:
        near = near_ipv6
        near.decide(1)
        packet = udp_packet(b"six", addresses=V6)
        near.give(packet)
        assert near.turn().sent == [Sent(1, 1, datagram_size(packet))]
        assert near.fars[1].packets() == [packet]

    def test_what_has_no_peer_or_is_malformed_is_counted(self, near: Near) -> None:
        near.decide(1)
        good = outgoing(1, b"good")
        near.give(udp_packet(b"x", addresses=(US, bytes([192, 0, 2, 1]))), b"", b"no packet")
        near.tun.give(b"\xff" * 10 + good)
        near.give(good)
        turn = near.turn()
        assert turn.drops == {
            DropReason.NO_PEER_FOR_DESTINATION: 3,
            DropReason.MALFORMED_OUTBOUND_PACKET: 1,
        }
        assert turn.sent == [Sent(1, 1, datagram_size(good))]
        assert near.fars[1].packets() == [good]

    def test_so_many_reads_a_turn(self, near: Near) -> None:
        near.decide(1)
        near.give(*(outgoing(1, bytes([k])) for k in range(70)))
        assert [near.turn().sent[0].packets, near.turn().sent[0].packets] == [64, 6]

    def test_only_when_asked(self, near: Near) -> None:
        near.decide(1)
        near.give(outgoing(1, b"later"))
        assert near.turn(tun=False) == Outcome()
        assert near.turn(udp=False).sent


def _no_flow(near: Near) -> float:
    near.decide(1)
    return 0.0


def _cleared(near: Near) -> float:
    near.decide(2)
    near.path.clear_flows()
    near.decide(1)
    return 0.0


def _past_its_time(near: Near) -> float:
    near.decide(1)
    near.decide(2, until=5.0)
    return 5.0


def _spent(near: Near) -> float:
    near.decide(1, 2)
    near.fars[2].ours.wipe()
    return 0.0


class TestUndecided:
    @pytest.mark.parametrize("prepare", [_no_flow, _cleared, _past_its_time, _spent])
    def test_the_read_is_given_back_and_nothing_behind_it_is_read(
        self, near: Near, prepare: Callable[[Near], float]
    ) -> None:
        now = prepare(near)
        before, undecided, behind = outgoing(1, b"before"), outgoing(2, b"undecided"), outgoing(1, b"behind")
        near.give(before, undecided, behind)
        turn = near.turn(now=now)
        assert turn == Outcome(sent=[Sent(1, 1, datagram_size(before))], undecided=bytes(10) + undecided)
        assert near.fars[1].packets() == [before]
        assert near.fars[2].receives() == []
        turn = near.turn(now=now)
        assert turn.undecided is None
        assert near.fars[1].packets() == [behind]

    def test_until_its_time(self, near: Near) -> None:
        near.decide(2, until=5.0)
        near.give(outgoing(2, b"x"))
        assert near.turn(now=4.75).sent

    def test_a_newer_decision_counts(self, near: Near) -> None:
        near.decide(1, until=5.0)
        near.decide(1)
        near.give(outgoing(1, b"x"))
        assert near.turn(now=6.0).sent

    def test_a_spent_session_seals_nothing(self, near: Near) -> None:
        _spent(near)
        counter = near.fars[2].ours.send_counter
        near.give(outgoing(2, b"x"))
        assert near.turn().sent == []
        assert near.fars[2].ours.send_counter == counter


class TestUnsent:
    def test_all_from_the_first_that_is_refused(self, near: Near) -> None:
        near.decide(1)
        near.decide(2, to=NOWHERE)
        packets = [outgoing(peer, bytes([k]) * 100) for k, peer in enumerate((1, 2, 2, 1))]
        behind = outgoing(1, b"behind")
        near.give(*packets, behind)
        turn = near.turn()
        size = datagram_size(packets[0])
        assert turn.sent == [Sent(1, 2, 2 * size), Sent(2, 2, 2 * size)]
        assert [(run.peer, len(run.datagrams), run.stride) for run in turn.unsent] == [
            (2, 2 * size, size),
            (1, size, size),
        ]
        assert turn.undecided is None
        one, two = near.fars[1], near.fars[2]
        assert one.packets() == packets[:1]
        assert two.opened([(turn.unsent[0].datagrams, turn.unsent[0].stride)]) == packets[1:3]
        assert one.opened([(turn.unsent[1].datagrams, turn.unsent[1].stride)]) == packets[3:]
        turn = near.turn()
        assert turn.unsent == []
        assert one.packets() == [behind]

    def test_in_order_over_several_runs(self, near: Near) -> None:
        near.decide(1, 2, to=NOWHERE)
        packets = [outgoing(1, b"a" * 100), outgoing(1, b"b" * 300), outgoing(1, b"c" * 50)]
        near.give(*packets)
        turn = near.turn()
        # The first run is tried when the second begins; then no more is read.
        assert near.fars[1].opened([run[1:] for run in turn.unsent]) == packets[:2]
        assert near.fars[1].receives() == []
        turn = near.turn()
        assert near.fars[1].opened([run[1:] for run in turn.unsent]) == packets[2:]

    def test_a_full_buffer_whose_end_is_refused(self, near: Near) -> None:
        """What waits stays where it is, and the read that needs the room is left to the caller."""
        near.decide(1)
        near.decide(2, to=NOWHERE)
        small, read = outgoing(2, b"x" * 1200), bulk(60000, 1240)
        near.tun.give(read)
        near.give(small, small)
        near.tun.give(read)
        turn = near.turn()
        assert [(sent.peer, sent.packets) for sent in turn.sent] == [(1, 49), (2, 2)]
        assert near.fars[2].opened([run[1:] for run in turn.unsent]) == [small] * 2
        assert turn.undecided == read
        assert len(near.fars[1].packets()) == 49

    def test_a_full_buffer_that_leaves_begins_again(self, near: Near) -> None:
        near.decide(1, 2)
        small, read = outgoing(2, b"x" * 1200), bulk(60000, 1240)
        for _ in range(3):
            near.tun.give(read)
            near.give(small, small)
        turn = near.turn()
        assert [(sent.peer, sent.packets) for sent in turn.sent] == [(1, 3 * 49), (2, 6)]
        assert turn.unsent == []
        assert b"".join(packet[40:] for packet in near.fars[1].packets()) == read[50:] * 3
        assert near.fars[2].packets() == [small] * 6

    def test_a_closed_socket(self, near: Near) -> None:
        """Nobody should, but a turn does not raise."""
        sock = loopback()
        near.path.set_flow(1, near.fars[1].ours, sock, near.fars[1].address, FOR_EVER)
        sock.close()
        packet = outgoing(1, b"x")
        near.give(packet)
        turn = near.turn()
        assert near.fars[1].opened([run[1:] for run in turn.unsent]) == [packet]
        near.path.set_flow(1, near.fars[1].ours, sock, near.fars[1].address, FOR_EVER)
        near.sock.close()
        near.give(packet)
        turn = near.turn()
        assert near.fars[1].opened([run[1:] for run in turn.unsent]) == [packet]
