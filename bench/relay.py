"""A relay with 1,000 clients: what it forwards, what an idle one costs, and what a deaf one does to others.

The relay is a process of its own, `python -m derp`; the load comes from this one, so that each has a core. A
pair of clients keeps a window of packets in flight, as a TCP connection through the relay would, and the
figures are those of the packets that arrived. `--url` and `--pid` measure another relay that already runs.
`--json` prints one line instead of the table.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import select
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.table import Table

from derp import frames
from derp.client_core import ClientCore
from derp.relay_node import RelayNode
from derp.upgrade import END_OF_HEAD, encode_request
from meshproto.keys import NodePrivate
from tests.derp.relays import Certificate

PACKET_SIZE = 1280
FRAME_SIZE = 5 + 32 + PACKET_SIZE
WINDOW = 64  # packets in flight
FLOOD_BATCH = 64  # packets at once to the client that does not read
BUFFER_SIZE = 256 * 1024

_TLS = ssl.create_default_context()
_TLS.check_hostname = False
_TLS.verify_mode = ssl.CERT_NONE


@dataclass(frozen=True)
class Relay:
    """A running relay."""

    node: RelayNode
    pid: int
    log: str = ""
    """What it has said so far."""

    def resident_kib(self) -> int:
        """Memory that it uses."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1])

    def cpu_s(self) -> float:
        """Processor time that it has used, of all threads, in and out of the kernel."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def our_relay(*, uses_tls: bool, options: Sequence[str] = ()) -> Iterator[Relay]:
    """`python -m derp` on a port of this machine, with more options if need be."""
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "derp", "--listen", "127.0.0.1:0", "--key-file", f"{directory}/key"]
        command += options
        if uses_tls:
            made = Certificate.make(Path(directory))
            command += ["--certificate", str(made.chain), "--certificate-key", str(made.key)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stderr is not None
                log = ""
                while (found := re.search(r"relaying on \S+:(\d+)", log)) is None:
                    line = process.stderr.readline()
                    assert line, log
                    log += line
                yield Relay(RelayNode("127.0.0.1", int(found[1]), uses_tls=uses_tls), process.pid, log)
            finally:
                process.terminate()


class Client:
    """A client as little as can be: a socket that has logged in."""

    def __init__(self, relay: Relay, *, receive_buffer: int = 0) -> None:
        self.key = NodePrivate.generate(os.urandom)
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect((relay.node.host_name, relay.node.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(10)
        if relay.node.uses_tls:
            self.socket = _TLS.wrap_socket(self.socket)
        self._log_in(relay)
        self.socket.setblocking(False)
        self._readable = _poll(self.socket, select.POLLIN)

    def send(self, data: memoryview) -> int:
        """How many bytes were taken."""
        with suppress(BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return self.socket.send(data)
        return 0

    def receive_into(self, buffer: bytearray, patience_s: float) -> int:
        """How many bytes came within that time."""
        has_some = isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()
        if has_some or self._readable.poll(patience_s * 1000):
            with suppress(BlockingIOError, ssl.SSLWantReadError):
                return self.socket.recv_into(buffer)
        return 0

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def _log_in(self, relay: Relay) -> None:
        core = ClientCore(self.key, 0.0, entropy=os.urandom)
        self.socket.sendall(encode_request(relay.node.host_header, fast_start=False))
        head = b""
        while not head.endswith(END_OF_HEAD):
            head += self.socket.recv(1)
        while not core.is_connected:
            core.receive_data(self.socket.recv(4096), 0.0)
            self.socket.sendall(core.data_to_send())


class Stream:
    """Packets from one client to another, a window of them in flight."""

    def __init__(self, source: Client, destination: Client) -> None:
        frame = frames.send_packet(destination.key.public.raw, os.urandom(PACKET_SIZE))
        assert len(frame) == FRAME_SIZE
        self._frames = memoryview(frame * WINDOW)
        self._source = source
        self._writable = _poll(source.socket, select.POLLOUT)
        self._destination = destination
        self._buffer = bytearray(BUFFER_SIZE)
        self.sent_bytes = 0
        self.received_bytes = 0

    def run(self, seconds: float, per_second: float | None = None) -> None:
        """Send for so long, as fast as the window allows or at a rate, and then wait for the rest."""
        started, already = time.monotonic(), self.received_bytes
        end = started + seconds
        while (now := time.monotonic()) < end:
            wanted = WINDOW * FRAME_SIZE
            if per_second is not None:
                due = int((now - started) * per_second) * FRAME_SIZE
                wanted = min(wanted, already + due - self.received_bytes)
            self._send(wanted - self.in_flight_bytes)
            self._receive(0.001)
        self._drain()

    @property
    def in_flight_bytes(self) -> int:
        return self.sent_bytes - self.received_bytes

    @property
    def received(self) -> int:
        """Packets."""
        return self.received_bytes // FRAME_SIZE

    @property
    def lost(self) -> int:
        """Packets."""
        return -(-self.in_flight_bytes // FRAME_SIZE)

    def _send(self, size: int) -> None:
        """Whole frames only, unless the socket is full: it goes on where it stopped."""
        offset = self.sent_bytes % FRAME_SIZE
        size = (size + offset) // FRAME_SIZE * FRAME_SIZE - offset
        if size <= 0:
            return
        self.sent_bytes += self._source.send(self._frames[offset : offset + size])

    def _receive(self, patience_s: float) -> bool:
        size = self._destination.receive_into(self._buffer, patience_s)
        self.received_bytes += size
        return size > 0

    def _drain(self) -> None:
        """What was begun is finished, and what is under way arrives, or is lost."""
        while self.sent_bytes % FRAME_SIZE:
            self._writable.poll(1000)
            offset = self.sent_bytes % FRAME_SIZE
            self.sent_bytes += self._source.send(self._frames[offset:FRAME_SIZE])
        while self.in_flight_bytes and self._receive(1.0):
            pass


@dataclass(frozen=True)
class Measured:
    """Figures of one relay."""

    clients: int
    idle_kib: float  # per client
    packets_per_s: float
    megabits_per_s: float
    cpu_us: float  # per packet
    lost: int  # of a pair that reads, beside a client that does not
    kept: int  # of the same pair, packets that arrived
    growth_kib: int  # of the relay's memory while one client did not read


def _poll(sock: socket.socket, event: int) -> select.poll:
    """Waits for a socket whose number may be greater than `select.select` can take."""
    poll = select.poll()
    poll.register(sock, event)
    return poll


def measure(relay: Relay, clients: int, seconds: float, console: Console) -> Measured:
    """One relay, from empty to full."""
    with ExitStack() as stack:
        with console.status("two clients"):
            pair = [stack.enter_context(Client(relay)) for _ in range(2)]
            rate, cpu_us = _throughput(relay, Stream(*pair), seconds)
        with console.status(f"{clients} idle clients"):
            before = relay.resident_kib()
            for _ in range(clients):
                stack.enter_context(Client(relay))
            idle_kib = (relay.resident_kib() - before) / clients
        with console.status("a client that does not read"):
            flooder = stack.enter_context(Client(relay))
            deaf = stack.enter_context(Client(relay, receive_buffer=4096))
            stream, growth = _beside_a_deaf_client(relay, Stream(*pair), flooder, deaf, seconds)
    return Measured(
        clients=clients,
        idle_kib=round(idle_kib, 1),
        packets_per_s=round(rate),
        megabits_per_s=round(rate * PACKET_SIZE * 8 / 1e6),
        cpu_us=round(cpu_us, 2),
        lost=stream.lost,
        kept=stream.received,
        growth_kib=growth,
    )


def _throughput(relay: Relay, stream: Stream, seconds: float) -> tuple[float, float]:
    """Packets per second, and microseconds of the relay's processor time for each."""
    stream.run(0.5)
    received, cpu, started = stream.received, relay.cpu_s(), time.monotonic()
    stream.run(seconds)
    packets = stream.received - received
    return packets / (time.monotonic() - started), (relay.cpu_s() - cpu) / packets * 1e6


def _beside_a_deaf_client(
    relay: Relay, stream: Stream, flooder: Client, deaf: Client, seconds: float
) -> tuple[Stream, int]:
    """A pair at a moderate rate while another client is flooded and does not read.

    Returns the pair's stream, and by how much the relay's memory grew once the flood's buffers were full.
    """
    flood = frames.send_packet(deaf.key.public.raw, bytes(PACKET_SIZE)) * FLOOD_BATCH
    rest = memoryview(b"")
    sizes: list[int] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rest = rest or memoryview(flood)
        rest = rest[flooder.send(rest) :]
        stream.run(0.02, per_second=2000)
        sizes.append(relay.resident_kib())
    settled = sizes[len(sizes) // 4 :]
    return stream, max(settled) - settled[0]


def show(console: Console, measured: Measured, *, uses_tls: bool) -> None:
    """The table for a person."""
    kind = "with TLS" if uses_tls else "in clear"
    table = Table(title=f"One relay, {kind}, {measured.clients} clients, packets of {PACKET_SIZE} bytes")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_row("forwarded between two clients", f"{measured.packets_per_s:,.0f} packets/s")
    table.add_row("", f"{measured.megabits_per_s:,.0f} Mbit/s")
    table.add_row("the relay's processor time", f"{measured.cpu_us:.2f} µs a packet")
    table.add_row("memory of an idle client", f"{measured.idle_kib:.1f} KiB")
    table.add_row(
        "lost beside a client that does not read", f"{measured.lost} of {measured.kept + measured.lost}"
    )
    table.add_row("growth of memory meanwhile", f"{measured.growth_kib} KiB")
    console.print(table)


def allow_many_files() -> None:
    """Each client is an open file of ours, and one of the relay's."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print, as `argv` or the command line says."""
    parser = argparse.ArgumentParser(prog="python -m bench.relay", description=__doc__)
    parser.add_argument("--clients", type=int, default=1000, help="idle clients (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement (default: %(default)s)")
    parser.add_argument("--tls", action="store_true", help="with TLS, as a relay on the internet")
    parser.add_argument("--url", help="a relay that already runs, such as http://127.0.0.1:3340")
    parser.add_argument("--pid", type=int, help="its process, on this machine")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args(argv)
    if (options.url is None) != (options.pid is None):
        parser.error("--url and --pid belong together")
    allow_many_files()
    console = Console(stderr=options.json)
    with ExitStack() as stack:
        if options.url is None:
            relay = stack.enter_context(our_relay(uses_tls=options.tls))
        else:
            relay = Relay(RelayNode.parse(options.url), options.pid)
        measured = measure(relay, options.clients, options.seconds, console)
    if options.json:
        print(json.dumps({"bench": "relay", "tls": relay.node.uses_tls, **vars(measured)}))
    else:
        show(console, measured, uses_tls=relay.node.uses_tls)


if __name__ == "__main__":
    main()
