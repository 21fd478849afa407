"""A relay core and its clients in one process: a test moves bytes and the clock by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

from derp.client_core import ClientCore, Connected, Event, PacketsReceived
from derp.login import ClientInfo
from derp.server_core import Limits, ServerCore
from derp.session import Arrival, Session, SessionClosed
from meshproto.keys import NodePrivate, NodePublic
from tests.derp.keys import MESH_KEY, RELAY, zeros

DISCO = "TS💬".encode() + bytes(100)


@dataclass
class Client:
    """A client core and the relay's session for it."""

    core: ClientCore
    session: Session
    events: list[Event] = field(default_factory=list)
    closed: str = ""
    is_reading: bool = True

    @property
    def is_open(self) -> bool:
        return not self.closed

    def take_events(self) -> list[Event]:
        events, self.events = self.events, []
        return events

    def take_packets(self) -> list[tuple[NodePublic, bytes]]:
        """Packets received; other events stay."""
        packets = [event for event in self.events if isinstance(event, PacketsReceived)]
        self.events = [event for event in self.events if not isinstance(event, PacketsReceived)]
        return [(event.source, packet) for event in packets for packet in event.packets]


class RelaySim:
    """A relay without sockets. Whatever a client says is acted on at once, by everyone."""

    def __init__(
        self,
        *,
        verifies_clients: bool = False,
        limits: Limits | None = None,
        key: NodePrivate = RELAY,
        mesh_key: bytes | None = MESH_KEY,
    ) -> None:
        self.now = 1000.0
        self.core = ServerCore(
            key, entropy=zeros, mesh_key=mesh_key, verifies_clients=verifies_clients, limits=limits
        )
        self.clients: list[Client] = []

    def connect(
        self,
        key: NodePrivate,
        info: ClientInfo | None = None,
        *,
        fast: bool = False,
        arrival: Arrival | None = None,
    ) -> Client:
        """A client that has logged in, as far as the relay lets it."""
        session = self.core.connect(arrival or Arrival("192.0.2.1", 4000), self.now)
        server = self.core.public_key if fast else None
        client = Client(
            ClientCore(key, self.now, entropy=zeros, server=server, info=info),
            session,
        )
        self.clients.append(client)
        self.settle()
        return client

    def log_in(self, key: NodePrivate, info: ClientInfo | None = None) -> Client:
        """As `connect`, and the event of it is taken."""
        client = self.connect(key, info)
        assert any(isinstance(event, Connected) for event in client.events)
        client.events = [event for event in client.events if not isinstance(event, Connected)]
        return client

    def mesh_peer(self, key: NodePrivate) -> Client:
        """Another relay of the region."""
        return self.log_in(key, ClientInfo(mesh_key=MESH_KEY))

    def settle(self) -> None:
        """Move bytes until nobody has anything to say."""
        moved = True
        while moved:
            moved = self._serve_clients()
            for session in self.core.take_ready():
                moved = self._deliver(session) or moved
            for session in self.core.take_closed():
                self._drop(self._client_of(session), "closed by the core")

    def say(self, client: Client, data: bytes) -> None:
        """Bytes of the test's own making, as if the client had sent them."""
        self._feed(client, data)
        self.settle()

    def send(self, source: Client, destination: NodePrivate, *packets: bytes) -> None:
        for packet in packets:
            source.core.send_packets(destination.public, (packet,), self.now)
        self.settle()

    def advance(self, seconds: float) -> None:
        """Let time pass, with every timer at its time."""
        end = self.now + seconds
        while True:
            timeouts = [
                (when, client)
                for client in self.clients
                if not client.closed and (when := client.session.next_timeout()) is not None
            ]
            when, client = min(timeouts, key=lambda timeout: timeout[0], default=(end + 1, None))
            if when > end or client is None:
                break
            self.now = max(when, self.now)
            try:
                client.session.handle_timeout(self.now, unsent=0 if client.is_reading else 1000)
            except SessionClosed as reason:
                self._drop(client, str(reason))
            self.settle()
        self.now = end

    def stop_reading(self, client: Client) -> None:
        """Its socket fills up."""
        client.is_reading = False
        client.session.pause(1000, self.now)

    def start_reading(self, client: Client) -> None:
        client.is_reading = True
        client.session.resume()
        self.settle()

    def disconnect(self, client: Client) -> None:
        """The connection breaks."""
        self._drop(client, "disconnected")
        self.settle()

    def _serve_clients(self) -> bool:
        moved = False
        for client in self.clients:
            if not client.closed and (data := client.core.data_to_send()):
                self._feed(client, data)
                moved = True
        return moved

    def _feed(self, client: Client, data: bytes) -> None:
        try:
            client.session.receive_data(data, self.now)
        except SessionClosed as reason:
            self._drop(client, str(reason))

    def _deliver(self, session: Session) -> bool:
        client = self._client_of(session)
        data = session.take_output(self.now)
        if client.closed:
            return False
        client.events += client.core.receive_data(data, self.now)
        return bool(data)

    def _drop(self, client: Client, reason: str) -> None:
        client.closed = reason
        client.session.close()

    def _client_of(self, session: Session) -> Client:
        for client in self.clients:
            if client.session is session:
                return client
        # The session of a client that is just being made.
        raise AssertionError("no such client")
