"""One end of a tunnel as a process: `python -m tests.meshnode.engine.endpoint <JSON>`, until SIGTERM.

The JSON: interface, mtu, port, key (hex), loop (asyncio or uvloop), options for `open_tun`, `Tun` and
`UdpOptions`, and the one peer (hex key), its endpoint if known, and the prefixes it owns.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import signal
import sys
import time
from typing import Any

import uvloop

from meshnode.dataplane import segments_per_unit
from meshnode.engine import Engine, Tun, UdpOptions, UdpSockets
from meshnode.linux.tun_device import limit_segments, open_tun
from meshnode.wireguard import Device, PeerConfig
from meshproto.addresses import AddrPort
from meshproto.keys import NodePrivate, NodePublic
from tests.meshnode.engine.plain import plain_paths, plain_peers


async def run(config: dict[str, Any]) -> None:
    key = NodePrivate(bytes.fromhex(config["key"]))
    device = Device(key, entropy=os.urandom, wall=time.time, mtu=config["mtu"])
    tun = Tun(open_tun(config["interface"], **config.get("offload", {})), **config.get("coalesce", {}))
    limit_segments(tun.name, segments_per_unit(config["mtu"]))
    udp = UdpSockets.open(config["port"], options=UdpOptions(**config.get("udp", {})))
    engine = Engine(device, plain_paths(key.public), tun, udp, asyncio.get_running_loop())
    peer = NodePublic(bytes.fromhex(config["peer"]))
    prefixes = frozenset(ipaddress.ip_network(prefix) for prefix in config["prefixes"])
    endpoint = config.get("endpoint")
    candidates = {peer: [AddrPort(*endpoint)] if endpoint else []}
    engine.configure(key, [PeerConfig(peer, prefixes)], plain_peers(candidates))
    engine.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    drops = {reason.value: count for reason, count in engine.drops.items()}
    print(
        json.dumps(
            {"drops": drops, "overflow": engine.receive_overflow, "path": str(engine.paths.confirmed(peer))}
        )
    )
    await engine.close()


def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    config = json.loads(sys.argv[1])
    loop = uvloop.new_event_loop if config.get("loop") == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run(config))


if __name__ == "__main__":
    main()
