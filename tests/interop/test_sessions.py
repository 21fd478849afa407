"""Our WireGuard and wireguard-go agree on a session, and carry traffic of all kinds under it."""

from __future__ import annotations

import os
import time

import pytest

from meshnode.dataplane import DropReason
from meshproto.keys import NodePrivate
from tests.interop.our_peer import PeerOptions
from tests.interop.pair import OUR_OUTER, PORT, THEIR_INNER, THEIR_OUTER, Pair, prefixes, with_port
from tests.netlab import Lab, iperf3, wait_for

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("outer", ["IPv4", "IPv6"])
@pytest.mark.parametrize("initiator", ["ours", "theirs"])
def test_either_side_initiates_over_either_family(pair: Pair, initiator: str, outer: str) -> None:
    pair.start(initiator=initiator, outer=outer)
    pair.assert_traffic(initiator)
    pair.assert_traffic("theirs" if initiator == "ours" else "ours")
    assert "latest handshake: " in pair.theirs.show()
    view = pair.their_view()
    assert view.endpoint == with_port(OUR_OUTER[outer])
    stats = pair.ours.peer(pair.their_key)
    assert abs(stats["last_handshake"] - view.latest_handshake) <= 2
    assert stats["rx_bytes"] == pytest.approx(view.sent_bytes, rel=0.1)
    assert stats["tx_bytes"] == pytest.approx(view.received_bytes, rel=0.1)


def test_both_sides_initiate_at_once(pair: Pair) -> None:
    """Initiations that cross may cancel each other; the first retry, 5 s later, settles it."""
    pair.start(initiator="both")
    until_answered = ["ping", "-n", "-i", "0.1", "-c", "10", "-w", "15"]
    sides = [pair.side(who) for who in ("ours", "theirs")]
    for ping in [host.popen(*until_answered, v4) for host, (v4, _) in sides]:
        ping.wait(20)
    pair.assert_traffic("ours")
    pair.assert_traffic("theirs")


@pytest.mark.parametrize("initiator", ["ours", "theirs"])
def test_a_preshared_key(pair: Pair, initiator: str) -> None:
    psk = os.urandom(32)
    pair.start(initiator=initiator, our_psk=psk, their_psk=psk)
    pair.assert_traffic(initiator)


@pytest.mark.parametrize("initiator", ["ours", "theirs"])
def test_a_wrong_preshared_key_gives_silence_until_it_is_right(pair: Pair, initiator: str) -> None:
    psk = os.urandom(32)
    pair.start(initiator=initiator, our_psk=os.urandom(32), their_psk=psk)
    host, (v4, _) = pair.side(initiator)
    assert host.ping(v4, count=3, wait=1).received == 0
    assert pair.ours.peer(pair.their_key)["last_handshake"] is None
    assert "latest handshake" not in pair.theirs.show()
    pair.configure_ours(initiator=initiator, psk=psk)
    wait_for(lambda: host.reaches(v4), 15, what="the handshake with the right key")
    pair.assert_traffic(initiator)


@pytest.mark.parametrize("initiator", ["ours", "theirs"])
def test_a_wrong_public_key_gives_silence(pair: Pair, initiator: str) -> None:
    pair.start(initiator=initiator)
    stranger = NodePrivate.generate(os.urandom).public
    host, (v4, _) = pair.side(initiator)
    if initiator == "ours":
        # Their key is another one than we think.
        pair.ours.peers.clear()
        pair.ours.set_peer(stranger, PeerOptions(prefixes(THEIR_INNER), ((THEIR_OUTER["IPv4"], PORT),)))
        assert host.ping(v4, count=2, wait=1).received == 0
        assert pair.ours.peer(stranger)["last_handshake"] is None
    else:
        # We do not know their key.
        pair.ours.peers.clear()
        pair.ours.set_peer(stranger, PeerOptions(prefixes(THEIR_INNER)))
        assert host.ping(v4, count=2, wait=1).received == 0
        assert pair.ours.drops(DropReason.UNKNOWN_PEER) >= 1
    assert "latest handshake" not in pair.theirs.show()


def test_our_persistent_keepalive_opens_and_keeps_the_tunnel(lab: Lab) -> None:
    pair = Pair(lab, our_keepalive=1)
    pair.start()
    wait_for(lambda: "latest handshake" in pair.theirs.show(), 10, what="a handshake without any traffic")
    received = pair.their_view().received_bytes
    with pair.our_host.capture("eth0", "udp") as capture:
        time.sleep(4)
    assert pair.their_view().received_bytes >= received + 3 * 32
    from_us = [d for d in capture.udp_datagrams() if d.source[0] == OUR_OUTER["IPv4"]]
    assert {len(d.payload) for d in from_us} == {32}
    assert 3 <= len(from_us) <= 5


def test_their_persistent_keepalive_is_heard(lab: Lab) -> None:
    pair = Pair(lab, their_keepalive=1)
    pair.start(initiator="theirs")
    wait_for(lambda: pair.ours.peer(pair.their_key)["last_handshake"], 10, what="their handshake")
    received = pair.ours.peer(pair.their_key)["rx_bytes"]
    with pair.our_host.capture("eth0", "udp") as capture:
        time.sleep(4)
    assert pair.ours.peer(pair.their_key)["rx_bytes"] >= received + 3 * 32
    from_us = [d for d in capture.udp_datagrams() if d.source[0] == OUR_OUTER["IPv4"]]
    assert from_us == [], "a keepalive was answered"


@pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("reverse", [False, True], ids=["we-send", "they-send"])
def test_bulk_tcp_through_the_tunnel(pair: Pair, family: int, reverse: bool) -> None:
    pair.start()
    pair.assert_traffic()
    direction = ["--reverse"] if reverse else []
    iperf3.transfer(pair.our_host, pair.their_host, THEIR_INNER[family], "--bytes", "20M", *direction)
    assert pair.ours.drops(DropReason.INVALID_TAG) == 0
    assert pair.ours.drops(DropReason.REPLAYED_COUNTER) == 0
