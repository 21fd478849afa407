"""What the peers of one manager share: our own facts, settings, and where their output goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from meshnode.disco.box import SharedKeys
from meshnode.disco.candidates import is_usable
from meshnode.disco.constants import DEFAULT, MAX_SENT_ENDPOINTS, MAX_SPRAYS, Timings
from meshnode.disco.destinations import Destination, RelayPath
from meshnode.disco.events import Datagram, DiscoDrop, EndpointsWanted, Event, SocketsReleased
from meshnode.disco.geneve import DISCO, GeneveHeader
from meshnode.disco.messages import Message
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic, NodePublic

__all__ = ["Context", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the owner may choose."""

    timings: Timings = DEFAULT
    spray: bool = True
    """Whether to try hard NATs with many sockets and probes."""
    peer_relays: bool = True
    """Whether to meet peers at the peer relays that they ask us to."""
    probe_mtu: bool = False
    """Whether to find out what direct paths carry. The owner's sockets must honour `dont_fragment`."""


class Context:
    """Made and changed by a Manager; its peers read it and write their output here."""

    def __init__(
        self,
        node_key: NodePublic,
        keys: SharedKeys,
        *,
        entropy: Callable[[int], bytes],
        settings: Settings,
    ) -> None:
        self.node_key = node_key
        self.keys: Final = keys
        self.entropy: Final = entropy
        self.settings = settings
        self.endpoints: tuple[AddrPort, ...] = ()
        """Where peers may reach us, best first."""
        self.endpoints_version = 0
        """Another number for each other set of endpoints."""
        self.endpoints_at: float | None = None
        """When they were last found to be so."""
        self.mapping_varies: bool | None = None
        """Whether we are behind a hard NAT."""
        self.has_udp = True
        """Whether UDP gets out of this network at all."""
        self.has_derp = False
        """Whether there are relays that we may use."""
        self.dead_regions: frozenset[int] = frozenset()
        """Regions of which no relay can be reached at the moment."""
        self.datagrams: list[Datagram] = []
        self.events: list[Event] = []
        self.drops: Counter[DiscoDrop] = Counter()
        self.sprays = 0
        """How many are under way."""
        self._next_socket = 1
        self._wanted_endpoints_at: float | None = None

    @property
    def timings(self) -> Timings:
        return self.settings.timings

    def set_endpoints(self, endpoints: Iterable[AddrPort], now: float) -> bool:
        """Returns whether they are others than before, in whatever order."""
        usable = tuple(dict.fromkeys(filter(is_usable, endpoints)))[:MAX_SENT_ENDPOINTS]
        changed = set(usable) != set(self.endpoints)
        self.endpoints = usable
        self.endpoints_at = now
        self._wanted_endpoints_at = None
        if changed:
            self.endpoints_version += 1
        return changed

    def want_fresh_endpoints(self, now: float) -> None:
        """Ask the owner to measure, when what we know may be outdated, and not again while it does."""
        horizon = now - self.timings.endpoint_freshness
        is_fresh = self.endpoints_at is not None and self.endpoints_at >= horizon
        wanted = self._wanted_endpoints_at
        if not is_fresh and (wanted is None or wanted < now - self.timings.round_interval):
            self._wanted_endpoints_at = now
            self.events.append(EndpointsWanted())

    def send(
        self,
        destination: Destination,
        receiver: DiscoPublic,
        message: Message,
        *,
        dont_fragment: bool = False,
    ) -> None:
        """Seal a message and put it out."""
        sealed = self.keys.seal(receiver, message.encode())
        if isinstance(destination, RelayPath):
            sealed = GeneveHeader(DISCO, destination.vni).encode() + sealed
        self.datagrams.append(Datagram(destination, sealed, dont_fragment))

    def send_to_relay(self, address: AddrPort, server: DiscoPublic, vni: int, message: Message) -> None:
        """Seal a message of the handshake with a peer relay, and put it out."""
        header = GeneveHeader(DISCO, vni, is_control=True).encode()
        self.datagrams.append(Datagram(address, header + self.keys.seal(server, message.encode())))

    def may_spray(self) -> bool:
        return self.settings.spray and self.sprays < MAX_SPRAYS

    def reserve_sockets(self, count: int) -> range:
        """Numbers for auxiliary sockets that nobody had before."""
        reserved = range(self._next_socket, self._next_socket + count)
        self._next_socket += count
        return reserved

    def release_sockets(self, sockets: range | tuple[int, ...]) -> None:
        self.events.append(SocketsReleased(sockets))
