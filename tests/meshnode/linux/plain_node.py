"""A node without WireGuard, which the system tests run in a network namespace: interface and state directory.

It owns a tunnel interface and a LinuxRouter, and carries the tunnel's packets as they are in UDP datagrams
with the daemon's mark. Commands come in as JSON lines and are answered by one each; see `PlainNode`.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import socket
import struct
import sys
from collections.abc import Sequence
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import uvloop

from meshnode.linux.errors import RouterError
from meshnode.linux.marks import FWMARK
from meshnode.linux.netmon import NetworkMonitor
from meshnode.linux.netstate import NetworkState
from meshnode.linux.router import LinuxRouter
from meshnode.linux.router_config import RouterConfig
from meshnode.linux.runner import ProgramMissing, run

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
SO_MARK = 36
NETWORKS = ("routes", "local_routes", "subnet_routes")


def decode_config(given: dict[str, Any]) -> RouterConfig:
    """A RouterConfig from JSON: prefixes and addresses are strings."""
    networks = {name: frozenset(map(ip_network, given[name])) for name in NETWORKS if name in given}
    addresses = tuple(map(ip_interface, given.get("addresses", ())))
    return RouterConfig(**{**given, **networks, "addresses": addresses})


def encode_state(state: NetworkState) -> dict[str, Any]:
    """A NetworkState for JSON."""
    ways = {
        str(version): (way.interface, str(way.gateway), str(way.source))
        for version, way in state.default_routes.items()
    }
    return {
        "endpoints": list(map(str, state.endpoints)),
        "lan_prefixes": list(map(str, state.lan_prefixes)),
        "default_routes": ways,
    }


class Tunnel:
    """The interface, and a UDP socket per family at the other end of it."""

    def __init__(self, interface: str) -> None:
        self.descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(
            self.descriptor, TUNSETIFF, struct.pack("16sH22x", interface.encode(), IFF_TUN | IFF_NO_PI)
        )
        self.peers: list[tuple[Any, tuple[str, int]]] = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_MARK, FWMARK)
        loop = asyncio.get_running_loop()
        loop.add_reader(self.descriptor, self._from_tunnel)
        loop.add_reader(self.socket, self._from_network)

    def connect(self, port: int, peers: dict[str, list[str]]) -> None:
        """Listen on `port`; the most specific of the peers' prefixes gets a packet."""
        self.socket.bind(("0.0.0.0", port))
        pairs = [(ip_network(net), (endpoint, port)) for endpoint, nets in peers.items() for net in nets]
        self.peers = sorted(pairs, key=lambda pair: -pair[0].prefixlen)

    def _from_tunnel(self) -> None:
        try:
            packet = os.read(self.descriptor, 65536)
        except OSError:
            return  # the interface is down
        destination = ip_address(packet[16:20] if packet[0] >> 4 == 4 else packet[24:40])
        for net, endpoint in self.peers:
            if destination.version == net.version and destination in net:
                try:
                    self.socket.sendto(packet, endpoint)
                except OSError as error:
                    print(f"cannot send to {endpoint}: {error}", file=sys.stderr, flush=True)
                return

    def _from_network(self) -> None:
        try:
            os.write(self.descriptor, self.socket.recv(65536))
        except OSError as error:
            print(f"cannot write to the tunnel: {error}", file=sys.stderr, flush=True)


async def without_nft(argv: Sequence[str], stdin: bytes) -> bytes:
    """Runs nothing: nftables is not installed."""
    raise ProgramMissing(argv[0])


async def main() -> None:
    """Serve commands until standard input ends or says "quit"."""
    interface, state_dir = sys.argv[1], Path(sys.argv[2])
    tunnel = Tunnel(interface)
    router = LinuxRouter(interface, state_dir, run=without_nft if "without-nft" in sys.argv else run)
    monitor = NetworkMonitor(
        interface, on_disturbed=router.repair, on_change=lambda state: told.append(state)
    )
    told: list[NetworkState] = []

    async def perform(command: dict[str, Any]) -> dict[str, Any]:
        match command["do"]:
            case "set":
                notes = await router.set(decode_config(command["config"]))
                return {"notes": notes, "changes": router.changes}
            case "repair":
                return {"changes": await router.repair()}
            case "close":
                await router.close()
                return {"changes": router.changes}
            case "connect":
                tunnel.connect(command["port"], command["peers"])
                return {}
            case "watch":
                await monitor.start()
                told.append(monitor.state)
                return {}
            case "state":
                return encode_state(told[-1])
        raise ValueError(command)

    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    print(json.dumps({"ready": True}), flush=True)
    while (line := await reader.readline()) and (command := json.loads(line))["do"] != "quit":
        try:
            answer = await perform(command)
        except RouterError as error:
            answer = {"problems": [str(problem) for problem in error.problems]}
        print(json.dumps(answer), flush=True)
    await monitor.close()


if __name__ == "__main__":
    asyncio.run(main()) if "standard-loop" in sys.argv else uvloop.run(main())
