"""A STUN responder: requests it answers, how soon, and what becomes of that in a flood of malformed ones."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from bench.measure import OURS, What
from bench.relays import derper
from bench.usage import cpu_s
from stun.messages import HEADER_SIZE, encode_binding_request

WINDOW = 32  # requests in flight
BUFFER_SIZE = 1024 * 1024
PATIENCE_S = 0.5  # for one answer, before it counts as lost
ASK_EVERY_S = 0.01  # of the well-behaved client in a flood

MALFORMED = (
    bytes(20),  # no binding request
    bytes.fromhex("0001 0000 2112a442") + bytes(8),  # cut short
    encode_binding_request(bytes(12))[:-1] + b"\0",  # wrong fingerprint
    b"\4\0\0\0" + bytes(1276),  # a datagram of a tunnel
)

WHATS = (
    What("stun", "STUN requests answered", "/s"),
    What("stun cpu", "the responder's processor time for each", "µs", more_is_better=False),
    What("stun idle", "round trip of a STUN request that is alone", "µs", more_is_better=False),
    What("flood idle", "the same in a flood of malformed datagrams", "µs", more_is_better=False),
    What("flood lost", "requests unanswered in that flood", "%", more_is_better=False),
    What("flood", "malformed datagrams that were sent to it", "/s"),
    What("flood cpu", "the responder's processor time for each of those", "µs", more_is_better=False),
)


@dataclass(frozen=True)
class Responder:
    """A running responder on 127.0.0.1."""

    port: int
    pid: int


class StartResponder(Protocol):
    """Runs a responder for the length of a block."""

    def __call__(self) -> AbstractContextManager[Responder]: ...


@contextmanager
def our_responder() -> Iterator[Responder]:
    """`python -m stun`."""
    command = [sys.executable, "-m", "stun", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"listening on \S+:(\d+)", line)
            assert found is not None, line
            yield Responder(int(found[1]), process.pid)
        finally:
            process.terminate()


@contextmanager
def derper_responder(program: str) -> Iterator[Responder]:
    """That of `derper`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with derper(program, uses_tls=False, stun_port=port) as relay:
        yield Responder(port, relay.pid)


def responders(path: str | None) -> dict[str, StartResponder]:
    """Ours, and that of the `derper` at `path` or else on PATH."""
    found: dict[str, StartResponder] = {OURS: our_responder}
    theirs = path or shutil.which("derper")
    if theirs:
        found["derper"] = partial(derper_responder, theirs)
    return found


class Asker:
    """A client's socket."""

    def __init__(self, responder: Responder) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_SIZE)
        self.socket.connect(("127.0.0.1", responder.port))
        self.socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self.socket, select.POLLIN)

    def answers(self, seconds: float) -> int:
        """How many come in that time, with a window of requests in flight."""
        request = encode_binding_request(os.urandom(12))
        send, receive, poll = self.socket.send, self.socket.recv, self._poll.poll
        received, in_flight, end = 0, 0, time.monotonic() + seconds
        while time.monotonic() < end:
            while in_flight < WINDOW:
                send(request)
                in_flight += 1
            if not poll(PATIENCE_S * 1000):
                in_flight = 0  # all of them are lost
            while in_flight:
                try:
                    receive(2048)
                except BlockingIOError:
                    break
                received += 1
                in_flight -= 1
        return received

    def round_trip(self) -> float | None:
        """Seconds until one answer is there; None when it does not come."""
        request = encode_binding_request(os.urandom(12))
        started = time.perf_counter()
        self.socket.send(request)
        while (left := started + PATIENCE_S - time.perf_counter()) > 0:
            if self._poll.poll(left * 1000):
                answer = self.socket.recv(2048)
                if answer[8:HEADER_SIZE] == request[8:HEADER_SIZE]:  # and not of an earlier one
                    return time.perf_counter() - started
        return None


def measure_responder(start: StartResponder, seconds: float) -> Mapping[str, float]:
    """Figures by the keys of `WHATS`."""
    with start() as responder:
        asker = Asker(responder)
        with asker.socket:
            asker.answers(0.3)
            cpu, started = cpu_s(responder.pid), time.monotonic()
            count = asker.answers(seconds)
            rate, cpu = count / (time.monotonic() - started), cpu_s(responder.pid) - cpu
            alone = [trip for _ in range(500) if (trip := asker.round_trip()) is not None]
            idle_us = statistics.median(alone or [PATIENCE_S]) * 1e6
            figures = {"stun": rate, "stun cpu": cpu / count * 1e6, "stun idle": idle_us}
            return figures | _in_a_flood(responder, asker, seconds)


def _in_a_flood(responder: Responder, asker: Asker, seconds: float) -> dict[str, float]:
    trips: list[float | None] = []
    flood = subprocess.Popen(
        [sys.executable, "-m", "bench.relay_stun", str(responder.port)], stdout=subprocess.PIPE, text=True
    )
    with flood:
        assert flood.stdout is not None
        flood.stdout.readline()
        cpu, end = cpu_s(responder.pid), time.monotonic() + seconds
        while time.monotonic() < end:
            trips.append(asker.round_trip())
            time.sleep(ASK_EVERY_S)
        cpu = cpu_s(responder.pid) - cpu
        flood.send_signal(signal.SIGTERM)
        sent = int(flood.stdout.read())
    answered = [trip for trip in trips if trip is not None]
    return {
        "flood idle": statistics.median(answered or [PATIENCE_S]) * 1e6,
        "flood lost": (1 - len(answered) / len(trips)) * 100,
        "flood": sent / seconds,
        "flood cpu": cpu / sent * 1e6,
    }


def flood(port: int) -> None:
    """Send malformed datagrams as fast as it goes until SIGTERM, and say how many that were."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.connect(("127.0.0.1", port))
        print("flooding", flush=True)
        while not stopped:
            for datagram in MALFORMED:
                out.send(datagram)
            sent += len(MALFORMED)
    print(sent)


if __name__ == "__main__":
    flood(int(sys.argv[1]))
