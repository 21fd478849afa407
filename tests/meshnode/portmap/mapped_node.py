"""A UDP port that a PortMapper maps, in a host of the lab, and the handle for it.

Run in the host as `python -m tests.meshnode.portmap.mapped_node GATEWAY SELF PORT TIMINGS`, TIMINGS as JSON. It
writes a line of JSON whenever something happens: what the port is mapped to, or a datagram that came. At
SIGTERM it gives the mapping back and ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any, cast

import uvloop

from meshnode.linux.marks import FWMARK
from meshnode.portmap import PortMapper
from meshnode.portmap.timing import DEFAULT
from tests.netlab import Host, wait_for

SO_MARK = 36


class MappedNode:
    """The program on a host. `timings` are those of `meshnode.portmap.timing.Timings` that differ."""

    def __init__(self, host: Host, gateway: str, port: int, *, self_ip: str, **timings: object) -> None:
        words = [gateway, self_ip, str(port), json.dumps(timings)]
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

    def wait_for_external(self, timeout: float = 10.0) -> tuple[str, str]:
        """The address and port outside, and the protocol, once there are."""
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


async def main(gateway: str, self_ip: str, port: str, timings: str) -> None:
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, done.set)
    changes = {key: tuple(v) if isinstance(v, list) else v for key, v in json.loads(timings).items()}

    def tell() -> None:
        external = mapper.external
        say(external=str(external) if external else None, service=mapper.service)

    mapper = PortMapper(mark=mark, entropy=os.urandom, on_change=tell, timings=replace(DEFAULT, **changes))
    where = IPv4Address(gateway), IPv4Address(self_ip)
    transport, _ = await loop.create_datagram_endpoint(Port, local_addr=("0.0.0.0", int(port)))
    mapper.configure(gateway=where[0], self_ip=where[1], local_port=int(port))
    began = loop.time()
    probed = await mapper.probe()
    say(upnp=probed.upnp, pmp=probed.pmp, pcp=probed.pcp, seconds=loop.time() - began)
    problem = ""
    while not done.is_set():
        if mapper.problem != problem:
            problem = mapper.problem
            say(problem=problem)
        await asyncio.wait([asyncio.create_task(done.wait())], timeout=0.2)
    await mapper.close()
    transport.close()
    say(closed=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as the daemon does
        runner.run(main(*sys.argv[1:]))
