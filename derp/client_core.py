"""A client's connection to a relay, without its socket (nat-traversal reference §1.4, §1.5).

The shell has sent the HTTP request. It passes what arrives after the answer to `receive_data`, sends what
`data_to_send` gives, and calls `handle_timeout` when `next_timeout` says. Packets may be sent from the start;
they wait until the relay has answered the login.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from derp import frames
from derp.buckets import TokenBucket
from derp.drops import DropReason, Kind
from derp.frame_reader import FrameReader, Packets
from derp.frames import MAX_CLIENT_FRAME_SIZE, PING_SIZE, FrameError, FrameType, PeerPresent
from derp.liveness import Delivery, Liveness, Verdict
from derp.login import ClientInfo, Entropy, ServerInfo, open_server_info_untrusted, seal_client_info
from derp.outbox import Outbox
from meshproto.keys import KEY_SIZE, NodePrivate, NodePublic

LOGIN_TIMEOUT_S = 10.0
QUEUE_PACKETS = 128
"""While the socket is full. A node takes up to 50 datagrams from its tunnel at once, and a shorter queue
would drop the first of them each time."""
MAX_SERVER_KEY_SIZE = 1024
MIN_BURST_BYTES = 65568.0
MAX_KNOWN_KEYS = 4096
"""Key objects that are kept to be used again; past that, all are forgotten and made anew."""

_SEND_PACKET = int(FrameType.SEND_PACKET)
_FORWARD_PACKET = int(FrameType.FORWARD_PACKET)
_PACKET_KEYS = {int(FrameType.RECV_PACKET): KEY_SIZE}
_LIMITS = {int(kind): MAX_CLIENT_FRAME_SIZE for kind in FrameType}
_LIMITS[FrameType.SERVER_KEY] = MAX_SERVER_KEY_SIZE


class RelaySilent(FrameError):
    """The relay was there, and does not answer any more."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The relay knows us; packets flow from now on."""

    server: NodePublic
    info: ServerInfo


class PacketsReceived(NamedTuple):
    """Packets in a row from the node with this key, as the relay says. A tuple because there are so many.

    They are of one length, but the last may be shorter. A disco message is alone.
    """

    source: NodePublic
    packets: list[bytes]


@dataclass(frozen=True, slots=True)
class PeerGone:
    """Packets to this peer are lost, for one of `frames.PeerGoneReason` or a reason yet unknown."""

    key: NodePublic
    reason: int


@dataclass(frozen=True, slots=True)
class PongReceived:
    """The answer to our ping with this data."""

    data: bytes


@dataclass(frozen=True, slots=True)
class HealthChanged:
    """A problem that a person should hear of; none when empty."""

    problem: str


@dataclass(frozen=True, slots=True)
class Restarting:
    """The relay will be back in `reconnect_in_s`; give it `try_for_s` before looking for another."""

    reconnect_in_s: float
    try_for_s: float


Event = Connected | PacketsReceived | PeerGone | PeerPresent | PongReceived | HealthChanged | Restarting


class ClientCore:
    """See the module. After FrameError only `data_to_send` may be called."""

    def __init__(
        self,
        private_key: NodePrivate,
        now: float,
        *,
        entropy: Entropy,
        server: NodePublic | None = None,
        info: ClientInfo | None = None,
    ) -> None:
        """`server` is the relay's key, if it is known: the login is then the first thing to be sent."""
        self.drops: Counter[tuple[DropReason, Kind]] = Counter()
        self.is_connected = False
        self._private_key = private_key
        self._entropy = entropy
        self._info = info or ClientInfo(can_ack_pings=True)
        self._server: NodePublic | None = None
        self._reader = FrameReader(_LIMITS, MAX_CLIENT_FRAME_SIZE, _PACKET_KEYS)
        self._login = b""
        self._outbox = Outbox(self._count_drop, QUEUE_PACKETS)
        self._outbox.is_writable = False
        self._is_blocked = False
        self._bucket: TokenBucket | None = None
        self._known_keys: dict[bytes, NodePublic] = {}
        self._started = now
        self._liveness = Liveness(now)
        self._liveness_ping = b""
        if server is not None:
            self._log_in(server)

    @property
    def heard_at(self) -> float:
        """When something came from the relay; when we began, if nothing has."""
        return self._liveness.heard_at

    # From and to the relay.

    def receive_data(self, data: bytes, now: float) -> list[Event]:
        """What `data` completes. Raises FrameError."""
        self._liveness.heard(now)
        events: list[Event] = []
        for frame in self._reader.receive_data(data):
            if not isinstance(frame, Packets):
                event = self._handle(*frame, now)
                if event is not None:
                    events.append(event)
            elif self.is_connected:
                events.append(PacketsReceived(self._key(frame.keys), frame.packets))
            elif self._server is None:
                raise FrameError("not a DERP server")
        return events

    def data_to_send(self) -> bytes:
        """Bytes for the relay, each once; only the login until that is answered."""
        login, self._login = self._login, b""
        if login or not self._outbox.is_writable:
            return login
        return self._outbox.take()

    def set_writable(self, is_writable: bool) -> None:
        """Whether the socket takes everything. While it does not, packets wait, and old ones are dropped."""
        self._is_blocked = not is_writable
        self._outbox.is_writable = is_writable and self.is_connected

    def next_timeout(self) -> float:
        """When `handle_timeout` must be called; that may have become sooner with each packet sent."""
        if not self.is_connected:
            return self._started + LOGIN_TIMEOUT_S
        return self._liveness.next_timeout()

    def handle_timeout(self, now: float, ping: Delivery = Delivery.DELIVERED) -> bool:
        """Whether a ping has been added to what must be sent. Raises FrameError when the relay is silent.

        `ping` is what TCP knows of the last such ping (see `liveness`).
        """
        if not self.is_connected:
            if now >= self.next_timeout():
                raise FrameError("the relay does not answer the login")
            return False
        verdict = self._liveness.handle_timeout(now, ping)
        if verdict is Verdict.GIVE_UP:
            raise RelaySilent("the relay does not answer any more")
        if verdict is Verdict.ASK:
            self._liveness_ping = self._entropy(PING_SIZE)
            self.ping(self._liveness_ping)
        return verdict is Verdict.ASK

    def doubt(self, now: float) -> None:
        """Ask the relay whether it is there at the next `handle_timeout`, which is due at once."""
        self._liveness.doubt(now)

    # What the node wants. A raw key is 32 bytes.

    def send_packets(
        self, destination: NodePublic, packets: Sequence[bytes | memoryview], now: float
    ) -> None:
        """Relay packets of one kind and of one length; the last may be shorter. They are copied.

        What exceeds the relay's limit or our queue is dropped, and counted.
        """
        self._add_packets(_SEND_PACKET, destination.raw, packets, now)

    def forward_packets(
        self, source: bytes, destination: bytes, packets: Sequence[bytes], now: float
    ) -> None:
        """The same as one relay of a region to another."""
        self._add_packets(_FORWARD_PACKET, source + destination, packets, now)

    def note_preferred(self, is_home: bool) -> None:
        """Say whether this relay is where we can be found."""
        self._outbox.add_update(b"home", frames.note_preferred(is_home))

    def ping(self, data: bytes) -> None:
        """Ask for a PongReceived with the same data, of PING_SIZE bytes."""
        if len(data) != PING_SIZE:
            raise ValueError(f"a ping has {PING_SIZE} bytes, got {len(data)}")
        self._outbox.add(frames.ping(data))

    def watch_connections(self) -> None:
        """As one relay of a region to another: report who is there."""
        self._outbox.add(frames.WATCH_CONNS)

    def close_peer(self, key: NodePublic) -> None:
        """As one relay of a region to another: close every connection of this node."""
        self._outbox.add(frames.close_peer(key.raw))

    # Inside.

    def _log_in(self, server: NodePublic) -> None:
        self._server = server
        sealed = seal_client_info(self._info, self._private_key, server, self._entropy)
        self._login = frames.encode(FrameType.CLIENT_INFO, sealed)

    def _handle(self, kind: int, payload: bytes, now: float) -> Event | None:
        if not self.is_connected:
            return self._handle_login(kind, payload, now)
        match kind:
            case FrameType.PEER_GONE:
                return PeerGone(*frames.parse_peer_gone_untrusted(payload))
            case FrameType.PEER_PRESENT:
                return frames.parse_peer_present_untrusted(payload)
            case FrameType.PING if len(payload) >= PING_SIZE:
                self._outbox.add_pong(frames.pong(payload[:PING_SIZE]))
            case FrameType.PONG if len(payload) >= PING_SIZE:
                return self._pong(payload[:PING_SIZE])
            case FrameType.HEALTH:
                return HealthChanged(payload.decode(errors="replace"))
            case FrameType.RESTARTING:
                return Restarting(*frames.parse_restarting_untrusted(payload))
        return None

    def _pong(self, data: bytes) -> Event | None:
        if data == self._liveness_ping:
            self._liveness_ping = b""
            return None
        return PongReceived(data)

    def _handle_login(self, kind: int, payload: bytes, now: float) -> Event | None:
        """ServerKey comes first, but who has started fast knows it already."""
        if self._server is None:
            if kind != FrameType.SERVER_KEY:
                raise FrameError("not a DERP server")
            self._log_in(frames.parse_server_key_untrusted(payload))
        elif kind == FrameType.SERVER_INFO:
            info = open_server_info_untrusted(payload, self._private_key, self._server)
            if info.bytes_per_second:
                burst = max(float(info.burst_bytes), MIN_BURST_BYTES)
                self._bucket = TokenBucket(info.bytes_per_second, burst, now)
            self.is_connected = True
            self.set_writable(not self._is_blocked)
            return Connected(self._server, info)
        return None

    def _add_packets(self, kind: int, keys: bytes, packets: Sequence[bytes | memoryview], now: float) -> None:
        disco, size = frames.is_disco(packets[0]), len(packets[0])
        if size > frames.MAX_PACKET_SIZE:
            raise ValueError(f"a packet has at most {frames.MAX_PACKET_SIZE} bytes, got {size}")
        if self._bucket is not None:
            packets = self._within_limit(self._bucket, len(keys), packets, disco, now)
        if packets:
            self._liveness.sent(now)
            self._outbox.add_packets(kind, keys, packets, disco)

    def _within_limit(
        self,
        bucket: TokenBucket,
        keys_size: int,
        packets: Sequence[bytes | memoryview],
        disco: bool,
        now: float,
    ) -> Sequence[bytes | memoryview]:
        """Those of the packets that the relay's limit lets pass."""
        passed = []
        for packet in packets:
            size = frames.HEADER_SIZE + keys_size + len(packet)
            if bucket.take(size, now):
                passed.append(packet)
            else:
                self._count_drop(DropReason.RATE_LIMIT, Kind.DISCO if disco else Kind.OTHER, size)
        return passed

    def _count_drop(self, reason: DropReason, kind: Kind, _size: int) -> None:
        self.drops[reason, kind] += 1

    def _key(self, raw: bytes) -> NodePublic:
        key = self._known_keys.get(raw)
        if key is None:
            if len(self._known_keys) >= MAX_KNOWN_KEYS:
                self._known_keys.clear()
            key = self._known_keys[raw] = NodePublic(raw)
        return key
