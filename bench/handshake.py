"""Handshakes: how many a responder answers, alone and flooded, and what a flood does to a tunnel.

The flood is 50,000 initiations a second that pass the check of mac1 and lead to nothing. While it lasts, an
existing tunnel carries a TCP stream, and a peer that was not heard of before connects. Flooder, peers and
responder share this machine's processors.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from bench import contenders, measure
from bench.contenders import Contender, End, Remote
from bench.measure import Figure, What
from meshproto.keys import NodePrivate
from tests.netlab import CommandFailed, Lab, iperf3, wait_for

PORT = 51820
MTU = 1420
SOURCES = 64
"""Addresses that the peers have, and as many for the flood: who is under load limits each address."""
PATIENCE = 20.0  # seconds for a new peer to connect
PING_INTERVAL = 0.2

WHATS = (
    What("alone", "handshakes answered", "1/s"),
    What("flooded", "handshakes answered, flooded", "1/s"),
    What("kept", "throughput of a tunnel, flooded", "% of alone"),
    What("newcomer", "until a new peer's first ping, flooded", "s", more_is_better=False),
    What("rate", "the flood that was reached", "1/s"),
)


def outer(network: int, number: int) -> str:
    """An address on the LAN."""
    return f"198.18.{network}.{number}"


def inner(number: int) -> str:
    """An address in the tunnel."""
    return f"10.9.{number // 250}.{number % 250 + 1}"


class Scene:
    """A LAN with the responder, another end of a tunnel, a newcomer, many peers, and a flooder."""

    def __init__(self, lab: Lab, contender: Contender, peers: int) -> None:
        lan = lab.lan("lan")
        names = ("responder", "other", "newcomer")
        self.responder, self.other, self.newcomer = hosts = [lab.host(name) for name in names]
        self.crowd, self.flooder = lab.host("crowd"), lab.host("flooder")
        for number, host in enumerate(hosts, 1):
            lan.attach(host, f"{outer(0, number)}/15")
        for network, host in enumerate((self.crowd, self.flooder), 1):
            lan.attach(host, *(f"{outer(network, number)}/15" for number in range(1, SOURCES + 1)))
        # What a flooder sends in batches goes over the cable as single packets, as from a real one.
        self.flooder.ip("link set eth0 gso_max_segs 1")
        self._start(contender, [NodePrivate.generate(os.urandom) for _ in range(peers)])

    def _start(self, contender: Contender, crowd: Sequence[NodePrivate]) -> None:
        main, other, newcomer = (
            contender.end(host, port=PORT, mtu=MTU) for host in (self.responder, self.other, self.newcomer)
        )
        self.key = main.public_key
        known = enumerate((other, newcomer), 1)
        remotes = [Remote(end.public_key, f"{inner(number)}/32") for number, end in known]
        remotes += [Remote(key.public, f"{inner(number)}/32") for number, key in enumerate(crowd, 3)]
        (self.crowd.directory / "keys").write_text("\n".join(key.to_text() for key in crowd))
        main.start(f"{inner(0)}/16", remotes)
        for number, end in ((1, other), (2, newcomer)):
            self._start_towards(end, main, number)
        wait_for(lambda: self.other.reaches(inner(0)), 15, what=f"the tunnel of {contender.name}")

    def _start_towards(self, end: End, main: End, number: int) -> None:
        end.start(f"{inner(number)}/16", [Remote(main.public_key, f"{inner(0)}/32", (outer(0, 1), PORT))])

    def _towards_responder(self, network: int) -> list[str]:
        addresses = [outer(network, number) for number in range(1, SOURCES + 1)]
        to = ["--to", outer(0, 1), "--port", str(PORT), "--key", str(self.key)]
        return [*to, "--addresses", *addresses]

    def handshakes(self, seconds: float) -> float:
        """How many of the crowd's are answered per second."""
        words = [sys.executable, "-m", "bench.initiators", *self._towards_responder(1)]
        words += ["--keys", str(self.crowd.directory / "keys"), "--seconds", str(seconds)]
        told = json.loads(self.crowd.run(*words, timeout=seconds + 30).stdout)
        return float(told["answered"] / told["seconds"])

    def throughput(self, seconds: int) -> float:
        """What a TCP stream gets from the other end to the responder, in Mbit/s; 0 when it does not end."""
        flags = ["--time", str(seconds), "--omit", "1"]
        try:
            stream = iperf3.transfer(self.other, self.responder, inner(0), *flags, timeout=seconds + 20)
        except CommandFailed:
            return 0.0
        return stream.received_bits_per_second / 1e6

    def time_to_connect(self) -> float:
        """Seconds from the newcomer's first ping to its first answer; PATIENCE when none comes."""
        words = ["ping", "-n", "-i", str(PING_INTERVAL), "-w", str(int(PATIENCE)), inner(0)]
        process = self.newcomer.popen(*words)
        answer = r"icmp_seq=(\d+) .*time=([\d.]+)"
        wait_for(
            lambda: re.search(answer, process.output()) or not process.running, PATIENCE + 5, what="ping"
        )
        process.kill()
        times = [
            (int(sequence) - 1) * PING_INTERVAL + float(milliseconds) / 1000
            for sequence, milliseconds in re.findall(answer, process.output())
        ]
        return min([*times, PATIENCE])

    @contextmanager
    def flood(self, rate: float, reached: list[float]) -> Iterator[None]:
        """Flood while the block runs; then append the rate that was reached."""
        words = [sys.executable, "-m", "bench.flood", *self._towards_responder(2), "--rate", str(rate)]
        process = self.flooder.popen(*words, "--seconds", "60")
        wait_for(lambda: "flooding" in process.output(), 10, what="the flood")
        yield
        found = re.search(r"sent (\d+) a second", process.interrupt())
        assert found is not None, process.output()
        reached.append(float(found[1]))


def measure_once(contender: Contender, peers: int, seconds: int, rate: float) -> Mapping[str, float]:
    """One round of one contender."""
    reached: list[float] = []
    with Lab("bench") as lab:
        scene = Scene(lab, contender, peers)
        alone = scene.handshakes(seconds)
        unharmed = scene.throughput(seconds)
        with scene.flood(rate, reached):
            flooded = scene.throughput(seconds)
            newcomer = scene.time_to_connect()
    with Lab("bench") as lab:  # others: those who answered already limit the same peers' next attempt
        scene = Scene(lab, contender, peers)
        with scene.flood(rate, reached):
            answered = scene.handshakes(seconds)
    return {
        "alone": alone,
        "flooded": answered,
        "kept": flooded / unharmed * 100,
        "newcomer": newcomer,
        "rate": sum(reached) / len(reached),
    }


def main(argv: Sequence[str] | None = None) -> list[Figure]:
    """Measure and print, as `argv` or the command line says."""
    parser = measure.parser("handshake", __doc__, rounds=3)
    parser.add_argument("--peers", type=int, default=2000, help="that shake hands (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="of each figure (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=50_000, help="of the flood (default: %(default)s)")
    contenders.add_flags(parser)
    options = parser.parse_args(argv)
    if options.quick:
        options.peers, options.seconds = 300, 1
    runs = {
        one.name: partial(measure_once, one, options.peers, options.seconds, options.rate)
        for one in contenders.chosen(options)
    }
    figures = measure.interleave("handshake", WHATS, runs, options)
    measure.report(options, "Handshakes", figures)
    return figures


if __name__ == "__main__":
    main()
