"""Half an hour of traffic between two nodes of a mesh: lost pings, rekeys, and the memory of every program.

    python -m bench.endurance [--minutes 30]

Pings ten times a second and a TCP stream of 5 Mbit/s run between the two daemons as a user starts them. Exits
1 when a ping was lost, when there were fewer rekeys than the protocol's 120 s give, or when the memory of a
program is at the end more than a tenth above what it was after the first minute.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.netlab import Lab, PingResult, Process, iperf3
from tests.netlab.programs import Coordinator, Node

SAMPLE_INTERVAL = 10.0
PING_INTERVAL = 0.1
WARM_UP = 60.0
ALLOWED_GROWTH = 1.10
REKEY_AFTER_TIME = 120.0
HANDSHAKE_RESPONSE = "udp and udp[8:4] = 0x02000000"


def resident_kib(process: Process | None) -> int:
    """The resident memory of a program, in KiB."""
    assert process is not None
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
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


def run(minutes: float, console: Console) -> dict[str, object]:
    """The figures after `minutes` of traffic."""
    seconds = minutes * 60
    with Lab("endurance") as lab:
        coordinator, first, second = make_mesh(lab)
        programs = {"coordinator": coordinator.process, "first": first.process, "second": second.process}
        with first.host.capture("eth0", HANDSHAKE_RESPONSE) as handshakes:
            iperf3.serve(second.host)
            load = ["--bitrate", "5M", "--time", str(int(seconds) + 60)]
            first.host.popen(*iperf3.client_words(second.ipv4, *load), log="load")
            count = str(int(seconds / PING_INTERVAL))
            words = ("ping", "-n", "-q", "-i", str(PING_INTERVAL), "-c", count, second.ipv4)
            ping = first.host.popen(*words, log="long-ping")
            memory: dict[str, list[int]] = {name: [] for name in programs}
            began = time.monotonic()
            while ping.running:
                passed = (time.monotonic() - began) / 60
                with console.status(f"{passed:.1f} of {minutes:g} minutes"):
                    time.sleep(SAMPLE_INTERVAL)
                for name, process in programs.items():
                    memory[name].append(resident_kib(process))
            counted = PingResult.parse(ping.output())
        rekeys = len(handshakes.udp_datagrams())
    warm = {
        name: sizes[min(int(WARM_UP / SAMPLE_INTERVAL), len(sizes) - 1)] for name, sizes in memory.items()
    }
    return {
        "bench": "endurance",
        "minutes": minutes,
        "pings_sent": counted.sent,
        "pings_lost": counted.lost,
        "rekeys": rekeys,
        "rekeys_expected": int(seconds // REKEY_AFTER_TIME) - 1,
        "memory_kib_after_first_minute": warm,
        "memory_kib_at_end": {name: sizes[-1] for name, sizes in memory.items()},
    }


def passed(figures: dict[str, object]) -> bool:
    """Whether the figures are what they have to be."""
    warm, end = figures["memory_kib_after_first_minute"], figures["memory_kib_at_end"]
    assert isinstance(warm, dict)
    assert isinstance(end, dict)
    enough = int(str(figures["rekeys"])) >= int(str(figures["rekeys_expected"]))
    return figures["pings_lost"] == 0 and enough and all(end[n] <= warm[n] * ALLOWED_GROWTH for n in end)


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.endurance", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    arguments = parser.parse_args()
    console = Console(stderr=arguments.json)
    figures = run(arguments.minutes, console)
    if arguments.json:
        print(json.dumps(figures))
    else:
        table = Table("figure", "value", title="Two nodes under steady traffic")
        for name, value in figures.items():
            table.add_row(name.replace("_", " "), str(value))
        console.print(table)
    return 0 if passed(figures) else 1


if __name__ == "__main__":
    sys.exit(main())
