"""A UDP port that a PortMapper maps, in a host of the lab, and the handle for it.

Run in the host as `python -m tests.meshnode.portmap.mapped_node PORT TIMINGS`; TIMINGS is JSON. The gateway
is that of the host's default route, as a node has it. It writes a line of JSON whenever something happens:
what the port is mapped to, or a datagram that came. At SIGTERM it gives the mapping back and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from dataclasses import replace
from typing import Any, cast

import uvloop

from meshnode.linux.marks import FWMARK
from meshnode.linux.netmon import NetworkMonitor
from meshnode.linux.netstate import NetworkState
from meshnode.portmap import PortMapper
from meshnode.portmap.timing import DEFAULT
from tests.netlab import Host, wait_for

SO_MARK = 36


class MappedNode:
    """The program on a host. `timings` are those of `meshnode.portmap.timing.Timings` that differ."""

    def __init__(self, host: Host, port: int, **timings: object) -> None:
        words = [str(port), json.dumps(timings)]
        module = "tests.meshnode.portmap.mapped_node"
        log = f"mapped-node-{len(host.started)}"
        self.process = host.popen(sys.executable, "-m", module, *words, log=log)

    def events(self) -> list[dict[str, Any]]:
        """Everything that happened, the first thing first."""
        lines = self.process.output().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]

    def last(self, key: str) -> Any:
        """The newest event's value of this key, or None."""
        return next((event[key] for event in reversed(self.events()) if key in event), None)

    def wait_for_external(self, timeout: float = 30.0) -> tuple[str, str]:
        """The address and port outside, and the protocol, once there are; on a busy machine not at once."""
        wait_for(lambda: self.last("external"), timeout, what="a port mapping")
        return self.last("external"), self.last("service")

    def stop(self) -> None:
        """End it in order."""
        status = self.process.terminate()
        assert status == 0, self.process.output()


def say(**event: object) -> None:
    print(json.dumps(event), flush=True)


def mark(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, SO_MARK, FWMARK)


class Port(asyncio.DatagramProtocol):
    """Echoes what comes, after it has told."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        say(datagram=data.decode(), source=f"{addr[0]}:{addr[1]}")
        self.transport.sendto(data, addr)


async def main(port: str, timings: str) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    changes = {key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(timings).items()}

    def tell() -> None:
        external = mapper.external
        say(external=str(external) if external else None, service=mapper.service)

    mapper = PortMapper(mark=mark, entropy=os.urandom, on_change=tell, timings=replace(DEFAULT, **changes))

    def configure(state: NetworkState) -> None:
        gateway, self_ip = state.gateway_v4 or (None, None)
        mapper.configure(gateway=gateway, self_ip=self_ip, local_port=int(port))

    monitor = NetworkMonitor("mesh0", on_change=configure)
    transport, _ = await loop.create_datagram_endpoint(Port, local_addr=("0.0.0.0", int(port)))
    await monitor.start()
    configure(monitor.state)
    began = loop.time()
    probed = await mapper.probe()
    say(upnp=probed.upnp, pmp=probed.pmp, pcp=probed.pcp, seconds=loop.time() - began)
    problem = ""
    while not done.is_set():
        if mapper.problem != problem:
            problem = mapper.problem
            say(problem=problem)
        await asyncio.wait([asyncio.create_task(done.wait())], timeout=0.2)
    await monitor.close()
    await mapper.close()
    transport.close()
    say(closed=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the daemon does
        runner.run(main(*sys.argv[1:]))
