"""One UDP socket that sends batches, and what to do when that fails (reference §6).

The fast path receives from it (`meshnode.engine.fast_path`), and sends where nothing is to be thought about.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from meshnode.dataplane import DropReason, SocketAddress
from meshproto.addresses import AddrPort
from stun.socket_drops import dropped

__all__ = ["SendState", "UdpOptions", "UdpSocket", "from_socket_address", "to_socket_address"]

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
IP_MTU_DISCOVER: Final = 10
IPV6_MTU_DISCOVER: Final = 23
PMTUDISC_WANT: Final = 1
PMTUDISC_PROBE: Final = 3

MAX_BACKLOG_BYTES: Final = 512 * 1024
"""What may wait for a full socket: the rest of one turn of the tunnel, and the handshakes meanwhile."""

MAX_INVALID_BATCHES: Final = 3
"""EINVAL for a batch may have a passing cause; after this many the kernel or the driver cannot do it."""

MIN_BATCH_WITH_TAIL: Final = 8
SHORT_TAIL: Final = b"\x07"
"""A datagram that every WireGuard ignores: with it, a batch is not all of one size (reference §6.9)."""

NO_WAY: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN})

U16: Final = struct.Struct("=H")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UdpOptions:
    """Switches for kernels and drivers that get batches wrong (reference §6.9)."""

    gso: bool = True
    gro: bool = True
    avoid_equal_tail: bool = False
    """No batch whose datagrams are all of one size: Linux 7.0 to 7.1-rc4 mangles those on some devices."""


class SendState:
    """What the sockets of one node have to say about their sends: looked at after every turn."""

    __slots__ = ("blocked", "drops", "unreachable")

    def __init__(self) -> None:
        self.drops: Counter[DropReason] = Counter()
        self.blocked: set[UdpSocket] = set()
        """Those with a backlog."""
        self.unreachable: set[AddrPort] = set()
        """Where there was no way to. Whoever deals with it clears it."""


class UdpSocket:
    """Owns a bound, non-blocking socket. Nothing that the network or the kernel does makes a method raise.

    What is lost is counted. What a full socket did not take waits in a bounded backlog, in order, without
    being copied: while `is_blocked`, the caller must leave the buffers alone that it gave to `send`.
    """

    def __init__(self, sock: socket.socket, options: UdpOptions, state: SendState) -> None:
        self._sock = sock
        self._state = state
        self._drops = state.drops
        self._avoid_equal_tail = options.avoid_equal_tail
        self._backlog: deque[tuple[memoryview, int, AddrPort]] = deque()
        self._backlog_bytes = 0
        self._invalid_batches = 0
        self.gso = options.gso and _has_gso(sock)
        """Whether batches leave in one call. Turned off when the kernel or the device refuses it."""
        self.gro = options.gro and _enable_gro(sock)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def raw(self) -> socket.socket:
        """For the fast path; what it sends and receives there is as good as through the methods here."""
        return self._sock

    @property
    def takes_batches(self) -> bool:
        """Whether a batch may be sent as it is, and now."""
        return self.gso and not self._avoid_equal_tail and not self._backlog

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AddressFamily(self._sock.family)

    @property
    def is_blocked(self) -> bool:
        """True while something waits: call `flush` when the socket is writable."""
        return bool(self._backlog)

    @property
    def receive_overflow(self) -> int:
        """Datagrams that the kernel dropped because we did not read in time."""
        return dropped(self._sock)

    # --- sending ---

    def send(self, data: memoryview, stride: int, destination: AddrPort) -> None:
        """Send `data` as datagrams of `stride` bytes, the last maybe shorter: one GSO unit, 64 at most."""
        if self._backlog:
            self._keep(data, stride, destination)
            return
        if len(data) <= stride:
            try:
                self._sock.sendto(data, destination)
            except OSError:
                pass  # once more, with care
            else:
                return
        sent = self._send_now(data, stride, destination)
        if sent < len(data):
            self._keep(data[sent:], stride, destination)

    def try_send(self, datagram: bytes, destination: AddrPort, *, dont_fragment: bool = False) -> bool:
        """Send one datagram now or not at all, uncounted. Returns whether it left.

        With `dont_fragment` it leaves whole, whatever the kernel believes of the path's MTU.
        """
        if dont_fragment:
            self._discover_mtu(PMTUDISC_PROBE)
        try:
            self._sock.sendto(datagram, destination)
        except OSError:
            return False
        finally:
            if dont_fragment:
                self._discover_mtu(PMTUDISC_WANT)
        return True

    def _discover_mtu(self, how: int) -> None:
        if self._sock.family == socket.AF_INET6:
            self._sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, how)
        else:
            self._sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, how)

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        while self._backlog:
            data, stride, destination = self._backlog.popleft()
            self._backlog_bytes -= len(data)
            sent = self._send_now(data, stride, destination)
            if sent < len(data):
                self._backlog.appendleft((data[sent:], stride, destination))
                self._backlog_bytes += len(data) - sent
                return
        self._state.blocked.discard(self)

    def _keep(self, data: memoryview, stride: int, destination: AddrPort) -> None:
        if self._backlog_bytes + len(data) > MAX_BACKLOG_BYTES:
            self._drop(DropReason.SEND_QUEUE_FULL, len(data), stride)
            return
        self._backlog.append((data, stride, destination))
        self._backlog_bytes += len(data)
        self._state.blocked.add(self)

    def _send_now(self, data: memoryview, stride: int, destination: AddrPort) -> int:
        """Returns how much is done with, sent or dropped; the socket takes no more when that is not all."""
        if self.gso and len(data) > stride:
            sent = self._send_batch(data, stride, destination)
            if sent is not None:
                return sent
        return self._send_singly(data, stride, destination)

    def _send_batch(self, data: memoryview, stride: int, destination: AddrPort) -> int | None:
        """One call for all. None: not this way, or not with this batch."""
        buffers: list[memoryview | bytes] = [data]
        if self._avoid_equal_tail:
            if len(data) < MIN_BATCH_WITH_TAIL * stride:
                return None
            if not len(data) % stride:
                buffers.append(SHORT_TAIL)
        ancillary = [(SOL_UDP, UDP_SEGMENT, U16.pack(stride))]
        for _ in range(2):
            try:
                self._sock.sendmsg(buffers, ancillary, 0, destination)
            except BlockingIOError:
                return 0
            except ConnectionRefusedError:
                continue  # an ICMP message about an earlier datagram
            except OSError as error:
                return self._batch_failed(error, data, stride, destination)
            break
        return len(data)

    def _batch_failed(
        self, error: OSError, data: memoryview, stride: int, destination: AddrPort
    ) -> int | None:
        if error.errno == errno.EIO:
            self._stop_batches("the outgoing device cannot compute checksums")
        elif error.errno == errno.EINVAL:
            self._invalid_batches += 1
            if self._invalid_batches == MAX_INVALID_BATCHES:
                self._stop_batches("the kernel refuses them")
        elif error.errno != errno.EMSGSIZE:  # the path's MTU shrank: single datagrams may be fragmented
            self._failed(error, len(data), stride, destination)
            return len(data)
        return None

    def _stop_batches(self, reason: str) -> None:
        self.gso = False
        log.warning("UDP datagrams are sent one by one from now on: %s", reason)

    def _send_singly(self, data: memoryview, stride: int, destination: AddrPort) -> int:
        for start in range(0, len(data), stride):
            for _ in range(2):
                try:
                    self._sock.sendto(data[start : start + stride], destination)
                except BlockingIOError:
                    return start
                except ConnectionRefusedError:
                    continue
                except OSError as error:
                    if error.errno in (errno.EMSGSIZE, errno.EINVAL):
                        # This one only: others may be smaller.
                        self._failed(error, stride, stride, destination)
                    else:
                        self._failed(error, len(data) - start, stride, destination)
                        return len(data)
                break
        return len(data)

    def _failed(self, error: OSError, size: int, stride: int, destination: AddrPort) -> None:
        is_full = error.errno == errno.ENOBUFS
        if error.errno in NO_WAY:
            self._state.unreachable.add(destination)
        self._drop(DropReason.SEND_QUEUE_FULL if is_full else DropReason.SEND_FAILED, size, stride)
        log.debug("sending: %s", error)

    def _drop(self, reason: DropReason, size: int, stride: int) -> None:
        self._drops[reason] += -(-size // stride)

    def close(self) -> None:
        """Close the socket. Safe to call again."""
        self._backlog.clear()
        self._backlog_bytes = 0
        self._state.blocked.discard(self)
        self._sock.close()


def _has_gso(sock: socket.socket) -> bool:
    """Linux 4.18 and newer know the option."""
    try:
        sock.getsockopt(SOL_UDP, UDP_SEGMENT)
    except OSError:
        return False
    return True


def _enable_gro(sock: socket.socket) -> bool:
    """Before Linux 5.12, which made the option readable, it cannot be relied on (reference §6.4)."""
    try:
        sock.getsockopt(SOL_UDP, UDP_GRO)
        sock.setsockopt(SOL_UDP, UDP_GRO, 1)
    except OSError:
        return False
    return True


def to_socket_address(address: AddrPort) -> SocketAddress | None:
    """For the fast path; None when the host is no address, or of an interface that is gone."""
    host, _, zone = address.host.partition("%")
    try:
        return (host, address.port, socket.if_nametoindex(zone) if zone else 0)
    except OSError:
        return None


def from_socket_address(address: SocketAddress) -> AddrPort:
    """The inverse of `to_socket_address`."""
    host, port, scope = address
    if scope:
        with suppress(OSError):  # an interface that is gone meanwhile
            host = f"{host}%{socket.if_indextoname(scope)}"
    return AddrPort(host, port)
