"""One tunnel between two hosts: TCP throughput of one stream, and the round trip of a ping while idle.

Ours (the WireGuard engine as one process at each end, without coordinator) and Debian's wireguard-go take
turns, round by round, in the same kind of network, so that what else the machine does hits both. The figure
is the ratio of the medians. `--json` prints one line per MTU instead of the table.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from meshproto.keys import NodePrivate
from tests.interop.our_peer import OurPeer, PeerOptions
from tests.netlab import Host, Lab, iperf3, wait_for
from tests.netlab.wireguard_go import WireGuardGo

PORT = 51820
OUTER = ("192.0.2.1", "192.0.2.2")
INNER = ("10.9.0.1", "10.9.0.2")


@dataclass
class Measured:
    """Figures of one implementation at one MTU, one entry per round."""

    megabits_per_second: list[float] = field(default_factory=list)
    ping_ms: list[float] = field(default_factory=list)


def start_ours(hosts: tuple[Host, Host], mtu: int) -> None:
    """Our engine at both ends."""
    ends = [OurPeer(host, port=PORT, mtu=mtu) for host in hosts]
    for end, other, outer, inner in zip(ends, ends[::-1], OUTER[::-1], INNER[::-1], strict=True):
        end.set_peer(other.public_key, PeerOptions((f"{inner}/32",), ((outer, PORT),)))
    for end, inner in zip(ends, INNER, strict=True):
        end.start([f"{inner}/24"])


def start_wireguard_go(hosts: tuple[Host, Host], mtu: int) -> None:
    """wireguard-go at both ends."""
    keys = [base64.b64encode(NodePrivate.generate(os.urandom).raw).decode() for _ in hosts]
    ends = [WireGuardGo(host, key, port=PORT, mtu=mtu) for host, key in zip(hosts, keys, strict=True)]
    for end, inner in zip(ends, INNER, strict=True):
        end.start([f"{inner}/24"])
    for end, other, outer, inner in zip(ends, ends[::-1], OUTER[::-1], INNER[::-1], strict=True):
        end.set_peer(other.public_key, [f"{inner}/32"], endpoint=f"{outer}:{PORT}")


IMPLEMENTATIONS: dict[str, Callable[[tuple[Host, Host], int], None]] = {
    "ours": start_ours,
    "wireguard-go": start_wireguard_go,
}


def measure(start: Callable[[tuple[Host, Host], int], None], mtu: int, seconds: int, into: Measured) -> None:
    """One round of one implementation, in a network of its own."""
    with Lab("bench") as lab:
        hosts = lab.host("a"), lab.host("b")
        lab.link((hosts[0], "eth0"), (hosts[1], "eth0"))
        for host, outer in zip(hosts, OUTER, strict=True):
            host.set_addresses("eth0", [f"{outer}/24"])
        start(hosts, mtu)
        wait_for(lambda: hosts[0].reaches(INNER[1]), 15, what="the tunnel")
        into.ping_ms.append(ping_median(hosts[0]))
        into.megabits_per_second.append(throughput(hosts, seconds))


def ping_median(host: Host) -> float:
    """The median round trip of idle pings, in milliseconds."""
    output = host.run("ping", "-n", "-c", "50", "-i", "0.05", INNER[1]).stdout
    return statistics.median(float(time) for time in re.findall(r"time=([\d.]+)", output))


def throughput(hosts: tuple[Host, Host], seconds: int) -> float:
    """What iperf3 receives of one TCP stream, in megabits per second."""
    flags = ["--time", str(seconds), "--omit", "1"]
    stream = iperf3.transfer(hosts[0], hosts[1], INNER[1], *flags, timeout=seconds + 30)
    return stream.received_bits_per_second / 1e6


def run(mtu: int, rounds: int, seconds: int, console: Console) -> dict[str, Measured]:
    """All rounds at one MTU, the implementations taking turns."""
    measured = {name: Measured() for name in IMPLEMENTATIONS}
    for number in range(rounds):
        for name, start in IMPLEMENTATIONS.items():
            with console.status(f"MTU {mtu}, round {number + 1} of {rounds}: {name}"):
                measure(start, mtu, seconds, measured[name])
    return measured


def summary(mtu: int, measured: dict[str, Measured]) -> dict[str, float]:
    """The medians and their ratios, as one flat record."""
    ours, theirs = measured["ours"], measured["wireguard-go"]
    rate = {name: statistics.median(one.megabits_per_second) for name, one in measured.items()}
    ping = {name: statistics.median(one.ping_ms) for name, one in measured.items()}
    return {
        "mtu": mtu,
        "rounds": len(ours.ping_ms),
        "ours_mbit_s": round(rate["ours"], 1),
        "wireguard_go_mbit_s": round(rate["wireguard-go"], 1),
        "throughput_ratio": round(rate["ours"] / rate["wireguard-go"], 3),
        "ours_ping_ms": round(ping["ours"], 3),
        "wireguard_go_ping_ms": round(ping["wireguard-go"], 3),
        "ping_ratio": round(ping["ours"] / ping["wireguard-go"], 3),
        "ours_mbit_s_spread": round(spread(ours.megabits_per_second), 3),
        "wireguard_go_mbit_s_spread": round(spread(theirs.megabits_per_second), 3),
    }


def spread(values: list[float]) -> float:
    """How far apart the rounds are: (greatest - smallest) / median."""
    return (max(values) - min(values)) / statistics.median(values)


def show(console: Console, records: list[dict[str, float]]) -> None:
    """The table for a person."""
    table = Table(title="One tunnel, ours against wireguard-go (medians)")
    for column in ("MTU", "what", "ours", "wireguard-go", "ratio"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for record in records:
        rates = f"{record['ours_mbit_s']:.0f} Mbit/s", f"{record['wireguard_go_mbit_s']:.0f} Mbit/s"
        pings = f"{record['ours_ping_ms']:.3f} ms", f"{record['wireguard_go_ping_ms']:.3f} ms"
        table.add_row(f"{record['mtu']}", "one TCP stream", *rates, f"{record['throughput_ratio']:.2f} ×")
        table.add_row("", "ping while idle", *pings, f"{record['ping_ratio']:.2f} ×")
    console.print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print, as `argv` or the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.tunnel", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON line per MTU instead of the table")
    parser.add_argument("--mtu", type=int, nargs="+", default=[1280, 1420])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5, help="length of each transfer")
    arguments = parser.parse_args(argv)
    console = Console(stderr=arguments.json)
    records = []
    for mtu in arguments.mtu:
        records.append(summary(mtu, run(mtu, arguments.rounds, arguments.seconds, console)))
        if arguments.json:
            print(json.dumps({"bench": "tunnel", **records[-1]}), flush=True)
    if not arguments.json:
        show(console, records)


if __name__ == "__main__":
    main()
