"""Our WireGuard as a peer: the real device and engine as one process in a host, configured by the test.

The process (`run_peer`) reads its configuration from a JSON file and answers on a unix socket: `configure`
reads the file anew, `status` tells what `wg show` would, and the drop counters.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from meshnode.dataplane import DropReason
from meshproto.keys import NodePrivate, NodePublic
from tests.netlab import Host, Process, wait_for

INTERFACE = "mesh0"


@dataclass
class PeerOptions:
    """One peer as our side is told of it. Endpoints are `(address, port)`; the key is 32 bytes or none."""

    allowed_ips: tuple[str, ...]
    endpoints: tuple[tuple[str, int], ...] = ()
    preshared_key: bytes | None = None
    keepalive: int = 0

    def as_json(self) -> dict[str, object]:
        return {
            "allowed_ips": [str(ip_network(prefix)) for prefix in self.allowed_ips],
            "endpoints": [list(endpoint) for endpoint in self.endpoints],
            "preshared_key": self.preshared_key.hex() if self.preshared_key else None,
            "keepalive": self.keepalive,
        }


@dataclass
class OurPeer:
    """One process of ours in a host. `timings` replaces fields of the protocol's clock, `env` adds to its
    environment."""

    host: Host
    private_key: NodePrivate = field(default_factory=lambda: NodePrivate.generate(os.urandom))
    port: int = 51820
    mtu: int = 1420
    timings: Mapping[str, float] = field(default_factory=dict)
    peers: dict[NodePublic, PeerOptions] = field(default_factory=dict)
    process: Process | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def public_key(self) -> NodePublic:
        return self.private_key.public

    def start(self, addresses: Iterable[str]) -> None:
        """Start the process, with the peers set so far, and give its interface these addresses."""
        self._write()
        module = "tests.interop.run_peer"
        self.process = self.host.popen(
            sys.executable, "-m", module, self._config, self._socket, log="ours", env=self.env
        )
        wait_for(self._ready, 20, what="our peer's start")
        self.host.ip(f"link set {INTERFACE} mtu {self.mtu} up")
        self.host.set_addresses(INTERFACE, addresses)
        self._set_routes()

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.running, f"our peer ended:\n{self.process.output()}"
        return self._socket.exists()

    def set_peer(self, public_key: NodePublic, options: PeerOptions) -> None:
        """Add or change a peer, before or while it runs."""
        self.peers[public_key] = options
        if self.process is not None and self.process.running:
            self._write()
            self._ask("configure")
            self._set_routes()

    def status(self) -> dict[str, Any]:
        """`{"peers": {<base64 key>: {...}}, "drops": {<reason>: <count>}}`."""
        return dict(json.loads(self._ask("status")))

    def peer(self, public_key: NodePublic) -> dict[str, Any]:
        """What it knows of one peer: rx_bytes, tx_bytes, handshakes, last_handshake (unix seconds)."""
        return dict(self.status()["peers"][public_key.base64()])

    def drops(self, *reasons: DropReason) -> int:
        """How many datagrams or packets it dropped for any of these reasons."""
        counted = self.status()["drops"]
        return sum(int(counted.get(reason.value, 0)) for reason in reasons)

    def kill(self) -> None:
        """End it at once, as a power cut does; `start` boots it again."""
        assert self.process is not None
        self.process.kill()
        self._socket.unlink(missing_ok=True)

    @property
    def _config(self) -> Path:
        return self.host.directory / "our-peer.json"

    @property
    def _socket(self) -> Path:
        return self.host.directory / "our-peer.sock"

    def _write(self) -> None:
        document = {
            "interface": INTERFACE,
            "private_key": self.private_key.to_text(),
            "port": self.port,
            "mtu": self.mtu,
            "timings": dict(self.timings),
            "peers": {str(key): options.as_json() for key, options in self.peers.items()},
        }
        self._config.write_text(json.dumps(document))

    def _set_routes(self) -> None:
        prefixes = {prefix for options in self.peers.values() for prefix in options.allowed_ips}
        self.host.ip(*(f"route replace {prefix} dev {INTERFACE}" for prefix in sorted(prefixes)))

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(5)
            stream.connect(str(self._socket))
            stream.sendall(command.encode() + b"\n")
            with stream.makefile() as answer:
                return answer.readline()
