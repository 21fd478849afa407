"""The other end of one manager, in the hands of a test: opens what is sent, and sends what it likes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from meshnode.disco import geneve, messages
from meshnode.disco.box import SharedKeys, sender_untrusted
from meshnode.disco.context import Settings
from meshnode.disco.destinations import DerpDestination, Destination, Path
from meshnode.disco.events import Datagram, DiscoDrop, Event, PeerInfo
from meshnode.disco.manager import Manager
from meshnode.disco.messages import CallMeMaybe, Message, Ping, Pong
from meshnode.wireguard import Kind
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPrivate, DiscoPublic, NodePrivate, NodePublic

REGION = 7
OWN = AddrPort("198.51.100.1", 41641)
LAN = AddrPort("192.168.0.7", 41641)
PUBLIC = AddrPort("203.0.113.7", 41641)
PUBLIC_IPV6 = AddrPort("2001:db8::7", 41641)
ELSEWHERE = AddrPort("203.0.113.99", 5000)


class Remote:
    """A peer: keys, and the messages that it received."""

    def __init__(self, number: int = 1) -> None:
        rng = random.Random(number)
        self.node_key = NodePrivate(rng.randbytes(32)).public
        self.private = DiscoPrivate(rng.randbytes(32))
        self.keys = SharedKeys(self.private, rng.randbytes)

    @property
    def disco_key(self) -> DiscoPublic:
        return self.keys.public

    def info(
        self,
        endpoints: Sequence[AddrPort] = (LAN, PUBLIC),
        *,
        home_region: int = REGION,
        mapping_varies: bool | None = None,
    ) -> PeerInfo:
        return PeerInfo(self.node_key, self.disco_key, endpoints, home_region, mapping_varies)

    def open(self, datagram: Datagram) -> Message:
        payload = datagram.payload
        if geneve.read_header(payload) is not None:
            payload = payload[geneve.HEADER_SIZE :]
        return messages.parse_untrusted(self.keys.open(sender_untrusted(payload), payload))


class Bench:
    """A manager, its clock, and one remote that it knows."""

    def __init__(self, settings: Settings | None = None, info: PeerInfo | None = None) -> None:
        rng = random.Random(99)
        self.now = 1000.0
        self.remote = Remote()
        self.manager = Manager(
            DiscoPrivate(rng.randbytes(32)),
            NodePrivate(rng.randbytes(32)).public,
            entropy=rng.randbytes,
            settings=settings,
        )
        self.manager.set_reachability(self.now, has_derp=True)
        self.manager.set_own_endpoints([OWN], self.now, mapping_varies=False)
        self.manager.set_peer(info or self.remote.info(), self.now)
        self.events: list[Event] = []

    @property
    def peer(self) -> NodePublic:
        return self.remote.node_key

    # --- in ---

    def send(self, kind: Kind = Kind.DATA) -> tuple[Destination, ...]:
        return tuple(self.manager.destinations(self.peer, kind, self.now))

    def receive(self, message: Message, via: Path | int, remote: Remote | None = None) -> DiscoDrop | None:
        """From `via`: a path, or a DERP region."""
        remote = remote or self.remote
        sealed = remote.keys.seal(self.manager.disco_key, message.encode())
        if isinstance(via, int):
            return self.manager.receive_derp(sealed, remote.node_key, via, self.now)
        return self.manager.receive_udp(sealed, via, self.now)

    def ping(self, via: Path | int, number: int = 0) -> DiscoDrop | None:
        return self.receive(Ping(number.to_bytes(12, "big"), self.remote.node_key), via)

    def call(self, *endpoints: AddrPort) -> DiscoDrop | None:
        return self.receive(CallMeMaybe(endpoints), REGION)

    def wait(self, seconds: float) -> None:
        """Let the time pass, with every timer in time."""
        end = self.now + seconds
        turns = 0
        while (due := self.manager.next_timeout()) is not None and due <= end:
            turns = turns + 1 if due <= self.now else 0
            assert turns < 20, "timers do not come to rest"
            self.now = max(self.now, due)
            self.manager.handle_timeout(self.now)
        self.now = end

    # --- out ---

    def sent(self) -> list[tuple[Destination, Message]]:
        return [(one.destination, self.remote.open(one)) for one in self.manager.take_datagrams()]

    def pinged(self) -> list[Destination]:
        return [to for to, message in self.sent() if isinstance(message, Ping)]

    def take_events(self) -> list[Event]:
        taken = self.manager.take_events()
        self.events += taken
        return taken

    def answer_pings(self, *paths: Destination, after: float = 0.02) -> list[Destination]:
        """Answer the pings that were sent to `paths`, `after` seconds. Returns all that was pinged."""
        pings = [(to, message) for to, message in self.sent() if isinstance(message, Ping)]
        self.wait(after)
        for to, ping in pings:
            if to in paths:
                via: Path | int = to.region_id if isinstance(to, DerpDestination) else to
                self.receive(Pong(ping.tx_id, OWN), via)
        return [to for to, _ in pings]

    def go_direct(self, path: AddrPort = PUBLIC) -> None:
        """Have `path` in use."""
        self.send()
        self.answer_pings(path)
        assert self.send() == (path,)

    @property
    def derp(self) -> DerpDestination:
        return DerpDestination(REGION, self.peer)
