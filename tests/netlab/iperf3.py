"""TCP streams between two hosts, measured by iperf3."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.netlab.host import Host
from tests.netlab.processes import Process
from tests.netlab.waiting import wait_for


@dataclass(frozen=True)
class Transfer:
    """A finished stream. `interval_rates` are bits per second, one per half second."""

    received_bits_per_second: float
    interval_rates: tuple[float, ...]

    @classmethod
    def parse(cls, report: str) -> Transfer:
        """The report of `iperf3 --json`, also of one that was interrupted."""
        document = json.loads(report)
        received = document["end"].get("sum_received", {}).get("bits_per_second", 0.0)
        rates = tuple(float(part["sum"]["bits_per_second"]) for part in document["intervals"])
        return cls(float(received), rates)


def serve(host: Host) -> Process:
    """A server for one stream, ready to be connected to."""
    # A log of its own: in one that an earlier server wrote too, its "listening" would be found.
    server = host.popen("iperf3", "--server", "--one-off", "--forceflush")
    wait_for(lambda: "listening" in server.output(), 5, what=f"iperf3's server on {host.name}")
    return server


def client_words(address: str, *flags: str) -> list[str]:
    """The command line of the sending side."""
    return ["iperf3", "--client", address, "--interval", "0.5", "--json", *flags]


def transfer(source: Host, destination: Host, address: str, *flags: str, timeout: float = 60.0) -> Transfer:
    """Run one stream to its end. `--reverse` among the flags makes the data flow to `source`."""
    serve(destination)
    return Transfer.parse(source.run(*client_words(address, *flags), timeout=timeout).stdout)
