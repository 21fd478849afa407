"""What is measured as a tunnel: ours, compiled and in Python, and every other that is found on the machine.

Ours is the device and engine as one process at each end, without coordinator. The others are userspace
WireGuard programs that `wg` configures: each `wireguard-go` and `boringtun-cli` on PATH, and those that
`--peer` names.
"""

from __future__ import annotations

import argparse
import base64
import importlib.util
import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import OURS
from meshproto.keys import NodePrivate, NodePublic
from tests.interop.our_peer import OurPeer, PeerOptions
from tests.netlab import Host
from tests.netlab.wireguard_go import WireGuardGo

PROGRAMS = ("wireguard-go", "boringtun-cli")
PURE = {"MESHNODE_PURE": "1"}
"""The environment in which our data plane is the one in Python."""


@dataclass(frozen=True)
class Remote:
    """A peer as an end is told of it. Without an endpoint it has to speak first."""

    public_key: NodePublic
    allowed_ip: str
    endpoint: tuple[str, int] | None = None


class End(ABC):
    """One end of a tunnel, in a host."""

    private_key: NodePrivate
    port: int

    @property
    def public_key(self) -> NodePublic:
        return self.private_key.public

    @abstractmethod
    def start(self, address: str, peers: Sequence[Remote]) -> None:
        """Bring the interface up. `address` has the prefix length of the whole inner network."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """Its process."""


class Contender(ABC):
    """An implementation. `name` is what tables call it."""

    name: str

    @abstractmethod
    def end(self, host: Host, *, port: int, mtu: int) -> End:
        """An end in this host, with a new key, that does not run yet."""


@dataclass
class OurEnd(End):
    """Ours."""

    host: Host
    port: int
    mtu: int
    environment: Mapping[str, str]
    private_key: NodePrivate = field(default_factory=lambda: NodePrivate.generate(os.urandom))

    def start(self, address: str, peers: Sequence[Remote]) -> None:
        self._peer = OurPeer(self.host, self.private_key, port=self.port, mtu=self.mtu, env=self.environment)
        for remote in peers:
            endpoints = (remote.endpoint,) if remote.endpoint else ()
            self._peer.set_peer(remote.public_key, PeerOptions((remote.allowed_ip,), endpoints))
        self._peer.start([address])

    @property
    def pid(self) -> int:
        assert self._peer.process is not None
        return self._peer.process.pid


@dataclass
class Ours(Contender):
    """Our engine; `environment` says which data plane it uses."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def end(self, host: Host, *, port: int, mtu: int) -> End:
        return OurEnd(host, port, mtu, self.environment)


@dataclass
class TheirEnd(End):
    """A program that `wg` configures."""

    host: Host
    port: int
    mtu: int
    command: Sequence[str]
    private_key: NodePrivate = field(default_factory=lambda: NodePrivate.generate(os.urandom))

    def start(self, address: str, peers: Sequence[Remote]) -> None:
        key = base64.b64encode(self.private_key.raw).decode()
        device = WireGuardGo(self.host, key, port=self.port, mtu=self.mtu, command=self.command)
        device.start([address])
        self._pid = self.host.started[-1].pid
        configuration = "".join(map(_section, peers))
        self.host.run("wg", "addconf", device.interface, "/dev/stdin", stdin=configuration)

    @property
    def pid(self) -> int:
        return self._pid


def _section(remote: Remote) -> str:
    """A peer in `wg`'s configuration."""
    text = f"[Peer]\nPublicKey = {remote.public_key.base64()}\nAllowedIPs = {remote.allowed_ip}\n"
    if remote.endpoint:
        text += f"Endpoint = {remote.endpoint[0]}:{remote.endpoint[1]}\n"
    return text


@dataclass
class Theirs(Contender):
    """A program of others. `command` starts it in the foreground, given an interface's name as last word."""

    name: str
    command: Sequence[str]

    def end(self, host: Host, *, port: int, mtu: int) -> End:
        return TheirEnd(host, port, mtu, self.command)

    @classmethod
    def at(cls, path: Path, name: str = "") -> Theirs:
        """The program at `path`, named after itself and its version."""
        words = [str(path), "--version"]
        told = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False).stdout
        program, _, version = told.partition("\n")[0].partition(" ")
        command = [str(path), "--foreground"]
        if program.startswith("boringtun"):
            command.append("--disable-drop-privileges")
        return cls(name or f"{program} {version.removeprefix('v')}".strip(), command)


def ours() -> list[Contender]:
    """Compiled, where that is built, and in Python."""
    pure = Ours(f"{OURS}, Python", PURE)
    if importlib.util.find_spec("meshnode._native") is None:
        return [pure]
    return [Ours(OURS), pure]


def others(named: Sequence[str]) -> list[Contender]:
    """Those of `--peer`, then those on PATH: each program once, and the first of those with the same name."""
    found: dict[str, Contender] = {}
    seen: set[Path] = set()
    for text in named:
        name, path = _peer(text)
        _add(found, seen, path, name)
    for program in PROGRAMS:
        for directory in os.environ.get("PATH", "").split(os.pathsep):
            path_found = shutil.which(program, path=directory)
            if directory and path_found:
                _add(found, seen, Path(path_found))
    return list(found.values())


def _add(found: dict[str, Contender], seen: set[Path], path: Path, name: str = "") -> None:
    path = path.resolve()
    if path not in seen:
        seen.add(path)
        contender = Theirs.at(path, name)
        found.setdefault(contender.name, contender)


def _peer(text: str) -> tuple[str, Path]:
    """`NAME=PATH`, or `PATH` alone."""
    name, _, path = text.rpartition("=")
    return name, Path(path)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """`--peer` and `--only`."""
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PATH",
        type=_existing,
        help="a wireguard-go or boringtun-cli besides those on PATH",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="contenders whose names have this in them"
    )


def _existing(text: str) -> str:
    if not os.access(_peer(text)[1], os.X_OK):
        raise argparse.ArgumentTypeError(f"no program at {_peer(text)[1]}")
    return text


def chosen(options: argparse.Namespace) -> list[Contender]:
    """All contenders, or those that `--only` leaves."""
    everyone = [*ours(), *others(options.peer)]
    if not options.only:
        return everyone
    return [one for one in everyone if any(text in one.name for text in options.only)]
