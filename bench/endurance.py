"""Half an hour of traffic between two nodes of a mesh: lost pings, rekeys, and the memory of every program.

    python -m bench.endurance [--minutes 30]
    python -m bench.endurance --saturate --minutes 10

Pings ten times a second and a TCP stream of 5 Mbit/s, or with `--saturate` one as fast as it goes, run
between the two daemons as a user starts them. Exits 1 when there were fewer rekeys than the protocol's
120 s give, or when the memory of a program is at the end more than a tenth above what it was after the
first minute; when a ping was lost beside the slow stream; when the fast one had segments out of order,
of which a cable makes none, or left pings slower than they were before it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import time
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.usage import resident_kib
from tests.netlab import Host, Lab, PingResult, iperf3
from tests.netlab.programs import Coordinator, Node

SAMPLE_INTERVAL = 10.0
PING_INTERVAL = 0.1
WARM_UP = 60.0
ALLOWED_GROWTH = 1.10
ALLOWED_SLOWDOWN = 1.5
IDLE_PINGS = 100
REKEY_AFTER_TIME = 120.0
HANDSHAKE_RESPONSE = "udp and udp[8:4] = 0x02000000"


def round_trip_ms(host: Host, address: str) -> float:
    """The median round trip of pings while nothing else is sent."""
    output = host.run("ping", "-n", "-c", str(IDLE_PINGS), "-i", "0.05", address).stdout
    return statistics.median(float(time) for time in re.findall(r"time=([\d.]+)", output))


def out_of_order(host: Host) -> int:
    """TCP segments that waited for an earlier one, since the host is there."""
    found = re.search(r"TcpExtTCPOFOQueue\s+(\d+)", host.run("nstat", "-asz", "TcpExtTCPOFOQueue").stdout)
    assert found is not None
    return int(found[1])


def make_mesh(lab: Lab) -> tuple[Coordinator, Node, Node]:
    """A coordinator and two joined nodes on one LAN."""
    lan = lab.lan("lan")
    hosts = [lab.host(name) for name in ("coordinator", "first", "second")]
    for number, host in enumerate(hosts, 1):
        lan.attach(host, f"203.0.113.{number}/24", f"2001:db8::{number}/64")
    coordinator = Coordinator(hosts[0], "203.0.113.1")
    coordinator.start()
    first, second = Node(hosts[1]), Node(hosts[2])
    for node in (first, second):
        node.join(coordinator, coordinator.create_key("ana"))
    first.wait_to_reach(second)
    return coordinator, first, second


def run(minutes: float, *, saturate: bool, console: Console) -> dict[str, object]:
    """The figures after `minutes` of traffic."""
    seconds = minutes * 60
    with Lab("endurance") as lab:
        coordinator, first, second = make_mesh(lab)
        processes = {"coordinator": coordinator.process, "first": first.process, "second": second.process}
        pids = {name: process.pid for name, process in processes.items() if process is not None}
        before = round_trip_ms(first.host, second.ipv4)
        with first.host.capture("eth0", HANDSHAKE_RESPONSE) as handshakes:
            iperf3.serve(second.host)
            load = ["--bitrate", "0" if saturate else "5M", "--time", str(int(seconds) + 60)]
            stream = first.host.popen(*iperf3.client_words(second.ipv4, *load), log="load")
            count = str(int(seconds / PING_INTERVAL))
            words = ("ping", "-n", "-q", "-i", str(PING_INTERVAL), "-c", count, second.ipv4)
            ping = first.host.popen(*words, log="long-ping")
            memory: dict[str, list[int]] = {name: [] for name in pids}
            began = time.monotonic()
            while ping.running:
                passed = (time.monotonic() - began) / 60
                with console.status(f"{passed:.1f} of {minutes:g} minutes"):
                    time.sleep(SAMPLE_INTERVAL)
                for name, pid in pids.items():
                    memory[name].append(resident_kib(pid))
            counted = PingResult.parse(ping.output())
        rekeys = len(handshakes.udp_datagrams())
        transfer = iperf3.Transfer.parse(stream.interrupt())
        disorder = out_of_order(second.host)
        after = round_trip_ms(first.host, second.ipv4)
    warm = {
        name: sizes[min(int(WARM_UP / SAMPLE_INTERVAL), len(sizes) - 1)] for name, sizes in memory.items()
    }
    return {
        "bench": "endurance",
        "saturate": saturate,
        "minutes": minutes,
        "megabits_per_second": round(statistics.median(transfer.interval_rates) / 1e6, 1),
        "pings_sent": counted.sent,
        "pings_lost": counted.lost,
        "rekeys": rekeys,
        "rekeys_expected": int(seconds // REKEY_AFTER_TIME) - 1,
        "segments_out_of_order": disorder,
        "ping_ms_before": before,
        "ping_ms_after": after,
        "memory_kib_after_first_minute": warm,
        "memory_kib_at_end": {name: sizes[-1] for name, sizes in memory.items()},
    }


def failures(figures: dict[str, Any]) -> list[str]:
    """What is not as it has to be, in words."""
    warm, end = figures["memory_kib_after_first_minute"], figures["memory_kib_at_end"]
    found = [f"memory of {name} grew" for name in end if end[name] > warm[name] * ALLOWED_GROWTH]
    if figures["rekeys"] < figures["rekeys_expected"]:
        found.append("too few rekeys")
    if not figures["saturate"]:
        return [*found, "pings lost"] if figures["pings_lost"] else found
    if figures["segments_out_of_order"]:
        found.append("segments out of order")
    if figures["ping_ms_after"] > figures["ping_ms_before"] * ALLOWED_SLOWDOWN:
        found.append("pings slower than before")
    return found


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--saturate", action="store_true", help="as much traffic as goes through")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    arguments = parser.parse_args()
    console = Console(stderr=arguments.json)
    figures = run(arguments.minutes, saturate=arguments.saturate, console=console)
    if arguments.json:
        print(json.dumps(figures))
    else:
        table = Table("figure", "value", title="Two nodes under steady traffic")
        for name, value in figures.items():
            table.add_row(name.replace("_", " "), str(value))
        console.print(table)
    bad = failures(figures)
    for reason in bad:
        console.print(f"[red]{reason}[/]")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
