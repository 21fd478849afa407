"""One peer: its handshake, its keys, its timers and what waits for it, put together (whitepaper 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from meshnode import dataplane
from meshnode.dataplane import DropReason, Session, SessionSpent
from meshnode.wireguard import constants, noise
from meshnode.wireguard.context import DeviceContext
from meshnode.wireguard.events import (
    HandshakeCompleted,
    HandshakeGivenUp,
    HandshakeTimedOut,
    Kind,
    Outgoing,
    PeerConfig,
    PeerHeardFrom,
    PeerStats,
    SessionExpired,
)
from meshnode.wireguard.handshake import LONG_AGO, PeerHandshake
from meshnode.wireguard.keypairs import Keypair, KeySlots
from meshnode.wireguard.messages import CookieReply, HandshakeResponse
from meshnode.wireguard.source import Source
from meshnode.wireguard.staged import StagedPackets
from meshnode.wireguard.timers import NEVER, Timer, Timers
from meshproto.keys import NodePrivate
from meshproto.primitives import WeakPublicKey


class Peer:
    """Made and called by a Device. `id` is its number in the batch kernel."""

    __slots__ = (
        "_context",
        "_heard_again_at",
        "_source",
        "config",
        "handshake",
        "id",
        "last_handshake",
        "last_handshake_wall",
        "last_received",
        "last_sent",
        "public_key",
        "rx_bytes",
        "scheduled_at",
        "slots",
        "staged",
        "timers",
        "tx_bytes",
    )

    def __init__(self, peer_id: int, config: PeerConfig, context: DeviceContext) -> None:
        self.id: Final = peer_id
        self.public_key: Final = config.public_key
        self.config = config
        self._context = context
        self.handshake = PeerHandshake(
            context.private, config.public_key, config.preshared_key, context.timings, context.entropy
        )
        self.slots = KeySlots(context.retire)
        self.timers = Timers(context.timings, context.jitter)
        self.staged = StagedPackets()
        self.scheduled_at = NEVER
        """When the device will look at the timers: its business alone."""
        self._source: Source | None = None
        self._heard_again_at = LONG_AGO
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.last_handshake: float | None = None
        self.last_handshake_wall: float | None = None
        self.last_sent: float | None = None
        self.last_received: float | None = None

    # --- configuration ---

    def configure(self, config: PeerConfig, now: float) -> None:
        """Take over what may change without harm to a live session. Prefixes are the device's."""
        self.config = config
        self.handshake.preshared_key = config.preshared_key
        interval = float(config.persistent_keepalive)
        if interval != self.timers.persistent_interval:
            was_off = self.timers.persistent_interval == 0
            self.timers.set_persistent_interval(interval, now)
            if was_off:
                self.send_keepalive(now)

    def set_private_key(self, private: NodePrivate) -> None:
        """Our identity changed: sending needs a new handshake, what is under way may still arrive."""
        if self.timers.is_handshake_due:
            self.timers.initiation_outdated(self.handshake.last_sent)
        self._clear_pending()
        self.handshake.set_private_key(private)
        self.slots.stop_sending()

    def close(self) -> None:
        """Forget everything: the peer was removed."""
        self._clear_pending()
        self.slots.clear()
        self.timers.stop()
        self._context.drop(DropReason.PEER_REMOVED, self.staged.clear())

    # --- the handshake ---

    def initiate(self, now: float, *, is_retry: bool = False, path_changed: bool = False) -> None:
        """Start a handshake, unless one is being attempted, which then does not give up so soon (§6.4).

        REKEY_TIMEOUT must have passed since the last handshake message to this peer (§6.1); otherwise the
        initiation leaves when it has. After `path_changed` the wait is short: what left went elsewhere.
        """
        timers = self.timers
        if not is_retry:
            timers.attempts = 0
        if timers.is_handshake_due and not path_changed:
            return  # retransmitting is the timer's: sent from here, nobody would learn that it had no answer
        wait = constants.MIN_PATH_INITIATION_INTERVAL if path_changed else self._context.timings.rekey_timeout
        allowed_at = self.handshake.last_sent + wait
        if now >= allowed_at:
            self._send_initiation(now)
        else:
            timers.initiation_delayed(allowed_at)

    def respond(self, accepted: noise.AcceptedInitiation, source: Source, now: float) -> None:
        """Answer an authentic initiation (5.4.3). The new key is sent with only after it was seen in use."""
        index = self._context.indices.allocate(self)
        message, keys = self.handshake.create_response(accepted, index, now)
        keypair = self._keypair(keys, index, accepted.remote_index, now, is_initiator=False)
        self.slots.derived_as_responder(keypair)
        self._key_derived(now)
        self._handshake_received(source, now)
        self._send(message, Kind.HANDSHAKE, now, reply_to=source)
        self.timers.response_sent(now)

    def consume_response(self, message: HandshakeResponse, source: Source, now: float) -> DropReason | None:
        """The answer to our initiation: a new key, proved at once by using it."""
        pending = self.handshake.pending
        outcome = self.handshake.consume_response(message)
        if isinstance(outcome, DropReason) or pending is None:
            return outcome if isinstance(outcome, DropReason) else None
        keypair = self._keypair(outcome, pending.local_index, message.sender_index, now, is_initiator=True)
        if self.slots.next is not None and self._context.private.public > self.public_key:
            # We called each other at once. Let one of us renew first, or we would collide every time.
            keypair.rekey_at += self._context.timings.keepalive_timeout
        self.slots.derived_as_initiator(keypair)
        self._key_derived(now)
        self._handshake_received(source, now)
        self._handshake_complete(now, is_initiator=True)
        self.send_keepalive(now)
        return None

    def consume_cookie_reply(self, message: CookieReply, now: float) -> DropReason | None:
        """Keep the cookie. Not authenticated traffic: no timer and no endpoint learns of it."""
        return self.handshake.consume_cookie_reply(message, now)

    # --- data ---

    def usable_keypair(self, now: float) -> Keypair | None:
        """The key to send with, if there is one young enough and with numbers left."""
        keypair = self.slots.current
        if keypair is None or now >= keypair.expires_at or not keypair.can_send:
            return None
        if keypair.session.send_counter >= self._context.timings.reject_after_messages:
            return None
        return keypair

    def data_sealed(self, keypair: Keypair, datagram_bytes: int, now: float) -> None:
        """Should be called after one batch of data was sealed with `keypair`."""
        self.tx_bytes += datagram_bytes
        self.last_sent = now
        timers = self.timers
        timers.any_authenticated_packet_sent(now)
        timers.data_sent(now)
        self._keep_key_fresh(keypair, now)

    def activity(
        self, session: Session, data_packets: int, datagram_bytes: int, source: Source, now: float
    ) -> None:
        """Should be called after one batch of authentic transport data came from `source` under `session`."""
        waiting = self.slots.next
        if waiting is not None and waiting.session.local_index == session.local_index:
            self.slots.confirm_next()
            self._handshake_complete(now, is_initiator=False)
            self._flush_staged(now)
        self.rx_bytes += datagram_bytes
        self.last_received = now
        self.timers.any_authenticated_packet_received(now)
        if source != self._source or now >= self._heard_again_at:
            self._heard_from(source, now)
        if data_packets:
            self.timers.data_received(now)
        current = self.slots.current
        if (
            current is not None
            and now >= current.rekey_on_receive_at
            and not self.timers.sent_last_minute_handshake
        ):
            self.timers.sent_last_minute_handshake = True
            self.initiate(now)

    def stage(self, packet: memoryview, now: float) -> None:
        """Keep a packet until there is a key, and ask for one."""
        self._context.drop(DropReason.STAGED_QUEUE_FULL, self.staged.append(bytes(packet)))
        self.initiate(now)

    def send_keepalive(self, now: float) -> None:
        """Send something authenticated: what waits, or an empty packet. Without a key, ask for one."""
        if self.staged:
            self._flush_staged(now)
            return
        keypair = self.usable_keypair(now)
        if keypair is None:
            self.initiate(now)
            return
        datagram = dataplane.seal_packet(keypair.session, b"", self._context.mtu)
        self._send(datagram, Kind.KEEPALIVE, now)
        self._keep_key_fresh(keypair, now)

    # --- time ---

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        while (timer := self.timers.pop_expired(now)) is not None:
            _ON_TIMER[timer](self, now)

    def stats(self) -> PeerStats:
        return PeerStats(
            rx_bytes=self.rx_bytes,
            tx_bytes=self.tx_bytes,
            last_handshake_wall=self.last_handshake_wall,
            last_handshake=self.last_handshake,
            last_sent=self.last_sent,
            last_received=self.last_received,
            has_session=self.slots.current is not None,
            staged_packets=len(self.staged),
        )

    def _on_expire_keys(self, now: float) -> None:
        if self.slots.expire(now):
            self._context.events.append(SessionExpired(self.public_key))
        self.timers.keys_expire(self.slots.first_expiry())

    def _on_zero_keys(self, now: float) -> None:
        """§6.3. An initiation that is still being retransmitted is seconds old and stays."""
        self.slots.clear()
        self.timers.keys_expire(NEVER)
        if self.timers.retransmit_handshake == NEVER:
            self._clear_pending()

    def _on_retransmit_handshake(self, now: float) -> None:
        timers = self.timers
        if timers.attempts > self._context.timings.max_attempts:
            self._clear_pending()
            self._context.drop(DropReason.HANDSHAKE_GIVEN_UP, self.staged.clear())
            timers.handshake_given_up(now)
            self._context.events.append(HandshakeGivenUp(self.public_key))
            return
        timers.attempts += 1
        self._timed_out(timers.attempts)
        self.initiate(now, is_retry=True)

    def _on_new_handshake(self, now: float) -> None:
        self._timed_out(attempts=0)
        self.initiate(now)

    def _on_send_keepalive(self, now: float) -> None:
        need_another = self.timers.take_need_another_keepalive()
        self.send_keepalive(now)
        if need_another:
            self.timers.keepalive_answered_for(now)

    def _timed_out(self, attempts: int) -> None:
        self._source = None
        self._context.events.append(HandshakeTimedOut(self.public_key, attempts))

    # --- parts ---

    def _send_initiation(self, now: float) -> None:
        index = self._context.indices.allocate(self)
        replaced = self.handshake.pending
        try:
            message = self.handshake.create_initiation(index, self._context.timestamps, now)
        except WeakPublicKey:  # a configured key that no handshake can succeed with
            self._context.indices.free(index)
            return
        if replaced is not None:
            self._context.indices.free(replaced.local_index)
        self._send(message, Kind.HANDSHAKE, now)
        self.timers.initiation_sent(now)

    def _keypair(
        self,
        keys: noise.TransportKeys,
        local_index: int,
        remote_index: int,
        now: float,
        *,
        is_initiator: bool,
    ) -> Keypair:
        session = Session(keys.send, keys.receive, local_index, remote_index)
        self._context.sessions.set(local_index, session, self.id)
        # The handshake's index is the session's from now on; it was freed if another initiation replaced it.
        return Keypair(session, is_initiator=is_initiator, birth=now, timings=self._context.timings)

    def _key_derived(self, now: float) -> None:
        self.timers.session_derived(now)
        self.timers.keys_expire(self.slots.first_expiry())

    def _handshake_complete(self, now: float, *, is_initiator: bool) -> None:
        self._clear_pending()
        self.timers.handshake_complete()
        self.last_handshake = now
        self.last_handshake_wall = self._context.wall()
        self._context.events.append(HandshakeCompleted(self.public_key, is_initiator))

    def _flush_staged(self, now: float) -> None:
        """Seal and send what waits, in order. Without a usable key it goes on waiting."""
        while self.staged:
            keypair = self.usable_keypair(now)
            if keypair is None:
                self.initiate(now)
                return
            packet = self.staged.take_first()
            try:
                self._seal_staged(keypair, packet, now)
            except SessionSpent:
                self.staged.put_back(packet)
                self.initiate(now)
                return

    def _seal_staged(self, keypair: Keypair, packet: bytes, now: float) -> None:
        context = self._context
        out = context.scratch()
        units = dataplane.seal_superpacket(
            keypair.session, memoryview(packet), out, context.mtu, context.max_unit
        )
        if not units:
            context.drop(DropReason.MALFORMED_OUTBOUND_PACKET)
            return
        for unit in units:
            for offset in range(unit.offset, unit.offset + unit.length, unit.stride):
                datagram = bytes(out[offset : min(offset + unit.stride, unit.offset + unit.length)])
                context.datagrams.append(Outgoing(self.public_key, datagram, Kind.DATA))
        self.data_sealed(keypair, sum(unit.length for unit in units), now)

    def _keep_key_fresh(self, keypair: Keypair, now: float) -> None:
        if (
            now >= keypair.rekey_at
            or keypair.session.send_counter > self._context.timings.rekey_after_messages
        ):
            self.initiate(now)

    def _send(self, datagram: bytes, kind: Kind, now: float, reply_to: Source | None = None) -> None:
        self._context.datagrams.append(Outgoing(self.public_key, datagram, kind, reply_to))
        self.tx_bytes += len(datagram)
        self.last_sent = now
        self.timers.any_authenticated_packet_sent(now)

    def _handshake_received(self, source: Source, now: float) -> None:
        self.last_received = now
        self.timers.any_authenticated_packet_received(now)
        self._heard_from(source, now)

    def _heard_from(self, source: Source, now: float) -> None:
        self._source = source
        self._heard_again_at = now + constants.HEARD_FROM_INTERVAL
        self._context.events.append(PeerHeardFrom(self.public_key, source))

    def _clear_pending(self) -> None:
        pending = self.handshake.pending
        if pending is not None:
            self._context.indices.free(pending.local_index)
            self.handshake.clear()


# Functions, not bound methods: those would make every peer a cycle that only the collector frees.
_ON_TIMER: Final[dict[Timer, Callable[[Peer, float], None]]] = {
    Timer.EXPIRE_KEYS: Peer._on_expire_keys,
    Timer.ZERO_KEYS: Peer._on_zero_keys,
    Timer.RETRANSMIT_HANDSHAKE: Peer._on_retransmit_handshake,
    Timer.DELAYED_HANDSHAKE: Peer._send_initiation,
    Timer.NEW_HANDSHAKE: Peer._on_new_handshake,
    Timer.SEND_KEEPALIVE: Peer._on_send_keepalive,
    Timer.PERSISTENT_KEEPALIVE: Peer.send_keepalive,
}
