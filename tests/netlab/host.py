"""A host of the lab: one network namespace with its own interfaces, resolv.conf, files and processes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.netlab import namespaces
from tests.netlab.capture import Capture
from tests.netlab.processes import Process, run
from tests.netlab.waiting import wait_for

PROJECT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class PingResult:
    """What `ping` counted at its end."""

    sent: int
    received: int

    @property
    def lost(self) -> int:
        return self.sent - self.received

    @classmethod
    def parse(cls, output: str) -> PingResult:
        """The counts in the summary that ping prints, also when it was interrupted."""
        found = re.search(r"(\d+) packets transmitted, (\d+) (?:packets )?received", output)
        if found is None:
            raise ValueError(f"no summary of ping in: {output!r}")
        return cls(int(found[1]), int(found[2]))


class Host:
    """One machine of the lab. Made by `Lab.host`, connected by `Lan.attach` or `Lab.link`.

    `directory` is the host's own place for sockets, state and logs; it goes when the lab does.
    """

    def __init__(self, name: str, namespace: str, directory: Path) -> None:
        self.name = name
        self.namespace = namespace
        self.directory = directory
        self.started: list[Process] = []
        self._logs = 0
        directory.mkdir()
        namespaces.add(namespace)

    def __repr__(self) -> str:
        return f"Host({self.name})"

    # Programs

    def argv(self, *command: str | Path) -> list[str]:
        """The command line that runs `command` here, for a person or another program to use."""
        return [*namespaces.inside(self.namespace), *map(str, command)]

    def run(
        self,
        *command: str | Path,
        check: bool = True,
        timeout: float = 60.0,
        stdin: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end; see `processes.run`. `env` adds to the environment."""
        return run(
            self.argv(*command), check=check, timeout=timeout, stdin=stdin, env=_environment(env), cwd=PROJECT
        )

    def popen(
        self, *command: str | Path, log: str | None = None, env: Mapping[str, str] | None = None
    ) -> Process:
        """Start a command here in the background; its output goes to `<log>.log` in the host's directory."""
        if log is None:
            self._logs += 1
            log = f"{Path(command[0]).name}-{self._logs}"
        path = self.directory / f"{log}.log"
        process = Process(self.argv(*command), path, env=_environment(env), cwd=PROJECT)
        self.started.append(process)
        return process

    def processes(self) -> list[int]:
        """The ids of everything that runs here."""
        return namespaces.processes([self.namespace])

    # Network

    def ip(self, *commands: str) -> None:
        """Run `ip` commands here, each written without the word `ip`."""
        namespaces.batch(self.namespace, commands)

    def nft(self, rules: str) -> None:
        """Load nftables rules, as one transaction."""
        self.run("nft", "-f", "-", stdin=rules)

    def sysctl(self, name: str) -> str:
        """The value of a sysctl setting here."""
        return self.run("sysctl", "-n", name).stdout.strip()

    def set_sysctl(self, **settings: str | int) -> None:
        """Set sysctl settings here, dots written as two underscores: `net__ipv4__ip_forward=1`."""
        words = [f"{name.replace('__', '.')}={value}" for name, value in settings.items()]
        self.run("sysctl", "-q", "-w", *words)

    def set_addresses(self, interface: str, addresses: Iterable[str]) -> None:
        """Replace the addresses of an interface: how a host roams to another place in the same LAN."""
        flush = [f"addr flush dev {interface} scope global"]
        self.ip(*flush, *(f"addr add {address} dev {interface}" for address in addresses))

    def address_text(self) -> str:
        """All its addresses that others can use, for a person to read."""
        words = ["ip", "-brief", "address", "show", "scope", "global"]
        lines = [line.split() for line in self.run(*words).stdout.splitlines()]
        return "  ".join(address for line in lines for address in line[2:] if "/" in address)

    def add_default_routes(self, gateways: Iterable[str]) -> None:
        """Send what has no better route to these gateways (at most one for each address family)."""
        self.ip(*(f"route replace default via {gateway}" for gateway in gateways))

    def add_route(self, prefix: str, via: str) -> None:
        """Add or replace the route to `prefix`."""
        self.ip(f"route replace {prefix} via {via}")

    def link_down(self, interface: str = "eth0") -> None:
        """Take an interface down, as pulling its cable does. Its routes go with it."""
        self.ip(f"link set {interface} down")

    def link_up(self, interface: str = "eth0") -> None:
        """Bring an interface back up."""
        self.ip(f"link set {interface} up")

    def capture(self, interface: str = "eth0", expression: str = "") -> Capture:
        """Record packets of an interface, those matching a tcpdump expression, until `Capture.stop`."""
        self._logs += 1
        path = self.directory / f"capture-{self._logs}.pcap"
        arguments = [
            "tcpdump",
            "-Z",
            "root",
            "-U",
            "--immediate-mode",
            "-n",
            "-i",
            interface,
            "-w",
            str(path),
        ]
        process = self.popen(*arguments, *expression.split(), log=path.stem)
        return Capture(process, path)

    def ping(self, address: str, *, count: int = 3, interval: float = 0.1, wait: int = 2) -> PingResult:
        """Ping to the end and return the counts; no answer is a result, not an error."""
        words = ["ping", "-n", "-q", "-c", str(count), "-i", f"{interval:g}", "-W", str(wait), address]
        done = self.run(*words, check=False, timeout=count * (interval + wait) + 10)
        try:
            return PingResult.parse(done.stdout)
        except ValueError:
            return PingResult(count, 0)  # it could not even send: no route, no address

    def wait_to_reach(self, address: str, timeout: float = 20.0) -> None:
        """Until a ping is answered."""
        wait_for(lambda: self.reaches(address), timeout, what=f"an answer from {address} at {self.name}")

    def reaches(self, address: str) -> bool:
        """Whether one ping is answered within a second."""
        return self.ping(address, count=1, wait=1).received == 1


def _environment(extra: Mapping[str, str] | None) -> Mapping[str, str]:
    """The caller's environment without proxies (they lead out of the lab), with unbuffered Python output."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**inherited, "PYTHONUNBUFFERED": "1", **(extra or {})}
