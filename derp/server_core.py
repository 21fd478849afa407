"""A relay without sockets (nat-traversal reference §1.4 to §1.8).

`ServerCore` is the relay; each connection, once its HTTP request has been answered, is a `Session`. The shell
gives a session what arrives on its connection, and calls its `handle_timeout` when `next_timeout` says. What
one session receives others must send: `take_ready` names those that have output, `take_closed` those that
must be closed.
"""

from __future__ import annotations

from dataclasses import dataclass

from derp import frames
from derp.counters import Counters
from derp.login import Entropy
from derp.outbox import QUEUE_PACKETS
from derp.registry import Registry
from derp.session import Arrival, Session
from meshproto.keys import NodePrivate, NodePublic

KEEP_ALIVE_S = 60.0
KEEP_ALIVE_BEHIND_PROXY_S = 25.0
"""Most proxies give a connection up after a minute of silence. Without one, phones need not wake so often."""
KEEP_ALIVE_JITTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a relay grants each client. A rate of 0 is no limit."""

    bytes_per_second: float = 0.0
    burst_bytes: float = 0.0
    queue_packets: int = QUEUE_PACKETS
    """Of each of the two queues of a client that does not read fast enough."""
    write_timeout_s: float = 10.0
    """How long a client for which something waits may take none of it."""


class ServerCore:
    """See the module."""

    def __init__(
        self,
        private_key: NodePrivate,
        *,
        entropy: Entropy,
        mesh_key: bytes | None = None,
        verifies_clients: bool = False,
        limits: Limits | None = None,
    ) -> None:
        """`mesh_key` is the secret of the relays of this region.

        With `verifies_clients`, the shell decides about each client (`Session.admission`).
        """
        self.private_key = private_key
        self.entropy = entropy
        self.mesh_key = mesh_key
        self.verifies_clients = verifies_clients
        self.limits = limits or Limits()
        self.counters = Counters()
        self.registry = Registry(self.counters)
        self.sessions: set[Session] = set()
        self._ready: list[Session] = []
        self._closed: list[Session] = []

    @property
    def public_key(self) -> NodePublic:
        return self.private_key.public

    def connect(self, arrival: Arrival, now: float) -> Session:
        """A session for a connection whose request has been answered. ServerKey is ready to be sent."""
        self.counters.accepts += 1
        keep_alive_s = KEEP_ALIVE_BEHIND_PROXY_S if arrival.behind_proxy else KEEP_ALIVE_S
        jitter = int.from_bytes(self.entropy(2), "big") / 0x10000
        session = Session(self, arrival, keep_alive_s + KEEP_ALIVE_JITTER_S * jitter, now)
        self.sessions.add(session)
        return session

    def set_limits(self, limits: Limits, now: float) -> None:
        """Rates bind every client, also those connected; the size of queues only new ones."""
        self.limits = limits
        for session in self.sessions:
            session.apply_limits(now)

    def announce_restart(self, reconnect_in_s: float, try_for_s: float) -> None:
        """Tell every client that the relay will be gone for a moment."""
        frame = frames.restarting(round(reconnect_in_s * 1000), round(try_for_s * 1000))
        for session in self.sessions:
            session.announce_restart(frame)

    def close_key(self, key: bytes) -> int:
        """Close every connection of a raw node key. Returns how many there are."""
        members = self.registry.connections_of(key)
        self._closed += [session for session in self.sessions if session.member in members]
        return len(members)

    def take_ready(self) -> list[Session]:
        """Sessions whose `take_output` has something to send, each once."""
        ready, self._ready = self._ready, []
        return ready

    def take_closed(self) -> list[Session]:
        """Sessions whose connections must be closed."""
        closed, self._closed = self._closed, []
        return closed

    def mark_ready(self, session: Session) -> None:
        """Called by a session."""
        self._ready.append(session)
