"""The process behind `OurPeer`: `python -m tests.interop.run_peer CONFIG SOCKET`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import uvloop

from meshnode.dataplane import segments_per_unit
from meshnode.engine import Engine, Tun, UdpSockets
from meshnode.linux.tun_device import limit_segments, open_tun
from meshnode.wireguard import Device, Event, HandshakeCompleted, PeerConfig, Timings
from meshproto.addresses import AddrPort
from meshproto.keys import NodePrivate, NodePublic
from tests.meshnode.engine.plain import plain_paths, plain_peers


class Peer:
    """A device and engine as the daemon puts them together, without coordinator, routes and firewall."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._handshakes: Counter[NodePublic] = Counter()
        document = self._read()
        mtu = int(document["mtu"])
        key = NodePrivate.parse(document["private_key"])
        self._device = Device(
            key,
            entropy=os.urandom,
            wall=time.time,
            mtu=mtu,
            timings=Timings(**document["timings"]),
        )
        tun = Tun(open_tun(document["interface"]))
        limit_segments(tun.name, segments_per_unit(mtu))
        udp = UdpSockets.open(int(document["port"]))
        self._engine = Engine(self._device, plain_paths(key.public), tun, udp, asyncio.get_running_loop())
        self._engine.on_event = self._count

    def start(self) -> None:
        """Take part."""
        self.configure()
        self._engine.start()

    def _read(self) -> dict[str, Any]:
        return dict(json.loads(self._config.read_text()))

    def _count(self, event: Event) -> None:
        if isinstance(event, HandshakeCompleted):
            self._handshakes[event.peer] += 1

    def configure(self) -> None:
        """Make the peers be those of the file."""
        document = self._read()
        peers, candidates = [], {}
        for text, options in document["peers"].items():
            key = NodePublic.parse(text)
            allowed = frozenset(ip_network(prefix) for prefix in options["allowed_ips"])
            psk = bytes.fromhex(options["preshared_key"]) if options["preshared_key"] else None
            peers.append(PeerConfig(key, allowed, psk, options["keepalive"]))
            candidates[key] = [AddrPort(host, port) for host, port in options["endpoints"]]
        self._engine.configure(NodePrivate.parse(document["private_key"]), peers, plain_peers(candidates))

    def status(self) -> dict[str, Any]:
        """What `OurPeer.status` returns."""
        peers = {}
        for key in self._device.peers:
            stats = self._device.stats(key)
            peers[key.base64()] = {
                "rx_bytes": stats.rx_bytes,
                "tx_bytes": stats.tx_bytes,
                "last_handshake": stats.last_handshake_wall,
                "handshakes": self._handshakes[key],
            }
        drops = {reason.value: count for reason, count in self._engine.drops.items()}
        return {"peers": peers, "drops": drops}

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One command from the test."""
        command = (await reader.readline()).decode().strip()
        if command == "configure":
            self.configure()
        writer.write(json.dumps(self.status()).encode() + b"\n")
        await writer.drain()
        writer.close()


async def main(config: Path, socket: Path) -> None:
    """Run until killed."""
    peer = Peer(config)
    peer.start()
    async with await asyncio.start_unix_server(peer.answer, socket) as server:
        await server.serve_forever()


if __name__ == "__main__":
    # The loop that the daemon runs on.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
