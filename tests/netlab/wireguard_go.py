"""The reference implementation as a peer: `wireguard-go`, or another program that `wg` configures."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.netlab.host import Host
from tests.netlab.processes import Process
from tests.netlab.waiting import wait_for

# Where wireguard-go listens for `wg`. It is one directory for all namespaces, so interface names must differ.
UAPI_DIRECTORY = Path("/var/run/wireguard")

FOREGROUND = ("wireguard-go", "--foreground")


@dataclass(frozen=True)
class PeerState:
    """What `wg show <interface> dump` says of a peer. `latest_handshake` is in unix seconds, 0 for none."""

    endpoint: str
    latest_handshake: int
    received_bytes: int
    sent_bytes: int


class WireGuardGo:
    """One `wireguard-go` in a host, with a random interface name. Keys are base64, as `wg` has them.

    `command` starts it, or another program with its ways, given the interface's name as last word.
    """

    def __init__(
        self,
        host: Host,
        private_key: str,
        *,
        port: int = 51820,
        mtu: int = 1420,
        command: Sequence[str] = FOREGROUND,
    ) -> None:
        self.host = host
        self.interface = f"wg{secrets.token_hex(4)}"
        self.port = port
        self.mtu = mtu
        self._private_key = private_key
        self._command = command
        self._process: Process | None = None

    @property
    def public_key(self) -> str:
        """The key that others need."""
        return self.host.run("wg", "pubkey", stdin=self._private_key).stdout.strip()

    def start(self, addresses: Iterable[str]) -> None:
        """Create the interface and bring it up with these addresses. It has no peers yet."""
        process = self.host.popen(*self._command, self.interface, log=self.interface)
        socket = UAPI_DIRECTORY / f"{self.interface}.sock"
        wait_for(socket.exists, 10, what=f"the socket of {self._command[0]}")
        self._process = process
        self._wg("private-key", "/dev/stdin", stdin=self._private_key)
        self.listen(self.port)
        self.host.ip(f"link set {self.interface} mtu {self.mtu} up")
        self.host.set_addresses(self.interface, addresses)

    def listen(self, port: int) -> None:
        """Open new sockets on this port."""
        self._wg("listen-port", str(port))

    def set_peer(
        self,
        public_key: str,
        allowed_ips: Iterable[str],
        *,
        endpoint: str | None = None,
        preshared_key: str | None = None,
        keepalive: int = 0,
    ) -> None:
        """Add or change a peer. `endpoint` is `address:port`; without one the peer has to speak first."""
        words = ["allowed-ips", ",".join(allowed_ips), "persistent-keepalive", str(keepalive)]
        words += ["endpoint", endpoint] if endpoint else []
        no_key = base64.b64encode(bytes(32)).decode()
        words += ["preshared-key", "/dev/stdin"]
        self._wg("peer", public_key, *words, stdin=preshared_key or no_key)
        for prefix in allowed_ips:
            self.host.ip(f"route replace {prefix} dev {self.interface}")

    def _wg(self, *words: str, stdin: str | None = None) -> None:
        self.host.run("wg", "set", self.interface, *words, stdin=stdin)

    def show(self) -> str:
        """The text of `wg show`, as a person reads it."""
        return self.host.run("wg", "show", self.interface).stdout

    def peer(self, public_key: str) -> PeerState:
        """The state of one peer. Raises KeyError for a peer that is not configured."""
        for line in self.host.run("wg", "show", self.interface, "dump").stdout.splitlines()[1:]:
            key, _, endpoint, _, handshake, received, sent, _ = line.split("\t")
            if key == public_key:
                return PeerState(endpoint, int(handshake), int(received), int(sent))
        raise KeyError(public_key)

    def kill(self) -> None:
        """End it at once, as a power cut does. All its sessions are lost; `start` boots it again."""
        if self._process is not None:
            self._process.kill()
        (UAPI_DIRECTORY / f"{self.interface}.sock").unlink(missing_ok=True)
