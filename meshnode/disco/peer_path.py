"""The path to one peer: which ways there are, which is used, and when to look for another.

    nobody sends     nothing happens, but that pings are answered and calls acted on
    first packet     it goes over DERP; candidates are pinged, and the peer is called to do the same
    pong             the path is confirmed, both ways: data goes over it from now on
    while it is used heartbeats measure it; one that gets no answer soon enough makes data go over DERP as
                     well, and the candidates are pinged anew
    5 s of silence   the path is left

What a peer sends can make us ping, but never trust: only a pong to a ping of ours confirms a path. A session
that has been idle for 45 s is left alone; its path is doubted when it is used again, and costs nothing until
then.
"""

from __future__ import annotations

import math
from typing import Final

from meshnode.disco import messages
from meshnode.disco.best_addr import is_better
from meshnode.disco.box import ENVELOPE_SIZE
from meshnode.disco.budget import Budget
from meshnode.disco.candidates import Candidate, Origin
from meshnode.disco.constants import ANSWER_BURST, ANSWERS_PER_SECOND, PING_BURST, PINGS_PER_SECOND
from meshnode.disco.context import Context
from meshnode.disco.destinations import DerpDestination, Destination, Path, Via, address_of
from meshnode.disco.events import DiscoDrop, PathChanged, PeerInfo, PongReceived, WireMtuFound
from meshnode.disco.mtu import MtuProbe
from meshnode.disco.path_in_use import PathInUse
from meshnode.disco.pings import Ping, PingsInFlight, Purpose
from meshnode.disco.search import SAME_MOMENT, Search, needs_socket
from meshproto.addresses import AddrPort
from meshproto.keys import KEY_SIZE, DiscoPublic

__all__ = ["PeerPath"]

NEVER: Final = math.inf
AT_ONCE: Final = -math.inf

SMALLEST_PING: Final = ENVELOPE_SIZE + 2 + messages.TX_ID_SIZE + KEY_SIZE
"""Bytes of a ping without padding."""
LATE: Final = 0.1
"""Seconds by which we are called late when the process was busy; less is nothing to excuse."""
MAX_FALLBACK: Final = 16
"""Candidates that a handshake goes to where there is no DERP to carry it."""
EXPIRY_INTERVAL: Final = 15.0
"""Between looks for candidates that nobody speaks of any more."""


class PeerPath:
    """Made and called by a Manager. After every entry, `wake_at` is when to call `handle_timeout`."""

    def __init__(self, info: PeerInfo, disco_key: DiscoPublic, context: Context) -> None:
        self.info = info
        self.wake_at = NEVER
        self.scheduled_at = NEVER
        """When the manager will call: its business alone."""
        self.context: Final = context
        self.search: Final = Search(info.node_key, disco_key, context)
        self.in_use: Final = PathInUse(context.timings)
        self._timings: Final = context.timings
        self._pings = PingsInFlight(context.timings.give_up)
        self._mtu = MtuProbe(context.timings)
        self._last_sent = -math.inf
        self._look_again_at = AT_ONCE  # until then, a sender gets `_current` without further thought
        self._current: tuple[Destination, ...] = ()
        self._announced: Destination | None = None
        self._learned_region = 0
        self._heard_from: Path | None = None
        self._expire_at = -math.inf
        self._ping_budget = Budget(PINGS_PER_SECOND, PING_BURST)
        self._answer_budget = Budget(ANSWERS_PER_SECOND, ANSWER_BURST)
        self._learn(info)

    @property
    def disco_key(self) -> DiscoPublic:
        """The peer's, of its present run."""
        return self.search.disco_key

    # --- configuration, and news of our own ---

    def configure(self, info: PeerInfo, disco_key: DiscoPublic, now: float) -> None:
        """The network map says something new of the peer. Another disco key means that it has restarted."""
        if disco_key != self.disco_key:
            self.search.disco_key = disco_key
            self._doubt_everything()
        self.info = info
        if self._learn(info):
            self.search.encourage()
        self._update(now)

    def _learn(self, info: PeerInfo) -> bool:
        self.search.said_mapping_varies = info.mapping_varies
        return self.search.candidates.set_netmap(info.endpoints, self.in_use.path)

    def network_changed(self, now: float) -> None:
        """Our sockets, addresses or routes are others: what was measured is worth nothing."""
        if needs_socket(self.in_use.best):
            self.in_use.leave()
        self.search.network_changed()
        self._doubt_everything()
        self._update(now)

    def own_endpoints_changed(self, now: float) -> None:
        """Tell the peer, if we are talking to it."""
        if self.is_active(now) and self.search.calls.is_outdated:
            self.search.calls.owe()
            self.search.encourage()
            self._update(now)

    def send_failed(self, path: Path, now: float) -> None:
        """The host has no way to send over `path` just now."""
        if path == self.in_use.path:
            self.in_use.liveness.distrust(now)
            self.search.encourage()
            self._update(now)

    def close(self) -> None:
        """The peer is removed: what all peers share comes back."""
        self.search.close()

    # --- what the engine asks and tells ---

    def destinations(self, is_handshake: bool, now: float) -> tuple[Destination, ...]:
        """Where a datagram goes that leaves now: to each of them."""
        self._last_sent = now
        if now >= self._look_again_at:
            self._update(now)
        if is_handshake and not self.in_use.is_trusted(now) and self.derp() is None:
            return self._everywhere()
        return self._current

    @property
    def holds_until(self) -> float:
        """Until when a sender of data need not ask again, if nothing but data comes and goes."""
        return self._look_again_at

    def heard_from(self, via: Via, now: float) -> None:
        """An authenticated WireGuard datagram came: proof that data gets through, in that direction."""
        if isinstance(via, DerpDestination):
            self._learn_region(via.region_id)
            return
        if via != self._heard_from:
            self._heard_from = via
            self._reconsider()
        if via == self.in_use.path and self.in_use.data_received():
            self._update(now)

    def gone_from(self, region_id: int) -> None:
        """The peer is not connected to the relays of this region."""
        if self._learned_region == region_id:
            self._learn_region(0)

    def _learn_region(self, region_id: int) -> None:
        if region_id != self._learned_region:
            self._learned_region = region_id
            self._reconsider()

    def derp_changed(self, now: float) -> None:
        """There are relays now, or none any more: a call may get through that could not before."""
        self.search.encourage()
        self._reconsider()
        if self.is_active(now):
            self._update(now)

    def _reconsider(self) -> None:
        """Where data can go has changed: think about it when some is sent."""
        self._look_again_at = AT_ONCE

    def handshake_timed_out(self, now: float) -> None:
        """The path may be to blame, whatever its pings say: use DERP as well, and look for another."""
        self.in_use.handshake_timed_out(now)
        self.search.encourage()
        self._update(now)

    # --- what came from the peer ---

    def ping_received(self, ping: messages.Ping, via: Via, now: float) -> None:
        """Answer it. Over UDP it names a candidate too, which is pinged at once: it may let us in now."""
        if not self._answer_budget.spend(now):
            self.context.drops[DiscoDrop.RATE_LIMITED] += 1
            return
        self._send(via, messages.Pong(ping.tx_id, address_of(via)))
        if isinstance(via, DerpDestination):
            self._learn_region(via.region_id)
            return
        candidate = self.search.candidates.heard_ping(via, self.in_use.path, now)
        if self._should_ping_back(candidate, now):
            self._ping(candidate, Purpose.TRIGGERED, now)
        self._update(now)

    def pong_received(self, pong: messages.Pong, via: Via, now: float) -> bool:
        """Returns False when nothing of ours is answered by it."""
        ping = self._pings.take(pong.tx_id, now)
        if ping is None:
            return self._probe_answered(pong, via, now)
        if isinstance(ping.destination, DerpDestination) != isinstance(via, DerpDestination):
            return False
        if ping.purpose is Purpose.ASKED:
            latency = now - ping.sent_at
            event = PongReceived(self.info.node_key, pong.tx_id, ping.destination, latency, pong.source)
            self.context.events.append(event)
        if not isinstance(ping.destination, DerpDestination):
            self._path_answered(ping.destination, ping, now)
        self._update(now)
        return True

    def call_me_maybe_received(self, call: messages.CallMeMaybe, now: float) -> None:
        """Ping the peer where it says it is: it has just pinged us, and its NAT may let us in.

        It has lost its path to us, or looks for a better one, so the one in use is looked at too.
        """
        if not self.search.calls.received(now):
            self.context.drops[DiscoDrop.RATE_LIMITED] += 1
            return
        self.search.called(call.endpoints, self.in_use.path, now)
        best = self.in_use.best
        if best is not None and not best.pinged_since(now - self._timings.retry):
            self._ping(best, Purpose.HEARTBEAT, now)
        self._update(now)

    def relay_offered(self, endpoint: messages.RelayEndpoint, now: float) -> bool:
        """The peer asks to meet at a peer relay. Returns whether we go there."""
        if not self.search.relay.offered(endpoint, self.disco_key, now):
            return False
        self.search.candidates.drop(Origin.RELAY, self.in_use.path)
        self._update(now)
        return True

    def relay_challenged(
        self, challenge: messages.BindUDPRelayEndpointChallenge, source: AddrPort, now: float
    ) -> bool:
        """The relay answered. Returns False when that was not for us."""
        path = self.search.relay.challenge_received(challenge, source)
        if path is None:
            return False
        candidate = self.search.candidates.add(path, Origin.RELAY)
        if not candidate.pinged_since(now - SAME_MOMENT):
            self._ping(candidate, Purpose.DISCOVERY, now)
        self._update(now)
        return True

    # --- what a person asks ---

    def ping(self, size: int, now: float) -> list[bytes]:
        """Ping wherever data goes now, and look for a direct path if there is none.

        Returns the transaction ids that `PongReceived` will name. `size` is in bytes of the datagram; a
        small one means the smallest ping.
        """
        destinations = self.destinations(False, now)
        return [self._ping_to(one, Purpose.ASKED, now, size) for one in destinations]

    @property
    def confirmed(self) -> Destination | None:
        """Where data goes, as last announced by a PathChanged."""
        return self._announced

    def is_active(self, now: float) -> bool:
        """Whether somebody sends."""
        return now - self._last_sent < self._timings.session_active

    def is_direct(self, now: float) -> bool:
        """Whether data is meant to go over UDP. A path that only rests is still the one."""
        return self.in_use.best is not None and (self.in_use.is_trusted(now) or not self.is_active(now))

    def current(self, now: float) -> tuple[Destination, ...]:
        """Where data would go now. Unlike `destinations`, nothing comes of asking."""
        path, derp = self.in_use.path, self.derp()
        if path is not None and (derp is None or self.in_use.is_trusted(now)):
            return (path,)
        if derp is None:
            return self._everywhere()[:1]
        return (derp,) if path is None else (path, derp)

    def derp(self) -> DerpDestination | None:
        """The relays of the peer's home, or else where it was last heard."""
        if self.context.has_derp:
            for region in (self.info.home_region, self._learned_region):
                if region and region not in self.context.dead_regions:
                    return DerpDestination(region, self.info.node_key)
        return None

    # --- time ---

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        self._update(now)

    def _update(self, now: float) -> None:
        """What every entry ends with."""
        if now - self.wake_at > LATE:
            self.in_use.liveness.excuse(now - self.wake_at)
        self._look_after_path(now)
        is_trusted, is_active = self.in_use.is_trusted(now), self.is_active(now)
        for candidate in self.search.update(
            self.in_use.best, is_trusted=is_trusted, is_active=is_active, now=now
        ):
            self._ping(candidate, Purpose.DISCOVERY, now)
        self.search.send_owed_call(self.derp(), now)
        if now >= self._expire_at:
            self._expire_at = now + EXPIRY_INTERVAL
            self.search.expire(self.in_use.path, now)
        self._current = self.current(now)
        self._announce(now)
        self._plan(now)

    def _plan(self, now: float) -> None:
        """When to be called again, and until when a sender need not ask anew."""
        is_trusted, is_active = self.in_use.is_trusted(now), self.is_active(now)
        due = self.search.next_timeout(is_trusted=is_trusted, is_active=is_active, now=now)
        if is_active and self.in_use.best is not None:
            path_due = self.in_use.next_timeout(now - self._last_sent, now)
            due = min(due, path_due, self._mtu.next_timeout)
        self.wake_at = max(now, due)
        sender_due = self.in_use.next_change_for_sender(now) if is_active else AT_ONCE
        self._look_again_at = min(self.wake_at, sender_due)

    # --- the path in use ---

    def _look_after_path(self, now: float) -> None:
        in_use = self.in_use
        if in_use.best is not None and not in_use.is_trusted(now):
            self._use_proven(now)
        if in_use.is_dead(now):
            self._left(in_use.leave())
        best = in_use.best
        if best is None:
            return
        if in_use.heartbeat_due(now - self._last_sent) <= now:
            self._ping(best, Purpose.HEARTBEAT, now)
        if self.is_active(now):
            for size in self._mtu.take_due(now):
                self._ping_to(best.path, Purpose.MTU, now, size)

    def _use_proven(self, now: float) -> None:
        """Instead of a path that is doubted, take the best of those that have answered since it last did."""
        doubted = self.in_use.best
        horizon = now - self._timings.trust
        if doubted is not None and doubted.last_pong is not None:
            horizon = max(horizon, doubted.last_pong)
        proven: Candidate | None = None
        for candidate in self.search.candidates:
            quality = candidate.quality()
            is_younger = candidate.last_pong is not None and candidate.last_pong > horizon
            if quality is None or candidate is doubted or not is_younger:
                continue
            if is_better(quality, proven.quality() if proven is not None else None):
                proven = candidate
        if proven is not None:
            self._use(proven, now)

    def _path_answered(self, path: Path, ping: Ping, now: float) -> None:
        candidate = self.search.candidates.get(path)
        if candidate is None:
            return  # forgotten meanwhile
        if ping.purpose is Purpose.MTU:
            self._mtu_answered(candidate, ping)
            return
        candidate.answered(ping.sent_at, now)
        best = self.in_use.best
        if candidate is best:
            self.in_use.liveness.answered(ping.sent_at, now)
            return
        quality = candidate.quality()
        best_quality = best.quality() if best is not None else None
        if quality is not None and (not self.in_use.is_trusted(now) or is_better(quality, best_quality)):
            self._use(candidate, now)

    def _use(self, candidate: Candidate, now: float) -> None:
        """Data goes over `candidate` from now on."""
        before = self.in_use.use(candidate)
        self.search.found(candidate)
        self._left(before)
        if self.context.settings.probe_mtu:
            self._mtu.start(candidate.path, now)

    def _left(self, before: Candidate | None) -> None:
        self._mtu.stop()
        self.search.left(before)

    def _doubt_everything(self) -> None:
        """The other end, or ours, is not what it was. The path may still work, and a ping will tell."""
        self._pings.clear()
        self.in_use.liveness.restart()
        self.search.restart()
        self._mtu.stop()

    def _should_ping_back(self, candidate: Candidate, now: float) -> bool:
        """Whether a ping over `candidate` is a reason for one of ours."""
        gap = self._timings.triggered_gap
        if math.isinf(gap) or candidate.pinged_since(now - gap):
            return False
        is_proven = candidate is self.in_use.best and self.in_use.liveness.is_trusted(now)
        return not (is_proven and candidate.answered_since(now - self._timings.heartbeat))

    def _probe_answered(self, pong: messages.Pong, via: Via, now: float) -> bool:
        """One of many probes was met. The answer's source says where; a ping proves and measures it."""
        if isinstance(via, DerpDestination) or not self.search.sprayer.is_answer(pong.tx_id):
            return False
        candidate = self.search.candidates.heard_ping(via, self.in_use.path, now)
        if not candidate.pinged_since(now - SAME_MOMENT):
            self._ping(candidate, Purpose.TRIGGERED, now)
        self._update(now)
        return True

    def _mtu_answered(self, candidate: Candidate, ping: Ping) -> None:
        wire_mtu = self._mtu.answered(candidate.path, ping.size)
        if wire_mtu is not None:
            candidate.wire_mtu = wire_mtu
            self.context.events.append(WireMtuFound(self.info.node_key, candidate.path, wire_mtu))

    # --- output ---

    def _everywhere(self) -> tuple[Destination, ...]:
        """Without DERP: every place that the peer may be at, the likeliest first."""
        likely = [self.in_use.path, self._heard_from, *(one.path for one in self.search.candidates)]
        return tuple(dict.fromkeys(one for one in likely if one is not None))[:MAX_FALLBACK]

    def _announce(self, now: float) -> None:
        """Of a peer that nobody has talked to there is nothing to say."""
        if self._announced is None and self.in_use.best is None and not self.is_active(now):
            return
        best = self.in_use.best if self.is_direct(now) else None
        primary = best.path if best is not None else self.derp() or self.in_use.path
        if primary != self._announced:
            self._announced = primary
            latency = best.latency if best is not None else None
            self.context.events.append(PathChanged(self.info.node_key, primary, latency))

    def _ping(self, candidate: Candidate, purpose: Purpose, now: float) -> None:
        """Within the budget, except for the path in use, whose pings are bounded by their timer."""
        if candidate is self.in_use.best:
            self.in_use.liveness.pinged(now)
        elif not self._ping_budget.spend(now):
            return
        candidate.last_ping = now
        self._ping_to(candidate.path, purpose, now)

    def _ping_to(self, destination: Destination, purpose: Purpose, now: float, size: int = 0) -> bytes:
        tx_id = self.context.entropy(messages.TX_ID_SIZE)
        self._pings.add(tx_id, Ping(destination, now, purpose, size))
        ping = messages.Ping(tx_id, self.context.node_key, max(0, size - SMALLEST_PING))
        self._send(destination, ping, dont_fragment=purpose is Purpose.MTU)
        return tx_id

    def _send(self, via: Destination, message: messages.Message, *, dont_fragment: bool = False) -> None:
        self.context.send(via, self.disco_key, message, dont_fragment=dont_fragment)
