"""One connection of a client to a relay, from ServerKey to its end.

It waits for the client's login, then perhaps for the shell to find out whether the client is welcome (the
question is `admission`), and is active from then on.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from derp import frames
from derp.buckets import TokenBucket
from derp.frame_reader import FrameReader, Packets
from derp.frames import (
    MAX_PACKET_SIZE,
    MAX_PING_SIZE,
    PING_SIZE,
    Frame,
    FrameError,
    FrameType,
)
from derp.login import (
    MAX_CLIENT_INFO_SIZE,
    ServerInfo,
    open_client_info_untrusted,
    seal_server_info,
)
from derp.member import Member
from derp.outbox import Outbox
from derp.write_watch import WriteWatch
from meshproto.keys import KEY_SIZE, NodePublic

if TYPE_CHECKING:
    from derp.server_core import ServerCore

LOGIN_TIMEOUT_S = 10.0
HOME_SETTLES_S = 5.0
"""A client that says right after login that this is its home has not moved."""
MIN_BURST_BYTES = 65568.0
"""One frame of the largest size fits in the smallest bucket."""

_SEND_PACKET = int(FrameType.SEND_PACKET)
_FORWARD_PACKET = int(FrameType.FORWARD_PACKET)
_PACKET_KEYS = {_SEND_PACKET: KEY_SIZE, _FORWARD_PACKET: 2 * KEY_SIZE}
_LIMITS = {
    _SEND_PACKET: KEY_SIZE + MAX_PACKET_SIZE,
    int(FrameType.CLIENT_INFO): MAX_CLIENT_INFO_SIZE,
    int(FrameType.NOTE_PREFERRED): 1,
    _FORWARD_PACKET: 2 * KEY_SIZE + MAX_PACKET_SIZE,
    int(FrameType.WATCH_CONNS): 0,
    int(FrameType.CLOSE_PEER): KEY_SIZE,
    int(FrameType.PING): MAX_PING_SIZE,
}


class SessionClosed(Exception):
    """The connection must be closed; `str()` says why."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """How a client came, which the shell knows before the client says anything."""

    host: str
    port: int
    behind_proxy: bool = False
    is_ideal: bool = True
    """False when the client says that it wanted another relay of the region."""


@dataclass(frozen=True, slots=True)
class Admission:
    """May this client, which has proved its key, use the relay?"""

    key: NodePublic
    host: str


class State(Enum):
    """See the module."""

    LOGIN = "login"
    ADMISSION = "admission"
    ACTIVE = "active"
    CLOSED = "closed"


class Session:
    """See the module. After SessionClosed, and when the connection is lost, the shell calls `close`."""

    __slots__ = (
        "_arrival",
        "_bucket",
        "_connected_at",
        "_core",
        "_held",
        "_is_ready",
        "_member",
        "_outbox",
        "_reader",
        "_watch",
        "admission",
        "read_again_at",
        "state",
    )

    def __init__(self, core: ServerCore, arrival: Arrival, keep_alive_s: float, now: float) -> None:
        self.state = State.LOGIN
        self.admission: Admission | None = None
        """Set while the shell must find out, not reading meanwhile, and then call `admit` or close."""
        self.read_again_at: float | None = None
        """Set while the shell must not read: the client has used up what it may send."""
        self._core = core
        self._arrival = arrival
        self._connected_at = now
        self._reader = FrameReader(_LIMITS, packet_keys=_PACKET_KEYS)
        self._outbox = Outbox(core.counters.drop, core.limits.queue_packets)
        self._watch = WriteWatch(keep_alive_s, now)
        self._is_ready = False
        self._member: Member | None = None
        self._bucket: TokenBucket | None = None
        self._held: list[Frame | Packets] = []  # arrived before the client was admitted
        self._send(frames.server_key(core.public_key))

    def __repr__(self) -> str:
        return f"<Session {self.name} {self.state.value}>"

    @property
    def name(self) -> str:
        """The client's key in short, or its address before it has logged in; for logs."""
        return NodePublic(self._member.key).short() if self._member else self._arrival.host

    @property
    def member(self) -> Member | None:
        """The client, once it has logged in."""
        return self._member

    # Called by the shell.

    def receive_data(self, data: bytes, now: float) -> None:
        """Act on what has arrived. Raises SessionClosed."""
        self._core.counters.bytes_received += len(data)
        if self._bucket is not None:
            wait = self._bucket.spend(len(data), now)
            self.read_again_at = now + wait if wait else None
        try:
            self._handle(self._reader.receive_data(data), now)
        except FrameError as error:
            raise SessionClosed(str(error)) from error
        if self._reader.skipped:
            self._core.counters.unknown_frames += self._reader.skipped
            self._reader.skipped = 0

    def admit(self, now: float) -> None:
        """The client may use the relay. Does nothing when it has left meanwhile. Raises SessionClosed."""
        if self.state is not State.ADMISSION:
            return
        self._activate(now)
        held, self._held = self._held, []
        try:
            self._handle(held, now)
        except FrameError as error:
            raise SessionClosed(str(error)) from error

    def take_output(self, now: float) -> bytes:
        """Everything to send, in one piece; nothing while the socket is full."""
        self._is_ready = False
        if not self._outbox.is_writable:
            return b""
        output = self._outbox.take()
        self._watch.sent(now)
        self._core.counters.bytes_sent += len(output)
        return output

    def pause(self, unsent: int, now: float) -> None:
        """The socket takes no more for now; `unsent` bytes wait in it."""
        self._outbox.is_writable = False
        self._watch.blocked(unsent, now)

    def resume(self) -> None:
        """The socket takes everything again."""
        self._outbox.is_writable = True
        self._watch.unblocked()
        self._wake()

    def next_timeout(self) -> float | None:
        """When `handle_timeout` has something to do."""
        if self.state is State.LOGIN:
            return self._connected_at + LOGIN_TIMEOUT_S
        if self.state is State.ACTIVE:
            return self._watch.next_timeout(self._core.limits.write_timeout_s)
        return None

    def handle_timeout(self, now: float, unsent: int) -> None:
        """`unsent` bytes wait in the socket. Raises SessionClosed."""
        timeout_s = self._core.limits.write_timeout_s
        if self.state is State.LOGIN and now >= self._connected_at + LOGIN_TIMEOUT_S:
            raise SessionClosed(f"no login within {LOGIN_TIMEOUT_S:.0f} s")
        if self.state is not State.ACTIVE:
            return
        if self._watch.is_keep_alive_due(now):
            self._send(frames.KEEP_ALIVE)
        elif self._watch.has_stalled(unsent, timeout_s, now):
            self._core.counters.write_timeouts += 1
            raise SessionClosed(f"takes nothing for {timeout_s:.0f} s")

    def close(self) -> None:
        """The connection is over. May be called again."""
        if self.state is State.ACTIVE and self._member is not None:
            self._core.registry.remove(self._member)
        self.state = State.CLOSED
        self.admission = None
        self._held = []
        self._outbox.discard()
        self._core.sessions.discard(self)

    # Called by the core.

    def announce_restart(self, frame: bytes) -> None:
        if self.state is State.ACTIVE:
            self._send(frame)

    def apply_limits(self, now: float) -> None:
        """Those of the core from now on. They do not bind relays of the region."""
        limits = self._core.limits
        self._bucket = None
        self.read_again_at = None
        if limits.bytes_per_second and self._member is not None and not self._member.is_mesh_peer:
            burst = max(limits.burst_bytes, MIN_BURST_BYTES)
            self._bucket = TokenBucket(limits.bytes_per_second, burst, now)

    # Inside.

    def _send(self, frame: bytes) -> None:
        self._outbox.add(frame)
        self._wake()

    def _wake(self) -> None:
        if not self._is_ready and self._outbox.is_writable:
            self._is_ready = True
            self._core.mark_ready(self)

    def _handle(self, received: list[Frame | Packets], now: float) -> None:
        if self.state is State.LOGIN and received:
            self._log_in(received[0], now)
            received = received[1:]
        if self.state is State.ACTIVE:
            self._act_on(received, now)
        elif self.state is State.ADMISSION:
            self._held += received

    def _log_in(self, frame: Frame | Packets, now: float) -> None:
        if isinstance(frame, Packets) or frame[0] != FrameType.CLIENT_INFO:
            raise FrameError(f"frame of type {frame[0]:#04x} before the login")
        _, payload = frame
        key, info = open_client_info_untrusted(payload, self._core.private_key)
        ours, shown = self._core.mesh_key, info.mesh_key
        is_mesh_peer = ours is not None and shown is not None and hmac.compare_digest(ours, shown)
        self._member = Member(
            key.raw,
            info,
            (self._arrival.host, self._arrival.port),
            self._outbox,
            self._wake,
            is_mesh_peer=is_mesh_peer,
            is_ideal=self._arrival.is_ideal,
        )
        if self._core.verifies_clients and not is_mesh_peer:
            self.state = State.ADMISSION
            self.admission = Admission(key, self._arrival.host)
        else:
            self._activate(now)

    def _activate(self, now: float) -> None:
        assert self._member is not None
        self.state = State.ACTIVE
        self.admission = None
        self._connected_at = now
        self.apply_limits(now)
        self._core.registry.add(self._member)
        key = NodePublic(self._member.key)
        sealed = seal_server_info(ServerInfo(), self._core.private_key, key, self._core.entropy)
        self._send(frames.encode(FrameType.SERVER_INFO, sealed))

    def _act_on(self, received: list[Frame | Packets], now: float) -> None:
        """Frames of an active session. This loop is where a relay spends its time."""
        member = self._member
        assert member is not None
        if received and member.client_set is not None and member.client_set.active is not member:
            member.client_set.activate(member)
        deliver = self._core.registry.deliver
        for frame in received:
            if not isinstance(frame, Packets):
                self._act_on_other(*frame, member, now)
            elif frame.kind == _SEND_PACKET:
                deliver(member, frame.keys, frame.packets, now)
            else:
                self._require_mesh_peer(frame.kind, member)
                source, destination = frame.keys[:KEY_SIZE], frame.keys[KEY_SIZE:]
                self._core.registry.deliver_forwarded(member, source, destination, frame.packets, now)

    def _act_on_other(self, kind: int, payload: bytes, member: Member, now: float) -> None:
        match kind:
            case FrameType.PING:
                self._pong(payload)
            case FrameType.NOTE_PREFERRED:
                self._note_preferred(payload, member, now)
            case FrameType.WATCH_CONNS:
                self._require_mesh_peer(kind, member)
                self._core.registry.watch(member)
            case FrameType.CLOSE_PEER:
                self._require_mesh_peer(kind, member)
                if len(payload) != KEY_SIZE:
                    raise FrameError("ClosePeer is not a key")
                self._core.close_key(payload)
            case _:
                self._core.counters.unknown_frames += 1

    def _require_mesh_peer(self, kind: int, member: Member) -> None:
        if not member.is_mesh_peer:
            raise FrameError(f"frame of type {kind:#04x} from a client that is no relay of the region")

    def _pong(self, payload: bytes) -> None:
        if len(payload) < PING_SIZE:
            raise FrameError("ping is too short")
        self._core.counters.pings_received += 1
        self._outbox.add_pong(frames.pong(payload[:PING_SIZE]))
        self._wake()

    def _note_preferred(self, payload: bytes, member: Member, now: float) -> None:
        if len(payload) != 1:
            raise FrameError("NotePreferred is not one byte")
        is_home = payload != b"\0"
        if is_home == member.is_home:
            return
        member.is_home = is_home
        if now > self._connected_at + HOME_SETTLES_S:
            self._core.counters.home_moves_in += is_home
            self._core.counters.home_moves_out += not is_home
