"""Traffic through a tunnel while something goes wrong, and how long it stood still."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, pairwise

from tests.netlab import iperf3, wait_for
from tests.netlab.programs import Node

PING_INTERVAL = 0.05
REPORT_INTERVAL = 0.5

_numbers = count(1)
_ANSWER = re.compile(r"^\[(\d+\.\d+)\] .*icmp_seq=(\d+) ", re.MULTILINE)


@dataclass
class Traffic:
    """What a ping 20 times a second and a TCP stream towards `source` saw; filled when the block ends."""

    sent: int = 0
    """Pings up to the last one that was answered."""
    lost: int = 0
    """Those of them that were not."""
    longest_silence: float = 0.0
    """Seconds between two answers to pings."""
    longest_stall: float = 0.0
    """Seconds in which the TCP stream brought nothing, in half seconds."""
    rates: list[float] = field(default_factory=list)


@contextmanager
def traffic(source: Node, destination: Node) -> Iterator[Traffic]:
    """Both run during the block."""
    iperf3.serve(destination.host)
    number = next(_numbers)
    pinged = "-i", str(PING_INTERVAL), destination.ipv4
    ping = source.host.popen("ping", "-n", "-D", *pinged, log=f"ping-{number}")
    words = iperf3.client_words(destination.ipv4, "--time", "600", "--bitrate", "5M", "--reverse")
    stream = source.host.popen(*words, log=f"stream-{number}")
    wait_for(lambda: "icmp_seq=10 " in ping.output(), 10, what="the first pings")
    seen = Traffic()
    try:
        yield seen
    finally:
        stream.interrupt()
        ping.interrupt()
    answers = [(float(at), int(seq)) for at, seq in _ANSWER.findall(ping.output())]
    answered = {seq for _, seq in answers}
    seen.sent = max(answered)  # later ones may have been under way still
    seen.lost = seen.sent - len(answered)
    seen.longest_silence = max(later - sooner for (sooner, _), (later, _) in pairwise(sorted(answers)))
    report, _ = json.JSONDecoder().raw_decode(stream.output())
    seen.rates = [part["sum"]["bits_per_second"] for part in report["intervals"]]
    still = 0
    for rate in seen.rates[:-1]:
        still = 0 if rate else still + 1
        seen.longest_stall = max(seen.longest_stall, still * REPORT_INTERVAL)


def kind_of(payload: bytes) -> str:
    """WireGuard, disco or STUN, by the first bytes; the payload itself where it is none of them."""
    if payload[:6] == b"TS\xf0\x9f\x92\xac":
        return "disco"
    if payload[4:8] == bytes.fromhex("2112a442"):
        return "STUN"
    if payload[0] in (1, 2, 3, 4) and payload[1:4] == bytes(3):
        return "WireGuard"
    return payload.hex()
