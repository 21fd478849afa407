"""Hosts with a plain node in them, and what a host's network looks like before and after."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.netlab.host import PROJECT, Host

PORT = 41641

Config = Mapping[str, Any]
"""The fields of a RouterConfig, prefixes and addresses as strings."""

# Everything that a node might change, as its owner would list it.
LISTINGS = (
    ("ip", "-4", "rule"),
    ("ip", "-6", "rule"),
    ("ip", "-4", "route", "show", "table", "all"),
    ("ip", "-6", "route", "show", "table", "all"),
    ("ip", "-br", "address"),
    ("nft", "list", "ruleset"),
    ("sysctl", "-a", "--pattern", r"^net\.ipv[46]\.(conf|ip_forward|neigh)"),
)


class PlainNode:
    """A `plain_node` process in a host. As a context manager, it is killed at the end of the block."""

    def __init__(self, host: Host, interface: str = "mesh0", *options: str) -> None:
        self.host = host
        self.interface = interface
        self.state_dir = host.directory / f"state-{interface}"
        argv = [
            sys.executable,
            "-m",
            "tests.meshnode.linux.plain_node",
            interface,
            str(self.state_dir),
            *options,
        ]
        with (host.directory / f"node-{interface}.log").open("ab") as log:
            self._process = subprocess.Popen(
                host.argv(*argv),
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._read_answer()

    def __enter__(self) -> PlainNode:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()

    def set(self, **config: Any) -> dict[str, Any]:
        """Set a configuration; the answer has "notes" and "changes", or "problems"."""
        return self._ask({"do": "set", "config": config})

    def must_set(self, **config: Any) -> list[str]:
        """Set a configuration without a problem; what it changed."""
        answer = self.set(**config)
        assert "problems" not in answer, answer["problems"]
        return list(answer["changes"])

    def connect(self, peers: Mapping[str, list[str]]) -> None:
        """Carry packets to the peers: prefixes by the address of the host that they are behind."""
        self._ask({"do": "connect", "port": PORT, "peers": dict(peers)})

    def watch(self) -> None:
        """Start to follow the network and to repair."""
        self._ask({"do": "watch"})

    def state(self) -> dict[str, Any]:
        """The network's state as the node was told of it last."""
        return self._ask({"do": "state"})

    def close(self) -> None:
        """Close the router, then end the process, with it the interface."""
        answer = self._ask({"do": "close"})
        assert "problems" not in answer, answer["problems"]
        self._tell({"do": "quit"})
        assert self._process.wait(10) == 0

    def kill(self) -> None:
        """End the process as a crash does."""
        self._process.kill()
        self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                stream.close()

    def clean_up(self) -> str:
        """Run `clean_up` in the host, in a process of its own; what it changed."""
        code = (
            "import asyncio, pathlib, sys; from meshnode.linux.cleanup import clean_up;"
            "print('\\n'.join(asyncio.run(clean_up(sys.argv[1], pathlib.Path(sys.argv[2])))))"
        )
        return self.host.run(sys.executable, "-c", code, self.interface, self.state_dir).stdout

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        self._tell(command)
        return self._read_answer()

    def _tell(self, command: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _read_answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, (
            f"the node has ended: {Path(self.host.directory / f'node-{self.interface}.log').read_text()}"
        )
        answer: dict[str, Any] = json.loads(line)
        return answer


def snapshot(host: Host) -> dict[str, str]:
    """Everything that a node might change on the host."""
    return {" ".join(command): host.run(*command).stdout for command in LISTINGS}


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The lines that are in one snapshot and not in the other."""
    found = []
    for command, text in before.items():
        old, new = text.splitlines(), after[command].splitlines()
        found += [f"{command}: - {line}" for line in old if line not in new]
        found += [f"{command}: + {line}" for line in new if line not in old]
        if text != after[command] and not found:
            found.append(f"{command}: other order")
    return found
