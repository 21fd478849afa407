"""Keys are renewed, and both ends find together again after they moved or lost their memory."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from tests.interop.pair import (
    INITIATION,
    OUR_INNER,
    OUR_OUTER,
    PORT,
    RESPONSE,
    THEIR_INNER,
    THEIR_OUTER,
    Pair,
    our_destinations,
    prefixes,
    with_port,
)
from tests.netlab import Lab, PingResult, wait_for

pytestmark = pytest.mark.interop


@pytest.mark.parametrize(
    ("timings", "handshakes"),
    [
        pytest.param({"rekey_after_time": 2.0, "rekey_timeout": 0.5}, 4, id="after-time"),
        pytest.param({"rekey_after_messages": 40, "rekey_timeout": 0.2}, 4, id="after-messages"),
    ],
)
def test_rekeying_loses_no_packet(timings: Mapping[str, float], handshakes: int, lab: Lab) -> None:
    pair = Pair(lab, timings)
    pair.start()
    pair.assert_traffic()
    with pair.our_host.capture("eth0", "udp") as capture:
        ping = pair.our_host.popen("ping", "-n", "-i", "0.05", "-c", "200", THEIR_INNER[0])
        back = pair.their_host.popen("ping", "-n", "-i", "0.05", "-c", "200", OUR_INNER[0])
        for direction in (ping, back):
            direction.wait(20)
            assert PingResult.parse(direction.output()).lost == 0
    kinds = [datagram.payload[0] for datagram in capture.udp_datagrams()]
    assert kinds.count(INITIATION) >= handshakes
    assert kinds.count(RESPONSE) >= handshakes


def test_a_key_that_we_reject_early_is_replaced(lab: Lab) -> None:
    """Unused for longer than we accept a key; whoever speaks next gets an answer all the same."""
    short = {
        "reject_after_time": 3.0,
        "rekey_after_time": 2.0,
        "keepalive_timeout": 0.5,
        "rekey_timeout": 0.5,
    }
    pair = Pair(lab, short)
    pair.start()
    pair.assert_traffic()
    time.sleep(4)
    pair.assert_traffic("ours")


def test_we_roam_and_they_follow(pair: Pair) -> None:
    pair.start()
    pair.assert_traffic()
    pair.our_host.set_addresses("eth0", ["192.0.2.77/24", "2001:db8::77/64"])
    assert pair.our_host.ping(THEIR_INNER[0], count=5).received >= 4
    assert pair.their_view().endpoint == f"192.0.2.77:{PORT}"
    pair.assert_traffic("theirs")


def test_they_roam_and_we_follow(pair: Pair) -> None:
    pair.start()
    pair.assert_traffic()
    pair.their_host.set_addresses("eth0", ["192.0.2.77/24", "2001:db8::77/64"])
    pair.theirs.listen(51821)  # it keeps sending from the lost address for 15 s, unless its socket is new
    assert pair.their_host.ping(OUR_INNER[0], count=5).received >= 4
    with pair.our_host.capture("eth0", "udp") as capture:
        pair.assert_traffic("ours")
    assert our_destinations(capture.udp_datagrams()) == {("192.0.2.77", 51821)}


def test_they_roam_from_one_family_to_the_other(pair: Pair) -> None:
    pair.start(initiator="both")
    pair.assert_traffic()
    pair.theirs.set_peer(
        pair.ours.public_key.base64(), prefixes(OUR_INNER), endpoint=with_port(OUR_OUTER["IPv6"])
    )
    assert pair.their_host.ping(OUR_INNER[0], count=5).received >= 4
    with pair.our_host.capture("eth0", "udp") as capture:
        pair.assert_traffic("ours")
    assert our_destinations(capture.udp_datagrams()) == {(THEIR_OUTER["IPv6"], PORT)}


QUICK = {"keepalive_timeout": 0.5, "rekey_timeout": 0.5}


@pytest.mark.parametrize("speaks_first", ["ours", "theirs"])
def test_they_reboot(speaks_first: str, lab: Lab) -> None:
    pair = Pair(lab, QUICK)
    pair.start(initiator="both")
    pair.assert_traffic()
    pair.theirs.kill()
    pair.start_theirs(initiator="both")
    host, (v4, _) = pair.side(speaks_first)
    wait_for(lambda: host.reaches(v4), 10, what="traffic after their reboot")
    pair.assert_traffic("ours")


@pytest.mark.parametrize("speaks_first", ["ours", "theirs"])
@pytest.mark.timeout(60)
def test_we_reboot(pair: Pair, speaks_first: str) -> None:
    pair.start(initiator="both")
    pair.assert_traffic()
    pair.ours.kill()
    pair.start_ours()
    host, (v4, _) = pair.side(speaks_first)
    # They go on with the old key until nothing has come back for 15 seconds.
    wait_for(lambda: host.reaches(v4), 25, what="traffic after our reboot")
    pair.assert_traffic("theirs")
