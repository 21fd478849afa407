"""A relay with 1,000 clients: what it forwards, what an idle one costs, and what a deaf one does to others.

And the STUN responder beside it: what it answers, and what is left of that in a flood.

Ours is `python -m derp`; a `derper` on PATH, or the one of `--derper`, takes turns with it. The load comes
from this process, so that each has a core. A pair of clients keeps a window of packets in flight, as a TCP
connection through the relay would, and the figures are those of the packets that arrived.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from bench import measure
from bench.measure import Figure, What
from bench.relay_load import PACKET_SIZE, SMALL_PACKET_SIZE, Client, Stream, allow_many_files, round_trips
from bench.relay_stun import WHATS as STUN_WHATS
from bench.relay_stun import measure_responder, responders
from bench.relays import Relay, Start, relays
from bench.usage import cpu_s, resident_kib
from derp import frames

FLOOD_BATCH = 64  # packets at once to the client that does not read

WHATS = (
    What("packets", f"packets of {PACKET_SIZE} bytes between two clients", "packets/s"),
    What("cpu", "the relay's processor time for each", "µs", more_is_better=False),
    What("trip", f"round trip of {SMALL_PACKET_SIZE} bytes, all idle", "µs", more_is_better=False),
    What("idle", "memory of an idle client", "KiB", more_is_better=False),
    What("lost", "lost beside a client that does not read", "%", more_is_better=False),
    What("growth", "the relay's memory grew meanwhile by", "KiB", more_is_better=False),
)


@dataclass(frozen=True)
class Measured:
    """Figures of one relay."""

    idle_kib: float  # per client
    packets_per_s: float
    cpu_us: float  # per packet
    trip_us: float
    lost: int  # of a pair that reads, beside a client that does not
    kept: int  # of the same pair, packets that arrived
    growth_kib: int  # of the relay's memory while one client did not read

    def figures(self) -> Mapping[str, float]:
        """By the keys of `WHATS`."""
        return {
            "packets": self.packets_per_s,
            "cpu": self.cpu_us,
            "trip": self.trip_us,
            "idle": self.idle_kib,
            "lost": self.lost / (self.lost + self.kept) * 100,
            "growth": self.growth_kib,
        }


def measure_relay(relay: Relay, clients: int, seconds: float) -> Measured:
    """One relay, from empty to full."""
    with ExitStack() as stack:
        pair = stack.enter_context(Client(relay)), stack.enter_context(Client(relay))
        rate, cpu_us = _throughput(relay, Stream(*pair), seconds)
        trip_us = statistics.median(round_trips(*pair, seconds / 2)) * 1e6
        before = resident_kib(relay.pid)
        for _ in range(clients):
            stack.enter_context(Client(relay))
        idle_kib = (resident_kib(relay.pid) - before) / clients
        flooder = stack.enter_context(Client(relay))
        deaf = stack.enter_context(Client(relay, receive_buffer=4096))
        stream, growth = _beside_a_deaf_client(relay, Stream(*pair), flooder, deaf, seconds)
    return Measured(idle_kib, rate, cpu_us, trip_us, stream.lost, stream.received, growth)


def _throughput(relay: Relay, stream: Stream, seconds: float) -> tuple[float, float]:
    """Packets per second, and microseconds of the relay's processor time for each."""
    stream.run(0.5)
    received, cpu, started = stream.received, cpu_s(relay.pid), time.monotonic()
    stream.run(seconds)
    packets = stream.received - received
    return packets / (time.monotonic() - started), (cpu_s(relay.pid) - cpu) / packets * 1e6


def _beside_a_deaf_client(
    relay: Relay, stream: Stream, flooder: Client, deaf: Client, seconds: float
) -> tuple[Stream, int]:
    """A pair at a moderate rate while another client is flooded and does not read.

    Returns the pair's stream, and by how much the relay's memory grew once the flood's buffers were full.
    """
    flood = frames.send_packet(deaf.key.public.raw, bytes(PACKET_SIZE)) * FLOOD_BATCH
    rest = memoryview(b"")
    sizes: list[int] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rest = rest or memoryview(flood)
        rest = rest[flooder.send(rest) :]
        stream.run(0.02, per_second=2000)
        sizes.append(resident_kib(relay.pid))
    settled = sizes[len(sizes) // 4 :]
    return stream, max(settled) - settled[0]


def measure_once(start: Start, clients: int, seconds: float, *, uses_tls: bool) -> Mapping[str, float]:
    """One round of one relay."""
    with start(uses_tls=uses_tls) as relay:
        return measure_relay(relay, clients, seconds).figures()


def main(argv: Sequence[str] | None = None) -> list[Figure]:
    """Measure and print, as `argv` or the command line says."""
    parser = measure.parser("relay", __doc__, rounds=3)
    parser.add_argument("--clients", type=int, default=1000, help="idle clients (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement (default: %(default)s)")
    parser.add_argument("--derper", metavar="PATH", help="instead of the one on PATH")
    options = parser.parse_args(argv)
    if options.quick:
        options.clients, options.seconds = 100, 1.0
    allow_many_files()
    figures = []
    for setting, uses_tls in (("in clear", False), ("with TLS", True)):
        runs = {
            name: partial(measure_once, start, options.clients, options.seconds, uses_tls=uses_tls)
            for name, start in relays(options.derper).items()
        }
        figures += measure.interleave("relay", WHATS, runs, options, setting)
    stuns = {
        name: partial(measure_responder, start, options.seconds)
        for name, start in responders(options.derper).items()
    }
    figures += measure.interleave("relay", STUN_WHATS, stuns, options, "STUN")
    measure.report(options, f"One relay, {options.clients:,} clients", figures)
    return figures


if __name__ == "__main__":
    main()
