"""One tunnel between two hosts: TCP streams, small UDP packets, and the round trip of a ping.

Every contender has the same kind of network of its own, on a cable without loss; both ends, the traffic's
source and its sink share this machine's processors, so throughput is what all of them cost together.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from functools import partial

from bench import contenders, measure
from bench.contenders import Contender, Remote
from bench.measure import Figure, What
from bench.usage import cpu_of_all_s
from tests.netlab import Host, Lab, Process, iperf3, wait_for

PORT = 51820
OUTER = ("192.0.2.1", "192.0.2.2")
INNER = ("10.9.0.1", "10.9.0.2")
SMALL = 64  # bytes of UDP payload

WHATS = (
    What("there", "one TCP stream", "Mbit/s"),
    What("back", "one TCP stream back", "Mbit/s"),
    What("four", "four TCP streams", "Mbit/s"),
    What("both", "a TCP stream each way, sum", "Mbit/s"),
    What("small", f"UDP of {SMALL} bytes, received", "packets/s"),
    What("cost", "processor time of both ends, one TCP stream", "s/GB", more_is_better=False),
    What("ping", "ping while idle", "ms", more_is_better=False),
    What("loaded", "ping beside one TCP stream", "ms", more_is_better=False),
)


def connect(contender: Contender, hosts: tuple[Host, Host], mtu: int) -> list[int]:
    """A tunnel between two hosts that have a cable. Returns its processes."""
    for host, outer in zip(hosts, OUTER, strict=True):
        host.set_addresses("eth0", [f"{outer}/24"])
    ends = [contender.end(host, port=PORT, mtu=mtu) for host in hosts]
    for end, other, outer, inner, own in zip(ends, ends[::-1], OUTER[::-1], INNER[::-1], INNER, strict=True):
        end.start(f"{own}/16", [Remote(other.public_key, f"{inner}/32", (outer, PORT))])
    wait_for(lambda: hosts[0].reaches(INNER[1]), 15, what=f"the tunnel of {contender.name}")
    return [end.pid for end in ends]


def measure_once(contender: Contender, mtu: int, seconds: int) -> Mapping[str, float]:
    """One round of one contender, in a network of its own."""
    with Lab("bench") as lab:
        hosts = lab.host("a"), lab.host("b")
        lab.link((hosts[0], "eth0"), (hosts[1], "eth0"))
        pids = connect(contender, hosts, mtu)
        ping = round_trips(hosts[0].run(*ping_words(50, 0.05)).stdout)
        before = cpu_of_all_s(pids)
        beside = hosts[0].popen(*ping_words(seconds * 10, 0.1))
        there = tcp(hosts, seconds)
        cpu = cpu_of_all_s(pids) - before
        return {
            "ping": ping,
            "there": there,
            "cost": cpu / (there * 1e6 / 8 * (seconds + 1)) * 1e9,
            "loaded": loaded(beside, seconds),
            "back": tcp(hosts, seconds, "--reverse"),
            "four": tcp(hosts, seconds, "--parallel", "4"),
            "both": tcp(hosts, seconds, "--bidir"),
            "small": small_packets(hosts, seconds),
        }


def ping_words(count: int, interval: float) -> list[str]:
    return ["ping", "-n", "-c", str(count), "-i", str(interval), INNER[1]]


def round_trips(output: str) -> float:
    """The median of what ping printed, in milliseconds."""
    return statistics.median(float(time) for time in re.findall(r"time=([\d.]+)", output))


def loaded(ping: Process, seconds: int) -> float:
    """The median round trip of a ping that ran beside a stream."""
    ping.wait(seconds + 10, check=False)
    return round_trips(ping.output())


def tcp(hosts: tuple[Host, Host], seconds: int, *flags: str) -> float:
    """What iperf3's receivers got, in all directions and streams, in megabits per second."""
    # The first second, in which TCP finds its speed, does not count.
    end = _iperf3(hosts, seconds, "--omit", "1", *flags)
    received = [end["sum_received"], end.get("sum_received_bidir_reverse")]
    return sum(one["bits_per_second"] for one in received if one) / 1e6


def small_packets(hosts: tuple[Host, Host], seconds: int) -> float:
    """Packets that arrived per second, when they are sent as fast as the sender can."""
    # Without `--omit`, after which iperf3 counts packets of the omitted second as lost.
    end = _iperf3(hosts, seconds, "--udp", "--length", str(SMALL), "--bitrate", "0")
    return end["sum_received"]["bits_per_second"] / 8 / SMALL


def _iperf3(hosts: tuple[Host, Host], seconds: int, *flags: str) -> dict[str, dict[str, float]]:
    """The end of iperf3's report."""
    server = iperf3.serve(hosts[1])
    words = iperf3.client_words(INNER[1], "--time", str(seconds), *flags)
    report = json.loads(hosts[0].run(*words, timeout=seconds + 30, check=False).stdout)
    server.wait(10, check=False)  # it ends a little later, and the next one needs its port
    assert "error" not in report, report["error"]
    return dict(report["end"])


def main(argv: Sequence[str] | None = None) -> list[Figure]:
    """Measure and print, as `argv` or the command line says."""
    parser = measure.parser("tunnel", __doc__, rounds=3)
    parser.add_argument("--mtu", type=int, nargs="+", default=[1280, 1420])
    parser.add_argument("--seconds", type=int, default=3, help="of each transfer (default: %(default)s)")
    contenders.add_flags(parser)
    options = parser.parse_args(argv)
    if options.quick:
        options.seconds = 1
    figures = []
    for mtu in options.mtu:
        runs = {
            one.name: partial(measure_once, one, mtu, options.seconds) for one in contenders.chosen(options)
        }
        figures += measure.interleave("tunnel", WHATS, runs, options, f"MTU {mtu}")
    measure.report(options, "One tunnel", figures)
    return figures


if __name__ == "__main__":
    main()
