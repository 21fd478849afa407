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
from typing import TYPE_CHECKING, Final, NamedTuple

from meshnode import dataplane
from meshnode.dataplane import (
    KERNEL,
    MAX_UNIT_IPV6,
    MAX_UNIT_SEGMENTS,
    NO_PEER,
    RECEIVE_BUFFER_SIZE,
    SEAL_BUFFER_SIZE,
    TUN_BUFFER_SIZE,
    AllowedIPs,
    Coalescing,
    DropReason,
    Gate,
    Heard,
    Sent,
    Session,
    SessionSpent,
    SessionTable,
    SocketAddress,
    Turn,
    Unit,
    Unsent,
    Verdict,
    count_drop,
    is_handshake,
)

__all__ = ["FastPath", "PureFastPath"]

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
SO_RXQ_OVFL: Final = 40
MSG_TRUNC: Final = int(socket.MSG_TRUNC)  # the enumeration's own operators cost more than the system call
ANCILLARY_SIZE: Final = 128

MAX_BYTES: Final = 512 * 1024
"""What one direction may move in one turn, so that neither starves the other or the rest of the program."""
MAX_READS: Final = 64
MAX_RECEIVES: Final = 256
MAX_MESSAGES: Final = 64
"""Datagrams that one turn leaves to its caller."""

FLUSH_AT: Final = 32 * 1024
"""Bytes from which on waiting for more to send is not worth it."""

OUT_SIZE: Final = SEAL_BUFFER_SIZE + 2 * FLUSH_AT

TUN_GONE: Final = (errno.EBADFD, errno.EBADF, errno.ENODEV)

_U16: Final = struct.Struct("=H")
_U32: Final = struct.Struct("=I")
_I32: Final = struct.Struct("=i")

_REFUSALS: Final = {
    Verdict.INVALID_LENGTH: DropReason.INVALID_LENGTH,
    Verdict.INVALID_MAC1: DropReason.INVALID_MAC1,
    Verdict.UNDER_LOAD: DropReason.UNDER_LOAD,
    Verdict.RATE_LIMITED: DropReason.RATE_LIMITED,
}


class _Flow(NamedTuple):
    session: Session
    sock: socket.socket
    to: tuple[str, int] | tuple[str, int, int, int]
    until: float


class PureFastPath:
    """Moves packets between sockets and a tunnel device, as far as it was told where they go."""

    def __init__(self, tun: int, sessions: SessionTable, allowed_ips: AllowedIPs) -> None:
        """`tun` is the descriptor of a non-blocking tunnel device. Raises ValueError when it is none."""
        if tun < 0:
            raise ValueError("not a file descriptor")
        self._tun = tun
        self._sessions = sessions
        self._allowed_ips = allowed_ips
        self._flows: dict[int, _Flow] = {}
        self._read = memoryview(bytearray(TUN_BUFFER_SIZE))
        self._out = memoryview(bytearray(OUT_SIZE))
        self._received = memoryview(bytearray(RECEIVE_BUFFER_SIZE))
        self._opened = memoryview(bytearray(RECEIVE_BUFFER_SIZE))
        self._used = 0
        # The run: adjacent units that wait for one send.
        self._start = 0
        self._stride = 0
        self._peer = NO_PEER

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

    def turn(
        self,
        sock: socket.socket | None,
        reads_tun: bool,
        gate: Gate,
        mtu: int,
        max_unit: int,
        coalescing: Coalescing,
        now: float,
    ) -> Turn:
        """Receive from `sock` if it is given, then send what the tunnel has if `reads_tun`.

        In this order: what the host answers to a packet lies in the tunnel as soon as that is written.
        """
        turn = Turn([], None, [], [], [], [], [], [], {}, None, False)
        if sock is not None:
            turn = self._receive(sock, gate, coalescing, now, turn)
        if reads_tun:
            turn = self._forward(mtu, max_unit, now, turn)
        return turn

    # --- from the tunnel ---

    def _forward(self, mtu: int, max_unit: int, now: float, turn: Turn) -> Turn:
        self._used = self._start = 0
        sealed: dict[int, tuple[int, int]] = {}
        moved = 0
        for _ in range(MAX_READS):
            try:
                length = os.readv(self._tun, [self._read])
            except BlockingIOError:
                break
            except OSError as error:
                turn = turn._replace(is_tun_gone=error.errno in TUN_GONE)
                break
            moved += length
            if not self._forward_one(self._read[:length], mtu, max_unit, now, sealed, turn):
                turn = turn._replace(undecided=bytes(self._read[:length]))
                break
            if moved >= MAX_BYTES or turn.unsent:
                break
        self._send_run(turn)
        turn.sent.extend(Sent(peer, *counts) for peer, counts in sealed.items())
        return turn

    def _forward_one(
        self,
        read: memoryview,
        mtu: int,
        max_unit: int,
        now: float,
        sealed: dict[int, tuple[int, int]],
        turn: Turn,
    ) -> bool:
        """Seal one TUN read. False when the caller has to decide about it."""
        peer = dataplane.route(self._allowed_ips, read)
        if peer == NO_PEER:
            count_drop(turn.drops, DropReason.NO_PEER_FOR_DESTINATION)
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
            units = dataplane.seal_superpacket(flow.session, read, self._out[self._used :], mtu, max_unit)
        except SessionSpent:
            return False
        if not units:
            count_drop(turn.drops, DropReason.MALFORMED_OUTBOUND_PACKET)
            return True
        size = units[-1].offset + units[-1].length
        packets, total = sealed.get(peer, (0, 0))
        sealed[peer] = (packets + -(-size // units[0].stride), total + size)
        self._add(peer, units, turn)
        return True

    def _add(self, peer: int, units: list[Unit], turn: Turn) -> None:
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

    def _send_run(self, turn: Turn) -> None:
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
                    flow.sock.sendmsg([run], [(SOL_UDP, UDP_SEGMENT, _U16.pack(stride))], 0, flow.to)
            except OSError:
                pass
            else:
                return
        turn.unsent.append(Unsent(self._peer, bytes(run), stride))

    # --- from the network ---

    def _receive(
        self, sock: socket.socket, gate: Gate, coalescing: Coalescing, now: float, turn: Turn
    ) -> Turn:
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
                elif level == socket.SOL_SOCKET and kind == SO_RXQ_OVFL:
                    turn = turn._replace(overflow=_U32.unpack_from(value)[0])
            if flags & MSG_TRUNC:
                count_drop(turn.drops, DropReason.TRUNCATED_DATAGRAM)
                continue
            moved += length
            self._open(self._received[:length], stride, _source(address), gate, coalescing, now, turn)
            messages = len(turn.admitted) + len(turn.cookies_wanted) + len(turn.other)
            if moved >= MAX_BYTES or messages >= MAX_MESSAGES or turn.unwritten:
                break
        return turn

    def _open(
        self,
        datagrams: memoryview,
        stride: int,
        source: SocketAddress,
        gate: Gate,
        coalescing: Coalescing,
        now: float,
        turn: Turn,
    ) -> None:
        opened = dataplane.open_batch(
            self._sessions, self._allowed_ips, datagrams, stride, self._opened, coalescing
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
        for reason, count in opened.drops.items():
            count_drop(turn.drops, reason, count)
        for peer, session, packets, data_packets, datagram_bytes, _ in opened.activity:
            last = turn.heard[-1] if turn.heard else None
            if last is not None and last.source == source and last.session is session:
                turn.heard[-1] = last._replace(
                    packets=last.packets + packets,
                    data_packets=last.data_packets + data_packets,
                    datagram_bytes=last.datagram_bytes + datagram_bytes,
                )
            else:
                turn.heard.append(Heard(peer, session, packets, data_packets, datagram_bytes, source))
        for offset, length in opened.other:
            _sort_out(bytes(datagrams[offset : offset + length]), source, gate, now, turn)


def _sort_out(datagram: bytes, source: SocketAddress, gate: Gate, now: float, turn: Turn) -> None:
    """What is no transport data goes to one of three lists, or nowhere."""
    if not is_handshake(datagram):
        turn.other.append((datagram, source))
        return
    host, port, _ = source
    address = socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    verdict = gate.judge(datagram, address, port, now)
    if verdict is Verdict.ADMIT:
        turn.admitted.append((datagram, source))
    elif verdict is Verdict.REPLY:
        turn.cookies_wanted.append((datagram, source))
    else:
        count_drop(turn.drops, _REFUSALS[verdict])


def _source(address: tuple[str, int] | tuple[str, int, int, int]) -> SocketAddress:
    if len(address) == 2:
        return (*address, 0)
    host, port, _, scope = address
    return (host.partition("%")[0], port, scope)


if TYPE_CHECKING or KERNEL == "pure":
    FastPath = PureFastPath
else:
    from meshnode._native import FastPath
