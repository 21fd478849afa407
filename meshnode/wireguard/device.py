"""A WireGuard interface as a value: packets, datagrams and the time go in; the same and events come out.

The owner does the I/O. Per TUN read: `encapsulate`, and send what it sealed. Per receive: `decapsulate`,
and write what it opened. After every turn: `handle_timeout` if `next_timeout()` has passed, then
`take_events` (paths may change), `take_datagrams`, and one timer for `next_timeout()`. Handshakes are
worked on in `handle_timeout`, a few per turn.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from meshnode import dataplane
from meshnode.dataplane import (
    Activity,
    AllowedIPs,
    Coalescing,
    DropReason,
    Gate,
    Heard,
    SessionSpent,
    SessionTable,
    Verdict,
)
from meshnode.dataplane.types import IPNetwork
from meshnode.wireguard import constants, messages, noise
from meshnode.wireguard.admission import Admission, Waiting
from meshnode.wireguard.constants import DEFAULT, Timings
from meshnode.wireguard.context import DeviceContext
from meshnode.wireguard.cookie import CookieChecker
from meshnode.wireguard.events import (
    Event,
    Flow,
    Kind,
    Outgoing,
    PeerConfig,
    PeerStats,
    Received,
    Sealed,
)
from meshnode.wireguard.keypairs import Keypair
from meshnode.wireguard.peer import Peer
from meshnode.wireguard.source import Source
from meshnode.wireguard.timers import NEVER
from meshproto.keys import NodePrivate, NodePublic


class Device:
    """Not safe for concurrent use. Every `now` is monotonic seconds and must not go back."""

    def __init__(
        self,
        private_key: NodePrivate,
        *,
        entropy: Callable[[int], bytes],
        wall: Callable[[], float],
        mtu: int = 1280,
        timings: Timings = DEFAULT,
    ) -> None:
        """`entropy(n)` is `os.urandom`; `wall()` is unix time, for handshake timestamps and statistics."""
        self._context = DeviceContext(private_key, entropy=entropy, wall=wall, mtu=mtu, timings=timings)
        self._admission = Admission(self._cookie_checker())
        self._allowed_ips = AllowedIPs()
        self._prefixes: dict[IPNetwork, int] = {}
        self._peers: dict[NodePublic, Peer] = {}
        self._by_id: dict[int, Peer] = {}
        self._last_id = -1
        self._schedule: list[tuple[float, int]] = []
        self._cookie_replies = 0
        self._data_at = float("-inf")
        self.coalescing = Coalescing.TCP
        """Which opened packets may be merged: what the tunnel device takes back."""

    # --- configuration ---

    @property
    def public_key(self) -> NodePublic:
        return self._context.private.public

    @property
    def peers(self) -> tuple[NodePublic, ...]:
        """The configured peers."""
        return tuple(self._peers)

    @property
    def drops(self) -> Counter[DropReason]:
        """What went no further, by reason, since the start. To be read only."""
        return self._context.drops

    def set_mtu(self, mtu: int) -> None:
        """The tunnel device's MTU: no padding beyond it."""
        self._context.mtu = mtu

    def set_max_unit(self, max_unit: int) -> None:
        """The greatest unit, in bytes, that one send can take; see `dataplane.MAX_UNIT_IPV6`, the default."""
        self._context.max_unit = max_unit

    def set_private_key(self, key: NodePrivate) -> None:
        """Become another node. Live keys go on receiving; sending to any peer needs a new handshake."""
        if key == self._context.private:
            return
        self._context.private = key
        self._admission.clear()
        self._admission.checker = self._cookie_checker()
        self._remove([key.public])
        for peer in self._peers.values():
            peer.set_private_key(key)
            self._reschedule(peer)

    def set_peers(self, peers: Sequence[PeerConfig], now: float) -> None:
        """Make the peers be these: add, update, remove. Live sessions of peers that stay are kept.

        A prefix that two peers claim belongs to the later one. A peer with our own key is left out. Raises
        ValueError, and nothing has changed, when a peer is named twice.
        """
        wanted = {config.public_key: config for config in peers}
        if len(wanted) != len(peers):
            raise ValueError("a peer is configured twice")
        wanted.pop(self.public_key, None)
        self._remove([key for key in self._peers if key not in wanted])
        for key, config in wanted.items():
            if key not in self._peers:
                self._add(config)
        self._set_prefixes(wanted.values())
        for key, config in wanted.items():
            peer = self._peers[key]
            peer.configure(config, now)
            self._reschedule(peer)

    def stats(self, peer: NodePublic) -> PeerStats:
        """Raises KeyError for one that is not configured."""
        return self._peers[peer].stats()

    # --- data ---

    def encapsulate(self, packet: memoryview, out: memoryview, now: float) -> Sealed | None:
        """Seal one TUN read (virtio_net_hdr and packet) into `out`, `dataplane.SEAL_BUFFER_SIZE` bytes.

        None: it waits for a session, or was dropped and counted.
        """
        peer = self._by_id.get(dataplane.route(self._allowed_ips, packet))
        if peer is None:
            self._context.drop(DropReason.NO_PEER_FOR_DESTINATION)
            return None
        keypair = peer.usable_keypair(now)
        if keypair is None:
            peer.stage(packet, now)
            self._reschedule(peer)
            return None
        context = self._context
        try:
            units = dataplane.seal_superpacket(keypair.session, packet, out, context.mtu, context.max_unit)
        except SessionSpent:
            peer.stage(packet, now)
            self._reschedule(peer)
            return None
        if not units:
            context.drop(DropReason.MALFORMED_OUTBOUND_PACKET)
            return None
        last = units[-1]
        self._sealed(peer, keypair, last.offset + last.length, now)
        return Sealed(peer.public_key, units)

    def decapsulate(
        self, datagrams: memoryview, stride: int, source: Source, out: memoryview, now: float
    ) -> Received:
        """Open one receive: datagrams of `stride` bytes from `source`, the last maybe shorter.

        `out` takes the packets for the tunnel and is at least as long as `datagrams`.
        """
        self.begin_turn(now)
        opened = dataplane.open_batch(
            self._context.sessions, self._allowed_ips, datagrams, stride, out, self.coalescing
        )
        for heard in opened.activity:
            self.data_received(heard, source, now)
        if opened.drops:
            self._context.drops.update(opened.drops)
        if not opened.other:
            return Received(opened.units, opened.other)
        return Received(opened.units, self._receive_handshakes(datagrams, opened.other, source, now))

    # --- data that a fast path moved (`meshnode.engine.fast_path`) ---

    @property
    def sessions(self) -> SessionTable:
        """By receiver index, for whoever opens datagrams. To be read only."""
        return self._context.sessions

    @property
    def allowed_ips(self) -> AllowedIPs:
        """Prefix to the number of the peer that owns it. To be read only."""
        return self._allowed_ips

    @property
    def gate(self) -> Gate:
        """For handshake messages, see `prepare`. Another one after our private key changed."""
        return self._admission.checker.gate

    @property
    def mtu(self) -> int:
        return self._context.mtu

    @property
    def max_unit(self) -> int:
        return self._context.max_unit

    def begin_turn(self, now: float) -> None:
        """Should be called before datagrams are opened elsewhere.

        Above all, no key is used past its time, even when the owner's timer is late.
        """
        if self._schedule and self._schedule[0][0] <= now:
            self._handle_due(now)

    def prepare(self, now: float) -> None:
        """Should be called between messages that the `gate` admitted and the next that it judges."""
        self._admission.prepare(now)

    def flow(self, peer: NodePublic, now: float) -> Flow | None:
        """How to seal for `peer` without asking for every packet; None when only `encapsulate` can tell."""
        found = self._peers.get(peer)
        keypair = found.usable_keypair(now) if found is not None else None
        if found is None or keypair is None:
            return None
        return Flow(found.id, keypair.session, keypair.expires_at)

    def data_sealed(self, peer_id: int, datagram_bytes: int, now: float) -> NodePublic | None:
        """Should be called after data was sealed with a flow. None: the peer is not there any more."""
        peer = self._by_id.get(peer_id)
        if peer is None:
            return None
        keypair = peer.slots.current
        if keypair is not None:
            self._sealed(peer, keypair, datagram_bytes, now)
        return peer.public_key

    def data_received(self, heard: Activity | Heard, source: Source, now: float) -> None:
        """Should be called for what each session received in one batch or turn."""
        peer = self._by_id.get(heard.peer)
        if peer is None:
            return  # removed between opening and now
        self._data_at = now
        peer.activity(heard.session, heard.data_packets, heard.datagram_bytes, source, now)
        if peer.timers.wake_at < peer.scheduled_at:
            self._reschedule(peer)

    def handshake_admitted(self, message: bytes, source: Source, now: float) -> None:
        """A message that the gate admitted."""
        self._count(self._admission.admit(message, source, now))

    def cookie_wanted(self, message: bytes, source: Source, now: float) -> None:
        """A message of which the gate said REPLY."""
        self._context.drop(DropReason.UNDER_LOAD)
        if self._cookie_replies < constants.MAX_PENDING_COOKIE_REPLIES:
            self._cookie_replies += 1
            reply = self._admission.checker.create_reply(message, source, now)
            self._context.datagrams.append(Outgoing(None, reply, Kind.HANDSHAKE, source))

    def receive_other(self, datagram: bytes | memoryview, source: Source, now: float) -> bool:
        """A datagram that is no transport data. False when it is not WireGuard's either."""
        kind = messages.message_type(datagram)
        if kind in (messages.INITIATION, messages.RESPONSE):
            self._offer(bytes(datagram), source, now)
        elif kind == messages.COOKIE_REPLY:
            self._count(self._consume_cookie_reply(bytes(datagram), now))
        else:
            return False
        return True

    def _sealed(self, peer: Peer, keypair: Keypair, datagram_bytes: int, now: float) -> None:
        self._data_at = now
        peer.data_sealed(keypair, datagram_bytes, now)
        if peer.timers.wake_at < peer.scheduled_at:
            self._reschedule(peer)

    def _is_busy(self, now: float) -> bool:
        return now - self._data_at < constants.BUSY_FOR

    # --- time ---

    def handle_timeout(self, now: float) -> None:
        """Do what is due: timers, and a few of the handshake messages that wait."""
        self._handle_due(now)
        for waiting in self._admission.take_turn(now, is_busy=self._is_busy(now)):
            self._consume(waiting, now)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` must be called next; None while nothing can become due.

        It has passed already while handshake messages wait. It may be early, after which it is later: traffic
        moves deadlines all the time, and following each move would cost more than looking once in vain.
        """
        while self._schedule and not self._is_live(self._schedule[0]):
            heapq.heappop(self._schedule)
        due = self._admission.next_timeout()
        if not self._schedule:
            return due
        return self._schedule[0][0] if due is None else min(due, self._schedule[0][0])

    def awaits_handshake(self, peer: NodePublic) -> bool:
        """Whether an initiation to `peer` waits for its answer, or to leave."""
        found = self._peers.get(peer)
        return found is not None and found.timers.is_handshake_due

    def initiate(self, peer: NodePublic, now: float) -> None:
        """Start a handshake because the path to `peer` changed. Raises KeyError for an unknown one."""
        found = self._peers[peer]
        found.initiate(now, path_changed=True)
        self._reschedule(found)

    # --- output ---

    @property
    def has_output(self) -> bool:
        """Whether there is something to take."""
        return bool(self._context.events or self._context.datagrams)

    def take_datagrams(self) -> list[Outgoing]:
        """What is to be sent besides sealed batches, in order, and before the next of them."""
        taken, self._context.datagrams = self._context.datagrams, []
        self._cookie_replies = 0
        return taken

    def take_events(self) -> list[Event]:
        """What happened since the last call, in order."""
        taken, self._context.events = self._context.events, []
        return taken

    # --- peers ---

    def _add(self, config: PeerConfig) -> None:
        self._last_id += 1
        peer = Peer(self._last_id, config, self._context)
        self._peers[config.public_key] = peer
        self._by_id[peer.id] = peer

    def _remove(self, keys: Iterable[NodePublic]) -> None:
        for key in keys:
            peer = self._peers.pop(key, None)
            if peer is None:
                continue
            del self._by_id[peer.id]
            for prefix in peer.config.allowed_ips:
                if self._prefixes.get(prefix) == peer.id:
                    del self._prefixes[prefix]
                    self._allowed_ips.remove(prefix, peer.id)
            peer.close()

    def _set_prefixes(self, peers: Iterable[PeerConfig]) -> None:
        wanted = {prefix: self._peers[peer.public_key].id for peer in peers for prefix in peer.allowed_ips}
        for prefix, owner in self._prefixes.items():
            if prefix not in wanted:
                self._allowed_ips.remove(prefix, owner)
        for prefix, owner in wanted.items():
            if self._prefixes.get(prefix) != owner:
                self._allowed_ips.insert(prefix, owner)
        self._prefixes = wanted

    # --- handshakes ---

    def _cookie_checker(self) -> CookieChecker:
        context = self._context
        return CookieChecker(self.public_key, context.entropy, context.timings.cookie_secret_max_age)

    def _receive_handshakes(
        self, datagrams: memoryview, others: list[tuple[int, int]], source: Source, now: float
    ) -> list[tuple[int, int]]:
        """Take the handshake messages out of `others`; return the rest."""
        foreign = []
        for offset, length in others:
            if not self.receive_other(datagrams[offset : offset + length], source, now):
                foreign.append((offset, length))
        return foreign

    def _offer(self, message: bytes, source: Source, now: float) -> None:
        outcome = self._admission.offer(message, source, now)
        if isinstance(outcome, Verdict):
            self.cookie_wanted(message, source, now)
        else:
            self._count(outcome)

    def _consume(self, waiting: Waiting, now: float) -> None:
        if messages.message_type(waiting.message) == messages.INITIATION:
            reason = self._consume_initiation(waiting, now)
        else:
            reason = self._consume_response(waiting, now)
        self._count(reason)

    def _consume_initiation(self, waiting: Waiting, now: float) -> DropReason | None:
        message = messages.parse_initiation_untrusted(waiting.message)
        try:
            opened = noise.open_initiation(self._context.private, message)
        except noise.InvalidHandshake:
            return DropReason.INVALID_HANDSHAKE
        peer = self._peers.get(NodePublic(opened.remote_static))
        if peer is None:
            return DropReason.UNKNOWN_PEER
        accepted = peer.handshake.consume_initiation(opened, now)
        if isinstance(accepted, DropReason):
            return accepted
        peer.rx_bytes += len(waiting.message)
        peer.respond(accepted, waiting.source, now)
        self._reschedule(peer)
        return None

    def _consume_response(self, waiting: Waiting, now: float) -> DropReason | None:
        message = messages.parse_response_untrusted(waiting.message)
        peer = self._context.indices.owner(message.receiver_index)
        if peer is None:
            return DropReason.UNKNOWN_RECEIVER_INDEX
        reason = peer.consume_response(message, waiting.source, now)
        if reason is None:
            peer.rx_bytes += len(waiting.message)
            self._reschedule(peer)
        return reason

    def _consume_cookie_reply(self, datagram: bytes, now: float) -> DropReason | None:
        try:
            message = messages.parse_cookie_reply_untrusted(datagram)
        except messages.MalformedMessage:
            return DropReason.INVALID_LENGTH
        peer = self._context.indices.owner(message.receiver_index)
        if peer is None:
            return DropReason.UNKNOWN_RECEIVER_INDEX
        return peer.consume_cookie_reply(message, now)

    def _count(self, reason: DropReason | None) -> None:
        if reason is not None:
            self._context.drop(reason)

    # --- the schedule: a heap of (when to look at a peer's timers, peer), with outdated entries ---

    def _reschedule(self, peer: Peer) -> None:
        """Look at `peer` earlier than planned, if it has an earlier deadline."""
        due = peer.timers.wake_at
        if due < peer.scheduled_at:
            peer.scheduled_at = due
            heapq.heappush(self._schedule, (due, peer.id))
            if len(self._schedule) > constants.SCHEDULE_SLACK + 2 * len(self._peers):
                self._schedule = [entry for entry in self._schedule if self._is_live(entry)]
                heapq.heapify(self._schedule)

    def _is_live(self, entry: tuple[float, int]) -> bool:
        peer = self._by_id.get(entry[1])
        return peer is not None and peer.scheduled_at == entry[0]

    def _handle_due(self, now: float) -> None:
        while self._schedule and self._schedule[0][0] <= now:
            entry = heapq.heappop(self._schedule)
            if not self._is_live(entry):
                continue
            peer = self._by_id[entry[1]]
            peer.scheduled_at = NEVER
            peer.handle_timeout(now)
            peer.timers.next_timeout()
            self._reschedule(peer)
