"""Clients of a relay, as little as they can be, and what a pair of them forwards through it."""

from __future__ import annotations

import os
import resource
import select
import socket
import ssl
import time
from contextlib import suppress
from types import TracebackType

from bench.relays import Relay
from derp import frames
from derp.client_core import ClientCore
from derp.upgrade import END_OF_HEAD, encode_request
from meshproto.keys import NodePrivate

PACKET_SIZE = 1280
FRAME_SIZE = 5 + 32 + PACKET_SIZE
SMALL_PACKET_SIZE = 100
PAUSE_S = 0.001  # between round trips, so that each finds everybody idle
WINDOW = 64  # packets in flight
BUFFER_SIZE = 256 * 1024

_TLS = ssl.create_default_context()
_TLS.check_hostname = False
_TLS.verify_mode = ssl.CERT_NONE


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

    def receive_exactly(self, size: int, buffer: bytearray) -> None:
        """Receive so many bytes. Raises TimeoutError when nothing comes for a second."""
        while size > 0:
            received = self.receive_into(buffer, 1.0)
            if not received:
                raise TimeoutError("a packet did not arrive")
            size -= received

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


def round_trips(one: Client, other: Client, seconds: float) -> list[float]:
    """Seconds that a small packet to a peer and one back take, when nothing else is under way."""
    request = frames.send_packet(other.key.public.raw, bytes(SMALL_PACKET_SIZE))
    answer = frames.send_packet(one.key.public.raw, bytes(SMALL_PACKET_SIZE))
    buffer = bytearray(BUFFER_SIZE)
    trips: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.perf_counter()
        one.send(memoryview(request))
        other.receive_exactly(len(request), buffer)
        other.send(memoryview(answer))
        one.receive_exactly(len(answer), buffer)
        trips.append(time.perf_counter() - started)
        time.sleep(PAUSE_S)
    return trips


def _poll(sock: socket.socket, event: int) -> select.poll:
    """Waits for a socket whose number may be greater than `select.select` can take."""
    poll = select.poll()
    poll.register(sock, event)
    return poll


def allow_many_files() -> None:
    """Each client is an open file of ours, and one of the relay's."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
