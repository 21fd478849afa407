"""A relay, as a program, with 1,000 clients, one of which reads slowly."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bench.relay import measure_relay
from bench.relay_load import Client, allow_many_files
from bench.relays import Relay, our_relay
from bench.usage import resident_kib
from derp import frames
from derp.frame_reader import FrameReader
from derp.frames import FrameType

CLIENTS = 1000
PER_ROUND = 50  # clients that get a packet in a round
ROUNDS = 200  # so each client gets ten
FLOOD = 40  # packets to the slow reader in a round
FLOOD_SIZE = 1280
_LIMITS = {int(kind): 1 << 20 for kind in FrameType}


class Inbox:
    """What a client has received, as the numbers with which its packets begin."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.numbers: list[int] = []
        self._reader = FrameReader(_LIMITS)
        self._buffer = bytearray(64 * 1024)

    def read(self, patience_s: float = 0.0) -> bool:
        """What is there. False when nothing is."""
        size = self.client.receive_into(self._buffer, patience_s)
        for kind, payload in self._reader.receive_data(bytes(self._buffer[:size])):
            if kind == FrameType.RECV_PACKET:
                self.numbers.append(int.from_bytes(payload[32:36], "big"))
        return size > 0


def packet(destination: Client, number: int, size: int) -> bytes:
    return frames.send_packet(destination.key.public.raw, number.to_bytes(4, "big") + bytes(size - 4))


class Flood:
    """Packets as fast as the relay takes them."""

    def __init__(self, source: Client, destination: Client) -> None:
        self.sent = 0
        self._source = source
        self._destination = destination
        self._rest = memoryview(b"")

    def send(self, count: int) -> None:
        self._flush()
        if not self._rest:
            numbers = range(self.sent, self.sent + count)
            self._rest = memoryview(b"".join(packet(self._destination, n, FLOOD_SIZE) for n in numbers))
            self.sent += count
            self._flush()

    def finish(self) -> None:
        while self._rest:
            self._flush()

    def _flush(self) -> None:
        if self._rest:
            self._rest = self._rest[self._source.send(self._rest) :]


def dropped(relay: Relay) -> int:
    """Packets that the relay has dropped, for whatever reason and whoever they were for."""
    found = re.search(r"figures on (\S+:\d+)", relay.log)
    assert found is not None
    with urllib.request.urlopen(f"http://{found[1]}/metrics", timeout=10) as response:
        text = response.read().decode()
    return sum(int(count) for count in re.findall(r"^derp_packets_dropped_total\{.*\} (\d+)$", text, re.M))


@pytest.fixture
def relay() -> Iterator[Relay]:
    allow_many_files()
    with our_relay(uses_tls=False, options=["--metrics", "127.0.0.1:0"]) as relay:
        yield relay


def test_only_the_slow_reader_loses_packets(relay: Relay) -> None:
    with ExitStack() as stack:
        inboxes = [Inbox(stack.enter_context(Client(relay))) for _ in range(CLIENTS)]
        source, flooder = (stack.enter_context(Client(relay)) for _ in range(2))
        slow = Inbox(stack.enter_context(Client(relay, receive_buffer=4096)))
        flood = Flood(flooder, slow.client)
        memory: list[int] = []
        for number in range(ROUNDS):
            first = number * PER_ROUND % CLIENTS
            receivers = inboxes[first : first + PER_ROUND]
            data = b"".join(packet(inbox.client, number, 200) for inbox in receivers)
            flood.send(FLOOD)
            assert source.send(memoryview(data)) == len(data)
            slow.read()
            for inbox in receivers:
                assert inbox.read(patience_s=10.0)
            memory.append(resident_kib(relay.pid))
        flood.finish()
        while slow.read(patience_s=1.0):
            pass
        rounds_of = [range(n // PER_ROUND, ROUNDS, CLIENTS // PER_ROUND) for n in range(CLIENTS)]
        assert [inbox.numbers for inbox in inboxes] == [list(numbers) for numbers in rounds_of]
        assert slow.numbers == sorted(slow.numbers)
        lost = flood.sent - len(slow.numbers)
        assert lost > 0.2 * flood.sent
        assert dropped(relay) == lost
        settled = memory[ROUNDS // 4 :]
        assert max(settled) - settled[0] < 4096


def test_the_benchmark_measures() -> None:
    with our_relay(uses_tls=False) as relay:
        measured = measure_relay(relay, clients=50, seconds=0.5)
    assert measured.kept > 100
    assert measured.lost == 0
    assert measured.packets_per_s > 100
    assert 0 < measured.idle_kib < 40
