"""The batch kernel through its Python interface: against its Python twin, and with senseless arguments.

The twin's coverage guides, since the compiled kernel is not instrumented here; the targets of `native/fuzz`
are guided by the kernel itself. Without the kernel there is only the twin, against nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any

from meshnode.dataplane import Coalescing, gate
from meshnode.dataplane.sessions import SessionSpent
from meshproto.primitives import blake2s_mac
from tests.fuzz.target import Input, Target
from tests.meshnode.dataplane.kernels import NATIVE, PURE, Kernel
from tests.meshnode.dataplane.packets import V4, V6, tcp_packet, udp_packet
from tests.meshnode.dataplane.test_segmentation import offload

_KERNELS = [kernel for kernel in (PURE, NATIVE) if kernel is not None]
_KEYS = (bytes(range(32)), bytes(range(32, 64)))
_INDICES = (11, 22)
_GATE_KEY = bytes(range(32))


def _outcome(work: Callable[[], Any]) -> Any:
    """What it returned, or the type of what it raised."""
    try:
        return work()
    except Exception as error:
        return type(error)


def _alike(outcomes: list[Any]) -> Any:
    """The one outcome of all kernels."""
    assert all(outcome == outcomes[0] for outcome in outcomes)
    return outcomes[0]


class _Ends:
    """A sender, and the receiver's tables, in one implementation."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.senders = [kernel.Session(*_KEYS, 1, index) for index in _INDICES]
        self.receivers = [kernel.Session(*reversed(_KEYS), index, 1) for index in _INDICES]
        self.sessions = kernel.SessionTable()
        self.allowed_ips = kernel.AllowedIPs()
        for peer, (index, session) in enumerate(zip(_INDICES, self.receivers, strict=True)):
            self.sessions.set(index, session, peer)
            self.allowed_ips.insert(ipaddress.ip_network(f"10.{peer}.0.0/16"), peer)
        self.allowed_ips.insert(ipaddress.ip_network("::/0"), 0)

    def seal(self, number: int, read: bytes, size: int, mtu: int, max_unit: int) -> tuple[Any, bytes, int]:
        """Units, the whole output, and the counter after it."""
        out = bytearray(b"\xee" * size)
        session = self.senders[number]
        units = _outcome(
            lambda: self.kernel.seal_superpacket(session, memoryview(read), memoryview(out), mtu, max_unit)
        )
        return units, bytes(out), session.send_counter

    def open(self, received: bytes, stride: int, coalescing: Coalescing) -> tuple[Any, ...]:
        """`Opened`, with the units' bytes, and sessions by their number."""
        out = bytearray(len(received))
        opened = self.kernel.open_batch(
            self.sessions, self.allowed_ips, memoryview(received), stride, memoryview(out), coalescing
        )
        written = [bytes(out[offset : offset + length]) for offset, length in opened.units]
        activity = [one._replace(session=self.receivers.index(one.session)) for one in opened.activity]
        return opened.units, written, activity, opened.other, opened.drops


def _twins(data: bytes) -> None:
    """Reads are sealed, the datagrams damaged, repeated and mixed with strange ones, and opened."""
    ends = [_Ends(kernel) for kernel in _KERNELS]
    source = Input(data)
    while source:
        kind = source.number()
        received, stride = _sealed(ends, source, kind)
        for _ in range(kind >> 6):
            at, value = source.number(2), source.number()
            if at < len(received):
                received[at] ^= value
        if kind & 0x80:
            stride = source.number(2) - 5
        for _ in range(1 + (kind >> 7)):
            _alike([end.open(bytes(received), stride, Coalescing(kind & 3)) for end in ends])


def _sealed(ends: list[_Ends], source: Input, kind: int) -> tuple[bytearray, int]:
    """Datagrams and their stride: what all made of one read, or the read itself if they refuse it."""
    read = source.take(source.number(2) % 4096)
    if kind & 1:
        read += read[-40:] * (1 + source.number() % 20)
    mtu = (1280, 0, source.number(2), 1420)[kind >> 1 & 3]
    size = 100_000 if kind & 8 else source.number(2)
    number, max_unit = kind >> 4 & 1, 65_487 if kind & 32 else source.number(2)
    units, out, _ = _alike([end.seal(number, read, size, mtu, max_unit) for end in ends])
    if isinstance(units, list) and units:
        return bytearray(out[: units[-1].offset + units[-1].length]), units[0].stride
    return bytearray(read), source.number()


def _twin_seeds() -> Sequence[bytes]:
    reads = [
        offload(1, 100, 20, 16) + tcp_packet(bytes(250), addresses=V4),
        offload(4, 100, 40, 16) + tcp_packet(bytes(250), addresses=V6),
        offload(5, 100, 20, 6) + udp_packet(bytes(250), addresses=V4),
        bytes(10) + udp_packet(b"x", addresses=V6),
    ]
    records = [
        bytes([kind]) + len(read).to_bytes(2, "little") + read + bytes(8)
        for read in reads
        for kind in (0x28, 0x29, 0x6A)
    ]
    return [*records, b"".join(records)]


def _arguments(data: bytes) -> None:
    """Numbers and buffers of every kind: a result, or an error that Python has; nothing else."""
    for kernel in _KERNELS:
        source = Input(data)
        ends = _Ends(kernel)
        while source:
            try:
                _call(kernel, ends, source)
            except (ValueError, TypeError, OverflowError, BufferError, IndexError, SessionSpent):
                pass


def _number(source: Input) -> int:
    """Usual ones, and those around the limits of 8, 16, 31, 32, 63 and 64 bits, of either sign."""
    kind = source.number()
    near = source.number() - 128
    return (near, 1 << 16, 1 << 31, 1 << 32, 1 << 63, 1 << 64, -(1 << 63), 1 << 8)[kind & 7] + (
        near if kind & 8 else 0
    )


def _buffer(source: Input) -> Any:
    """Bytes to read or to write: whole, cut, with gaps, of larger items, read-only, or none."""
    kind = source.number()
    data = bytearray(source.take(source.number()))
    view = memoryview(data)
    choices: tuple[Callable[[], Any], ...] = (
        lambda: view,
        lambda: data,
        lambda: view[::2],
        lambda: bytes(data),
        lambda: view[: len(data) // 4 * 4].cast("I"),
        lambda: view.toreadonly(),
        lambda: view[5:],
        lambda: None,
    )
    return choices[kind & 7]()


def _call(kernel: Kernel, ends: _Ends, source: Input) -> None:
    call = source.number() % 10
    first = _buffer(source)
    second = first if source.number() & 7 == 7 else _buffer(source)
    one, other = _number(source), _number(source)
    session = ends.senders[0]
    if call == 0:
        kernel.open_batch(ends.sessions, ends.allowed_ips, first, one, second, Coalescing(other & 3))
    elif call == 1:
        kernel.seal_superpacket(session, first, second, max(0, one), max(0, other))
    elif call == 2:
        kernel.seal_packet(session, first, one)
    elif call == 3:
        kernel.route(ends.allowed_ips, first)
    elif call == 4:
        ends.sessions.set(one, session, other)
        ends.sessions.get(one)
        ends.sessions.delete(one)
    elif call == 5:
        ends.allowed_ips.lookup(first)
        ends.allowed_ips.remove_peer(one)
        ends.allowed_ips.prefixes_of(other)
    elif call == 6:
        kernel.Session(first, second, one, other)
    elif call == 7:
        session.reserve(one)
        session.wipe()
    elif call == 8:
        kernel.padding(one, other)
    else:
        kernel.ReplayWindow().accept(one)


def _argument_seeds() -> Sequence[bytes]:
    seeds = []
    for call in range(10):
        for kind in range(8):
            buffer = bytes([kind, 64]) + bytes(range(64))
            seeds.append(bytes([call]) + buffer + bytes([0]) + buffer + bytes([kind, 140, kind, 100]))
    return seeds


def _gates(data: bytes) -> None:
    """Handshake messages with the right macs or not, from a few sources, while time passes."""
    gates = [kernel.Gate(_GATE_KEY) for kernel in _KERNELS]
    source = Input(data)
    now, secret = 0.0, bytes(32)
    while source:
        kind = source.number()
        now += source.number() / 16 if kind & 1 else 0.0
        address, port = bytes([kind >> 6]) * (4, 16, 32, 0)[kind >> 1 & 3], source.number()
        if kind & 0x38 == 0x38:
            room, secret = source.number() - 1, bytes([source.number()]) * 32
            for judge in gates:
                judge.set_room(room)
                judge.set_secret(secret)
        message = _handshake(source, secret, address, port)
        if gate.is_handshake(message):
            verdicts = [judge.judge(message, address, port, now).name for judge in gates]
            _alike([(verdict, judge.is_loaded(now)) for verdict, judge in zip(verdicts, gates, strict=True)])


def _handshake(source: Input, secret: bytes, address: bytes, port: int) -> bytes:
    kind = source.number()
    size = (148, 92, 148, source.number())[kind & 3]
    message = bytes([1 + (kind & 3 == 1), 0, 0, 0]) + source.take(kind >> 4)
    body = message.ljust(max(size - 32, 4), b"\0")
    body += blake2s_mac(_GATE_KEY, body) if kind & 4 else source.take(16).ljust(16, b"\0")
    has_cookie = kind & 8
    return body + (blake2s_mac(gate.cookie(secret, address, port), body) if has_cookie else bytes(16))


def _gate_seeds() -> Sequence[bytes]:
    return [bytes([kind, 1, 4, 9]) * 12 for kind in (0, 0x39, 0x41, 0x82)] + [bytes([0x38, 1, 1, 5, 12]) * 9]


TARGETS = [
    Target("kernel_twins", _twins, _twin_seeds),
    Target("kernel_gates", _gates, _gate_seeds),
    Target("kernel_arguments", _arguments, _argument_seeds),
]
