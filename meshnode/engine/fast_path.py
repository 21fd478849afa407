"""One turn of the data plane without a question: receive, open, write; read, seal, send.

A flow is decided once by the caller: which session, which socket, which destination, and until when. The
fast path repeats that for what the tunnel has to send, and leaves to its caller what it cannot decide and
what goes wrong: only there it is known what to do about an error.

This is the definition; the compiled kernel has the same (`native/src/fast_path.rs`), and is taken where it
was built. Both are for one thread at a time.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from meshnode import dataplane
from meshnode.dataplane import (
    KERNEL,
    MAX_UNIT_IPV6,
    MAX_UNIT_SEGMENTS,
    NO_PEER,
    RECEIVE_BUFFER_SIZE,
    REFUSALS,
    SEAL_BUFFER_SIZE,
    TUN_BUFFER_SIZE,
    AllowedIPs,
    Coalescing,
    DropReason,
    Gate,
    Heard,
    Moved,
    Sent,
    Session,
    SessionSpent,
    SessionTable,
    SocketAddress,
    Turn,
    Unit,
    Unsent,
    Verdict,
    is_handshake,
)
from meshnode.engine.udp_socket import SOL_UDP, U16, UDP_GRO, UDP_SEGMENT

__all__ = ["FastPath", "PureFastPath"]

MSG_TRUNC: Final = int(socket.MSG_TRUNC)  # the enumeration's own operators cost more than the system call
ANCILLARY_SIZE: Final = 128

MAX_BYTES: Final = 512 * 1024
"""What one direction may move in one turn, so that neither starves the other or the rest of the program."""
MAX_READS: Final = 64
MAX_RECEIVES: Final = 256
MAX_MESSAGES: Final = 64
"""Datagrams that one turn leaves to its caller."""

MAX_MOVED: Final = 64
"""Peers, and sources of theirs, that one `Moved` is about."""

FLUSH_AT: Final = 32 * 1024
"""Bytes from which on waiting for more to send is not worth it."""

OUT_SIZE: Final = SEAL_BUFFER_SIZE + 2 * FLUSH_AT

TUN_GONE: Final = (errno.EBADFD, errno.EBADF, errno.ENODEV)

_I32: Final = struct.Struct("=i")


class _Flow(NamedTuple):
    session: Session
    sock: socket.socket
    to: tuple[str, int] | tuple[str, int, int, int]
    until: float


class _Turn:
    """A `Turn` while it is made."""

    def __init__(self) -> None:
        self.undecided: bytes | None = None
        self.unsent: list[Unsent] = []
        self.admitted: list[tuple[bytes, SocketAddress]] = []
        self.cookies_wanted: list[tuple[bytes, SocketAddress]] = []
        self.other: list[tuple[bytes, SocketAddress]] = []
        self.unwritten: list[bytes] = []
        self.is_tun_gone = False
        self.is_news = False
        """What was moved is something that the caller should know soon."""

    @property
    def messages(self) -> int:
        """Datagrams for the caller."""
        return len(self.admitted) + len(self.cookies_wanted) + len(self.other)

    def outcome(self) -> Turn | None:
        """None when there is nothing for the caller."""
        if not (
            self.undecided is not None
            or self.unsent
            or self.messages
            or self.unwritten
            or self.is_tun_gone
            or self.is_news
        ):
            return None
        return Turn(
            self.undecided,
            self.unsent,
            self.admitted,
            self.cookies_wanted,
            self.other,
            self.unwritten,
            self.is_tun_gone,
        )


class PureFastPath:
    """Moves packets between sockets and a tunnel device, as far as it was told where they go."""

    def __init__(
        self,
        tun: int,
        sessions: SessionTable,
        allowed_ips: AllowedIPs,
        gate: Gate,
        mtu: int,
        max_unit: int,
        coalescing: Coalescing,
    ) -> None:
        """`tun` is the descriptor of a non-blocking tunnel device; the rest as in `set_tunnel`.

        Raises ValueError when it is none.
        """
        if tun < 0:
            raise ValueError("not a file descriptor")
        self._tun = tun
        self._sessions = sessions
        self._allowed_ips = allowed_ips
        self.set_tunnel(gate, mtu, max_unit, coalescing)
        self._flows: dict[int, _Flow] = {}
        self._known: set[int] = set()
        """Peers that the caller has heard of since the flows were cleared."""
        self._sent: dict[int, Sent] = {}
        self._heard: dict[tuple[Session, SocketAddress, int], Heard] = {}
        self._drops: Counter[DropReason] = Counter()
        self._read = memoryview(bytearray(TUN_BUFFER_SIZE))
        self._out = memoryview(bytearray(OUT_SIZE))
        self._received = memoryview(bytearray(RECEIVE_BUFFER_SIZE))
        self._opened = memoryview(bytearray(RECEIVE_BUFFER_SIZE))
        self._used = 0
        # The run: adjacent units that wait for one send.
        self._start = 0
        self._stride = 0
        self._peer = NO_PEER

    def set_tunnel(self, gate: Gate, mtu: int, max_unit: int, coalescing: Coalescing) -> None:
        """Who judges handshake messages, and what holds for the whole tunnel.

        That is the MTU beyond which nothing is padded, the greatest send, and what the tunnel takes merged.
        """
        self._gate = gate
        self._mtu = mtu
        self._max_unit = max_unit
        self._coalescing = coalescing

    def set_flow(
        self, peer: int, session: Session, sock: socket.socket, to: SocketAddress, until: float
    ) -> None:
        """What goes to `peer` is sealed with `session` and leaves from `sock` until then (monotonic).

        Raises ValueError for what is no IP address.
        """
        host, port, scope = to
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.inet_pton(family, host)
        except OSError as error:
            raise ValueError("not an IP address") from error
        address = (host, port, 0, scope) if family == socket.AF_INET6 else (host, port)
        self._flows[peer] = _Flow(session, sock, address, until)

    def clear_flows(self) -> None:
        """Ask about every peer again."""
        self._flows.clear()
        self._known.clear()

    def turn(self, sock: socket.socket | None, number: int, reads_tun: bool, now: float) -> Turn | None:
        """Receive from `sock` if it is given, then send what the tunnel has if `reads_tun`.

        `number` is what the caller knows the socket by, for `Heard.socket`.

        In this order: what the host answers to a packet lies in the tunnel as soon as that is written. None
        when that left nothing to do but `take_moved`, some time.
        """
        turn = _Turn()
        if sock is not None:
            self._receive(sock, number, now, turn)
        if reads_tun:
            self._forward(now, turn)
        if len(self._sent) + len(self._heard) > MAX_MOVED:
            turn.is_news = True
        return turn.outcome()

    def take_moved(self) -> Moved:
        """What was moved since the last call, and what went no further."""
        moved = Moved(list(self._sent.values()), list(self._heard.values()), dict(self._drops))
        self._known.update(heard.peer for heard in moved.heard)
        self._sent.clear()
        self._heard.clear()
        self._drops.clear()
        return moved

    # --- from the tunnel ---

    def _forward(self, now: float, turn: _Turn) -> None:
        self._used = self._start = 0
        moved = 0
        for _ in range(MAX_READS):
            try:
                length = os.readv(self._tun, [self._read])
            except BlockingIOError:
                break
            except OSError as error:
                turn.is_tun_gone = error.errno in TUN_GONE
                break
            moved += length
            if not self._forward_one(self._read[:length], now, turn):
                turn.undecided = bytes(self._read[:length])
                break
            if moved >= MAX_BYTES or turn.unsent:
                break
        self._send_run(turn)

    def _forward_one(self, read: memoryview, now: float, turn: _Turn) -> bool:
        """Seal one TUN read. False when the caller has to decide about it."""
        peer = dataplane.route(self._allowed_ips, read)
        if peer == NO_PEER:
            self._drops[DropReason.NO_PEER_FOR_DESTINATION] += 1
            return True
        flow = self._flows.get(peer)
        if flow is None or now >= flow.until:
            return False
        if self._used > OUT_SIZE - SEAL_BUFFER_SIZE:
            self._send_run(turn)
            if turn.unsent:
                return False
            self._used = self._start = 0
        try:
            units = dataplane.seal_superpacket(
                flow.session, read, self._out[self._used :], self._mtu, self._max_unit
            )
        except SessionSpent:
            return False
        if not units:
            self._drops[DropReason.MALFORMED_OUTBOUND_PACKET] += 1
            return True
        size = units[-1].offset + units[-1].length
        before = self._sent.get(peer, Sent(peer, 0, 0))
        packets = before.packets + -(-size // units[0].stride)
        self._sent[peer] = Sent(peer, packets, before.datagram_bytes + size)
        self._add(peer, units, turn)
        return True

    def _add(self, peer: int, units: list[Unit], turn: _Turn) -> None:
        """Take what was just sealed: it joins what lies before it, or that is sent."""
        base = self._used
        for offset, length, unit_stride in units:
            stride = min(unit_stride, length)
            if not self._joins(peer, length, stride):
                self._send_run(turn)
                self._peer, self._stride = peer, stride
            self._used = base + offset + length
        if self._used - self._start >= FLUSH_AT:
            self._send_run(turn)

    def _joins(self, peer: int, length: int, stride: int) -> bool:
        size = self._used - self._start
        return (
            size > 0
            and peer == self._peer
            and (stride == self._stride or (length == stride < self._stride))
            and not size % self._stride
            and size + length <= min(MAX_UNIT_IPV6, MAX_UNIT_SEGMENTS * self._stride)
        )

    def _send_run(self, turn: _Turn) -> None:
        run, stride = self._out[self._start : self._used], self._stride
        self._start = self._used
        if not run:
            return
        flow = self._flows[self._peer]
        if not turn.unsent:
            try:
                if len(run) <= stride:
                    flow.sock.sendto(run, flow.to)
                else:
                    flow.sock.sendmsg([run], [(SOL_UDP, UDP_SEGMENT, U16.pack(stride))], 0, flow.to)
            except OSError:
                pass
            else:
                return
        turn.unsent.append(Unsent(self._peer, bytes(run), stride))

    # --- from the network ---

    def _receive(self, sock: socket.socket, number: int, now: float, turn: _Turn) -> None:
        moved = 0
        for _ in range(MAX_RECEIVES):
            try:
                length, ancillary, flags, address = sock.recvmsg_into([self._received], ANCILLARY_SIZE)
            except OSError:  # nothing more, or an error that an earlier send left behind
                break
            stride = length
            for level, kind, value in ancillary:
                if level == SOL_UDP and kind == UDP_GRO:
                    (stride,) = _I32.unpack_from(value)
            if flags & MSG_TRUNC:
                self._drops[DropReason.TRUNCATED_DATAGRAM] += 1
                continue
            moved += length
            self._open(self._received[:length], stride, _source(address), number, now, turn)
            if moved >= MAX_BYTES or turn.messages >= MAX_MESSAGES or turn.unwritten:
                break

    def _open(
        self,
        datagrams: memoryview,
        stride: int,
        source: SocketAddress,
        number: int,
        now: float,
        turn: _Turn,
    ) -> None:
        opened = dataplane.open_batch(
            self._sessions, self._allowed_ips, datagrams, stride, self._opened, self._coalescing
        )
        for offset, length in opened.units:
            unit = self._opened[offset : offset + length]
            if not turn.unwritten:
                try:
                    os.write(self._tun, unit)
                except OSError:
                    pass
                else:
                    continue
            turn.unwritten.append(bytes(unit))
        self._drops.update(opened.drops)
        for peer, session, packets, data_packets, datagram_bytes, _ in opened.activity:
            if peer not in self._known and peer not in self._flows:
                turn.is_news = True
            key = (session, source, number)
            before = self._heard.get(key, Heard(peer, session, 0, 0, 0, source, number))
            self._heard[key] = before._replace(
                packets=before.packets + packets,
                data_packets=before.data_packets + data_packets,
                datagram_bytes=before.datagram_bytes + datagram_bytes,
            )
        for offset, length in opened.other:
            self._sort_out(bytes(datagrams[offset : offset + length]), source, now, turn)

    def _sort_out(self, datagram: bytes, source: SocketAddress, now: float, turn: _Turn) -> None:
        """What is no transport data goes to one of three lists, or nowhere."""
        if not is_handshake(datagram):
            turn.other.append((datagram, source))
            return
        host, port, _ = source
        address = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        verdict = self._gate.judge(datagram, address, port, now)
        if verdict is Verdict.ADMIT:
            turn.admitted.append((datagram, source))
        elif verdict is Verdict.REPLY:
            turn.cookies_wanted.append((datagram, source))
        else:
            self._drops[REFUSALS[verdict]] += 1


def _source(address: tuple[str, int] | tuple[str, int, int, int]) -> SocketAddress:
    if len(address) == 2:
        return (*address, 0)
    host, port, _, scope = address
    return (host.partition("%")[0], port, scope)


if TYPE_CHECKING or KERNEL == "pure":
    FastPath = PureFastPath
else:
    from meshnode._native import FastPath
