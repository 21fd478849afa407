"""What an attacker on the path can send: old datagrams, cut ones, changed ones."""

from __future__ import annotations

import os
import time

import pytest

from meshnode.dataplane import DropReason
from tests.interop.pair import ATTACKER, DATA, INITIATION_SIZE, OUR_OUTER, PORT, THEIR_OUTER, Pair, with_port
from tests.netlab import Host, UdpDatagram, wait_for

pytestmark = pytest.mark.interop


def send(host: Host, destination: tuple[str, int], payloads: list[bytes]) -> None:
    """Send UDP datagrams from a host, from a port of its own."""
    script = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"[s.sendto(bytes.fromhex(line.strip()), {destination!r}) for line in sys.stdin]\n"
    )
    host.run("python3", "-c", script, stdin="".join(payload.hex() + "\n" for payload in payloads))


def recorded_session(pair: Pair) -> list[UdpDatagram]:
    """Every datagram from the first handshake on, of a session in which both sides pinged."""
    with pair.our_host.capture("eth0", "udp") as capture:
        pair.start()
        pair.assert_traffic("ours")
        pair.assert_traffic("theirs")
    return capture.udp_datagrams()


def test_replayed_datagrams_change_nothing(pair: Pair) -> None:
    recorded = recorded_session(pair)
    to_us = [d.payload for d in recorded if d.destination[0] == OUR_OUTER["IPv4"]]
    to_them = [d.payload for d in recorded if d.destination[0] == THEIR_OUTER["IPv4"]]
    before = pair.ours.peer(pair.their_key)
    data = [payload for payload in to_us if payload[0] == DATA]
    with pair.attacker.capture("eth0", "udp") as answers:
        send(pair.attacker, (OUR_OUTER["IPv4"], PORT), to_us)
        send(pair.attacker, (THEIR_OUTER["IPv4"], PORT), to_them)
        wait_for(
            lambda: pair.ours.drops(DropReason.REPLAYED_COUNTER) >= len(data), 5, what="the replays' count"
        )
        time.sleep(0.3)
    assert [d for d in answers.udp_datagrams() if d.destination[0] == ATTACKER] == []
    after = pair.ours.peer(pair.their_key)
    assert (after["rx_bytes"], after["handshakes"]) == (before["rx_bytes"], before["handshakes"])
    assert pair.their_view().endpoint == with_port(OUR_OUTER["IPv4"])
    pair.assert_traffic("ours")


def test_a_replayed_initiation_of_theirs_gets_no_answer(pair: Pair) -> None:
    with pair.our_host.capture("eth0", "udp") as capture:
        pair.start(initiator="theirs")
        pair.assert_traffic("theirs")
    (initiation, *_) = [d.payload for d in capture.udp_datagrams() if len(d.payload) == INITIATION_SIZE]
    with pair.attacker.capture("eth0", "udp") as answers:
        send(pair.attacker, (OUR_OUTER["IPv4"], PORT), [initiation] * 3)
        wait_for(
            lambda: pair.ours.drops(DropReason.REPLAYED_TIMESTAMP, DropReason.RATE_LIMITED) >= 3,
            5,
            what="the replays' count",
        )
    assert [d for d in answers.udp_datagrams() if d.destination[0] == ATTACKER] == []
    pair.assert_traffic("theirs")


def test_truncated_and_corrupted_datagrams_change_nothing(pair: Pair) -> None:
    recorded = recorded_session(pair)
    to_us = {d.payload[0]: d.payload for d in recorded if d.destination[0] == OUR_OUTER["IPv4"]}
    broken = [b"\x00", b"\x04", b"\x01\x00\x00\x00", b"\x05\x00\x00\x00" + bytes(60), os.urandom(1472)]
    for payload in to_us.values():
        broken += [payload[:length] for length in (4, 8, 15, 16, 31, len(payload) - 16, len(payload) - 1)]
        broken += [payload + b"\x00", payload[:20] + bytes([payload[20] ^ 1]) + payload[21:]]
    before = pair.ours.peer(pair.their_key)
    with pair.attacker.capture("eth0", "udp") as answers:
        send(pair.attacker, (OUR_OUTER["IPv4"], PORT), broken)
        time.sleep(0.5)
    assert [d for d in answers.udp_datagrams() if d.destination[0] == ATTACKER] == []
    after = pair.ours.peer(pair.their_key)
    assert (after["rx_bytes"], after["handshakes"]) == (before["rx_bytes"], before["handshakes"])
    pair.assert_traffic("ours")
    pair.assert_traffic("theirs")
