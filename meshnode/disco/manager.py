"""Path discovery for all peers: disco messages and the time go in; datagrams and events come out.

What the engine does with it, per turn: datagrams that `demux` calls disco's go to `receive_udp` and
`receive_derp`; what WireGuard learned goes to `heard_from` and `handshake_timed_out`; before each send it
asks `destinations`. At the end of the turn: `handle_timeout` if `next_timeout()` has passed, then
`take_events`, `take_datagrams`, and one timer.

A peer without a disco key is a plain WireGuard peer: `CandidatePaths` finds its address by handshakes, and
it is not reached over DERP.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from meshnode.disco import geneve, messages
from meshnode.disco.box import DecryptionFailed, SharedKeys, WeakPublicKey, sender_untrusted
from meshnode.disco.budget import Budget
from meshnode.disco.constants import MAX_RELAYED_PEERS, OPENING_BURST, OPENINGS_PER_SECOND
from meshnode.disco.context import Context, Settings
from meshnode.disco.destinations import DerpDestination, Destination, Path, RelayPath, Via
from meshnode.disco.events import Datagram, DiscoDrop, Event, PeerInfo
from meshnode.disco.peer_path import PeerPath
from meshnode.disco.schedule import Schedule
from meshnode.disco.status import PathStatus, status_of
from meshnode.paths import CandidatePaths
from meshnode.wireguard.events import Kind
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPrivate, DiscoPublic, NodePublic

__all__ = ["Manager"]


class _Sender:
    """A disco key that we know, whose nodes they are, and what it may cost us."""

    __slots__ = ("budget", "peers")

    def __init__(self) -> None:
        self.peers: dict[NodePublic, PeerPath] = {}
        self.budget = Budget(OPENINGS_PER_SECOND, OPENING_BURST)


class Manager:
    """Not safe for concurrent use. Every `now` is monotonic seconds and must not go back."""

    def __init__(
        self,
        disco_key: DiscoPrivate,
        node_key: NodePublic,
        *,
        entropy: Callable[[int], bytes],
        settings: Settings | None = None,
    ) -> None:
        """`entropy(n)` is `os.urandom`. The disco key is to be another one for each run of the node."""
        keys = SharedKeys(disco_key, entropy)
        self._context = Context(node_key, keys, entropy=entropy, settings=settings or Settings())
        self._peers: dict[NodePublic, PeerPath] = {}
        self._senders: dict[DiscoPublic, _Sender] = {}
        self._relays: dict[tuple[DiscoPublic, int], PeerPath] = {}  # by the relay's key and VNI
        self._plain = CandidatePaths()
        self._plain_peers: set[NodePublic] = set()
        self._schedule: Schedule[PeerPath] = Schedule()

    def is_active(self, now: float) -> bool:
        """Whether anybody sends, and our endpoints are worth measuring regularly."""
        return any(peer.is_active(now) for peer in self._peers.values())

    # --- what is known from elsewhere ---

    @property
    def disco_key(self) -> DiscoPublic:
        """Ours, for the coordinator to pass on."""
        return self._context.keys.public

    @property
    def drops(self) -> Counter[DiscoDrop]:
        """Messages that went no further, by reason. To be read only."""
        return self._context.drops

    def set_node_key(self, node_key: NodePublic) -> None:
        """Our own node key has rotated."""
        self._context.node_key = node_key

    def set_peers(self, peers: Iterable[PeerInfo], now: float) -> None:
        """Make the peers be these. Paths in use are kept."""
        wanted = {info.node_key: info for info in peers}
        for node_key in [*self._peers, *self._plain_peers]:
            if node_key not in wanted:
                self.remove_peer(node_key)
        for info in wanted.values():
            self.set_peer(info, now)

    def set_peer(self, info: PeerInfo, now: float) -> None:
        """Add a peer, or say what is new of it."""
        if info.disco_key is None:
            self._set_plain_peer(info)
            return
        self._forget_plain_peer(info.node_key)
        known = self._peers.get(info.node_key)
        if known is None:
            known = self._peers[info.node_key] = PeerPath(info, info.disco_key, self._context)
            self._add_sender(info.disco_key, known)
        else:
            if known.disco_key != info.disco_key:
                self._remove_sender(known)
                self._add_sender(info.disco_key, known)
            known.configure(info, info.disco_key, now)
        self._forget_relays()
        self._schedule.update(known)

    def remove_peer(self, node_key: NodePublic) -> None:
        """Forget a peer. Nothing happens when it is unknown."""
        self._forget_plain_peer(node_key)
        peer = self._peers.pop(node_key, None)
        if peer is not None:
            peer.close()
            self._remove_sender(peer)
            self._schedule.remove(peer)
            self._forget_relays()

    def set_own_endpoints(
        self, endpoints: Sequence[AddrPort], now: float, *, mapping_varies: bool | None = None
    ) -> None:
        """Where peers may reach us, as just measured, best first; and whether that depends on the peer."""
        self._context.mapping_varies = mapping_varies
        if self._context.set_endpoints(endpoints, now):
            for peer in self._peers.values():
                peer.own_endpoints_changed(now)
                self._schedule.update(peer)

    def set_reachability(
        self, now: float, *, has_derp: bool, has_udp: bool = True, dead_regions: frozenset[int] = frozenset()
    ) -> None:
        """Whether there are DERP relays to use, and whether UDP leaves this network at all.

        `dead_regions` are those whose relays cannot be reached at the moment.
        """
        context = self._context
        context.has_udp = has_udp
        if (has_derp, dead_regions) != (context.has_derp, context.dead_regions):
            context.has_derp, context.dead_regions = has_derp, dead_regions
            for peer in self._peers.values():
                peer.derp_changed(now)
                self._schedule.update(peer)

    def network_changed(self, now: float) -> None:
        """The host's addresses or routes changed, and its sockets with them: find all paths anew.

        Auxiliary sockets are released. To be followed by `set_own_endpoints` once they are measured.
        """
        for peer in self._peers.values():
            peer.network_changed(now)
            self._schedule.update(peer)
        self._forget_relays()

    # --- what the engine asks and tells ---

    def destinations(self, peer: NodePublic, kind: Kind, now: float) -> Sequence[Destination]:
        """Where a WireGuard datagram of `kind` goes now: to each of them. Empty when nobody knows a way."""
        path = self._peers.get(peer)
        if path is None:
            return self._plain.destinations(peer, kind, now)
        destinations = path.destinations(kind is Kind.HANDSHAKE, now)
        if path.wake_at < path.scheduled_at:
            self._schedule.update(path)
        return destinations

    def holds_until(self, peer: NodePublic) -> float:
        """Until when `destinations` for data says the same again, if nothing but data comes and goes."""
        path = self._peers.get(peer)
        return path.holds_until if path is not None else math.inf

    def confirmed(self, peer: NodePublic) -> Destination | None:
        """The way that data takes, for people to look at."""
        path = self._peers.get(peer)
        return path.confirmed if path is not None else self._plain.confirmed(peer)

    def heard_from(self, peer: NodePublic, via: Via, now: float) -> None:
        """An authenticated WireGuard datagram of `peer` came over `via`."""
        path = self._peers.get(peer)
        if path is not None:
            path.heard_from(via, now)
            self._schedule.update(path)
        elif isinstance(via, AddrPort):
            self._plain.heard_from(peer, via, now)

    def handshake_timed_out(self, peer: NodePublic, now: float) -> None:
        """A WireGuard handshake with `peer` got no answer in time."""
        path = self._peers.get(peer)
        if path is not None:
            path.handshake_timed_out(now)
            self._schedule.update(path)
        else:
            self._plain.handshake_timed_out(peer, now)

    def send_failed(self, path: Path, now: float) -> None:
        """The host could not send over `path`: no route, or nobody there. Peers on it use DERP as well."""
        for peer in self._peers.values():
            peer.send_failed(path, now)
            self._schedule.update(peer)

    def gone_from(self, peer: NodePublic, region_id: int) -> None:
        """The relay says that `peer` is not connected to it."""
        path = self._peers.get(peer)
        if path is not None:
            path.gone_from(region_id)

    # --- disco messages ---

    def receive_udp(self, datagram: bytes, source: Path, now: float) -> DiscoDrop | None:
        """A disco datagram from `source`, without its Geneve header. Returns why it was dropped, if so."""
        return self._count(self._receive(datagram, source, now))

    def receive_geneve(self, datagram: bytes, source: AddrPort, now: float) -> DiscoDrop | None:
        """A disco datagram under a Geneve header: of a peer through a peer relay, or of the relay itself."""
        header = geneve.read_header(datagram)
        if header is None:
            return self._count(DiscoDrop.MALFORMED)
        inner = datagram[geneve.HEADER_SIZE :]
        if header.is_control:
            return self._count(self._receive_from_relay(inner, header.vni, source, now))
        return self._count(self._receive(inner, RelayPath(source, header.vni), now))

    def receive_derp(self, packet: bytes, source: NodePublic, region_id: int, now: float) -> DiscoDrop | None:
        """A disco packet that a relay of the region brought from `source`."""
        return self._count(self._receive(packet, DerpDestination(region_id, source), now))

    def ping(self, peer: NodePublic, size: int, now: float) -> list[bytes]:
        """A person asks; see `PeerPath.ping`. Raises KeyError for a peer that does not speak disco."""
        path = self._peers[peer]
        tx_ids = path.ping(size, now)
        self._schedule.update(path)
        return tx_ids

    def status(self, peer: NodePublic, now: float) -> PathStatus:
        """Raises KeyError for a peer that is unknown or does not speak disco."""
        return status_of(self._peers[peer], now)

    # --- time and output ---

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        due = []
        while (path := self._schedule.take_due(now)) is not None:
            path.handle_timeout(now)
            due.append(path)
        for path in due:
            self._schedule.update(path)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` must be called next. It may be early, after which it is later."""
        return self._schedule.next_timeout

    @property
    def has_output(self) -> bool:
        """Whether there is something to take."""
        return bool(self._context.events or self._context.datagrams)

    def take_datagrams(self) -> list[Datagram]:
        """What is to be sent, in order."""
        taken, self._context.datagrams = self._context.datagrams, []
        return taken

    def take_events(self) -> list[Event]:
        """What happened since the last call, in order."""
        taken, self._context.events = self._context.events, []
        return taken

    # --- parts ---

    def _receive(self, datagram: bytes, via: Via, now: float) -> DiscoDrop | None:
        key = sender_untrusted(datagram)
        sender = self._senders.get(key)
        if sender is None:
            return DiscoDrop.UNKNOWN_SENDER
        if not sender.budget.spend(now):
            return DiscoDrop.RATE_LIMITED
        message = self._open(key, datagram)
        if isinstance(message, DiscoDrop):
            return message
        return self._dispatch(message, sender, via, now)

    def _open(self, key: DiscoPublic, datagram: bytes) -> messages.Message | DiscoDrop:
        try:
            return messages.parse_untrusted(self._context.keys.open(key, datagram))
        except (DecryptionFailed, WeakPublicKey):
            return DiscoDrop.INVALID_TAG
        except messages.UnknownMessage:
            return DiscoDrop.UNKNOWN_TYPE
        except messages.MalformedMessage:
            return DiscoDrop.MALFORMED

    def _dispatch(self, message: messages.Message, sender: _Sender, via: Via, now: float) -> DiscoDrop | None:
        if isinstance(via, DerpDestination) and via.peer not in sender.peers:
            return DiscoDrop.WRONG_NODE
        if isinstance(message, messages.Ping):
            peer = self._meant(sender, via, message.node_key)
            peer.ping_received(message, via, now)
            self._schedule.update(peer)
            return None
        if isinstance(message, messages.Pong):
            return self._pong(message, sender, via, now)
        if not isinstance(via, DerpDestination):
            return DiscoDrop.WRONG_CHANNEL
        if isinstance(message, messages.CallMeMaybe):
            peer = sender.peers[via.peer]
            peer.call_me_maybe_received(message, now)
            self._schedule.update(peer)
            return None
        if isinstance(message, messages.CallMeMaybeVia):
            return self._relay_offered(message.endpoint, sender.peers[via.peer], now)
        return DiscoDrop.UNASKED_RELAY

    def _relay_offered(
        self, endpoint: messages.RelayEndpoint, peer: PeerPath, now: float
    ) -> DiscoDrop | None:
        key = (endpoint.server_key, endpoint.vni)
        is_full = len(self._relays) >= MAX_RELAYED_PEERS and peer.search.relay.key is None
        is_anothers = self._relays.get(key, peer) is not peer
        if not self._context.settings.peer_relays or is_full or is_anothers:
            return DiscoDrop.UNASKED_RELAY
        self._relays[key] = peer
        is_wanted = peer.relay_offered(endpoint, now)
        self._forget_relays()
        self._schedule.update(peer)
        return None if is_wanted else DiscoDrop.UNASKED_RELAY

    def _receive_from_relay(
        self, datagram: bytes, vni: int, source: AddrPort, now: float
    ) -> DiscoDrop | None:
        key = sender_untrusted(datagram)
        peer = self._relays.get((key, vni))
        if peer is None:
            return DiscoDrop.UNKNOWN_SENDER
        message = self._open(key, datagram)
        if isinstance(message, DiscoDrop):
            return message
        if not isinstance(message, messages.BindUDPRelayEndpointChallenge):
            return DiscoDrop.UNASKED_RELAY
        if not peer.relay_challenged(message, source, now):
            return DiscoDrop.UNASKED_RELAY
        self._schedule.update(peer)
        return None

    def _forget_relays(self) -> None:
        """Those that no peer uses any more, and their keys."""
        for key in [key for key, peer in self._relays.items() if peer.search.relay.key != key]:
            del self._relays[key]
            if all(server != key[0] for server, _ in self._relays):
                self._context.keys.forget(key[0])

    @staticmethod
    def _meant(sender: _Sender, via: Via, node_key: NodePublic | None) -> PeerPath:
        """Which of the nodes with this disco key it is: the relay knows, else the ping says, else any."""
        if isinstance(via, DerpDestination):
            return sender.peers[via.peer]
        named = sender.peers.get(node_key) if node_key is not None else None
        return named if named is not None else next(iter(sender.peers.values()))

    def _pong(self, pong: messages.Pong, sender: _Sender, via: Via, now: float) -> DiscoDrop | None:
        for peer in sender.peers.values():
            if peer.pong_received(pong, via, now):
                self._schedule.update(peer)
                return None
        return DiscoDrop.UNKNOWN_PONG

    def _count(self, reason: DiscoDrop | None) -> DiscoDrop | None:
        if reason is not None:
            self._context.drops[reason] += 1
        return reason

    def _add_sender(self, key: DiscoPublic, peer: PeerPath) -> None:
        self._senders.setdefault(key, _Sender()).peers[peer.info.node_key] = peer

    def _remove_sender(self, peer: PeerPath) -> None:
        sender = self._senders[peer.disco_key]
        del sender.peers[peer.info.node_key]
        if not sender.peers:
            del self._senders[peer.disco_key]
            self._context.keys.forget(peer.disco_key)

    def _set_plain_peer(self, info: PeerInfo) -> None:
        if info.node_key not in self._plain_peers:
            self.remove_peer(info.node_key)
            self._plain_peers.add(info.node_key)
        self._plain.set_peer(info.node_key, info.endpoints)

    def _forget_plain_peer(self, node_key: NodePublic) -> None:
        if node_key in self._plain_peers:
            self._plain_peers.discard(node_key)
            self._plain.remove_peer(node_key)
