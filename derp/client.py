"""A client that stays connected to one region: dials its relays, and again whenever the connection is lost.

Packets may be sent at any time. While there is no connection the newest few wait for the next one.

A relay that does not answer any more is noticed within QUIET_S + STALLED_S (see `liveness`) while we send.
Another relay of the region is tried first then, if there is one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from derp.client_connection import ClientConnection
from derp.client_core import ClientCore, Connected, Event, PongReceived, Restarting
from derp.dial import DialOptions, dial
from derp.errors import CannotConnect
from derp.frames import PING_SIZE
from derp.login import ClientInfo
from derp.relay_node import RelayNode
from meshproto.keys import NodePrivate, NodePublic

CONNECT_TIMEOUT_S = 10.0
"""For resolving names, TCP, TLS and login together, of all relays of the region."""
NODE_TIMEOUT_S = 1.5
"""For one relay of a region to answer in TCP and TLS, when there are others to try."""
NODE_LOGIN_TIMEOUT_S = 3.0
"""For the same relay to accept the login after that; it may have to ask a coordinator first."""
BACKOFF_STEP_S = 0.15
"""Each failure in a row waits so much longer: a relay that restarts is found again within a second or two."""
MAX_BACKOFF_S = 3.0
"""While nobody wants to send: others who want to reach us are waiting too."""
WANTED_BACKOFF_S = 0.6
"""While packets wait."""
MAX_RESTART_S = 5.0
"""However long a relay says that its restart takes."""
SETTLED_S = 10.0
"""A connection that lasted so long was a good one: the next attempt follows soon."""
PING_TIMEOUT_S = 3.0
WAITING_PACKETS = 32
"""While there is no connection: the first ones of a conversation, not a stream."""
WEBSOCKET_AFTER = frozenset({400, 403, 426, 501})
"""HTTP statuses with which something on the way refuses an upgrade to DERP, or with which a relay says that
none was asked for, because a proxy took the request's `Upgrade` out. A WebSocket may pass there. Any other
status comes from a server that is no relay, or from a proxy whose relay is down."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Disconnected:
    """There is no connection, `reason` says why; another attempt follows."""

    reason: str


ClientEvent = Event | Disconnected
OnEvent = Callable[[ClientEvent], None]


class RelayClient:
    """See the module. `run` does the work; everything else may be called at any time."""

    def __init__(
        self,
        private_key: NodePrivate,
        nodes: Sequence[RelayNode],
        on_event: OnEvent,
        *,
        options: DialOptions | None = None,
        info: ClientInfo | None = None,
        watches: bool = False,
    ) -> None:
        """`nodes` are the relays of the region, in the order of preference.

        `on_event` is called for each event, in the event loop. `watches`: subscribe to who is connected, as
        relays of one region do.
        """
        if not nodes:
            raise ValueError("a region needs a relay")
        self._private_key = private_key
        self._nodes = tuple(nodes)
        self._on_event = on_event
        self._options = options or DialOptions()
        self._info = info
        self._watches = watches
        self._is_home: bool | None = None
        self._connection: ClientConnection | None = None
        self._core: ClientCore | None = None
        self._waiting: deque[tuple[NodePublic, bytes]] = deque(maxlen=WAITING_PACKETS)
        self._pings: dict[bytes, asyncio.Future[float]] = {}
        self._connected_at: float | None = None
        self._restart: Restarting | None = None
        self._failures = 0
        self._first = 0
        """The index of the relay to try first: others than the first when that one fell silent."""
        self._over_websocket: set[RelayNode] = set()
        """Relays that were reached that way."""
        self._heard_at: float | None = None
        self._try_now = asyncio.Event()
        self._attempt: asyncio.Timeout | None = None
        self._pause: asyncio.Timeout | None = None

    @property
    def is_connected(self) -> bool:
        """Whether a relay has accepted our login."""
        return self._core is not None and self._core.is_connected

    @property
    def heard_at(self) -> float | None:
        """When something came from a relay, in the event loop's time; None before that."""
        return self._core.heard_at if self.is_connected and self._core is not None else self._heard_at

    @property
    def local_address(self) -> tuple[str, int, *tuple[int, ...]] | None:
        """The address of ours that the connection is made from, if there is one."""
        return None if self._connection is None else self._connection.local_address

    async def run(self) -> None:
        """Connect, and reconnect, until cancelled."""
        try:
            while True:
                reason = await self._connect_and_stay()
                logger.debug("relay connection: %s", reason)
                self._on_event(Disconnected(reason))
                await self._wait()
        finally:
            self.reconnect("closed by us")

    def send_packet(self, destination: NodePublic, packet: bytes) -> None:
        """Relay a packet. When it cannot be sent as fast as it comes, the oldest ones are dropped."""
        self.send_packets(destination, (packet,))

    def send_packets(self, destination: NodePublic, packets: Sequence[bytes | memoryview]) -> None:
        """The same for packets of one kind and of one length; the last may be shorter. They are copied."""
        if self._core is None or self._connection is None or not self._core.is_connected:
            self._waiting += [(destination, bytes(packet)) for packet in packets]
            self._hurry()
        else:
            self._core.send_packets(destination, packets, self._connection.loop.time())
            self._connection.flush()

    def forward_packets(self, source: bytes, destination: bytes, packets: Sequence[bytes]) -> None:
        """As one relay of a region to another; dropped when there is no connection."""
        if self._core is not None and self._connection is not None:
            self._core.forward_packets(source, destination, packets, self._connection.loop.time())
            self._connection.flush()

    def close_peer(self, key: NodePublic) -> None:
        """As one relay of a region to another."""
        if self._core is not None and self._connection is not None:
            self._core.close_peer(key)
            self._connection.flush()

    def note_preferred(self, is_home: bool) -> None:
        """Say, on this connection and those that follow, whether we can be found here."""
        self._is_home = is_home
        if self._core is not None and self._connection is not None:
            self._core.note_preferred(is_home)
            self._connection.flush()

    async def ping(self, timeout_s: float = PING_TIMEOUT_S) -> float:
        """The round trip to the relay, in seconds. Raises CannotConnect when there is no answer."""
        if self._connection is None or self._core is None or not self._core.is_connected:
            raise CannotConnect("not connected to a relay")
        data = os.urandom(PING_SIZE)
        answered: asyncio.Future[float] = self._connection.loop.create_future()
        self._pings[data] = answered
        self._core.ping(data)
        self._connection.flush()
        sent_at = perf_counter()  # the event loop's clock may stand still for a millisecond
        try:
            return await asyncio.wait_for(answered, timeout_s) - sent_at
        except TimeoutError as error:
            raise CannotConnect(f"no answer to a ping within {timeout_s:g} s") from error
        finally:
            del self._pings[data]

    def doubt(self) -> None:
        """Make sure that the relay is still there, and connect again soon if it is not."""
        if self._connection is not None:
            self._connection.doubt()

    def reconnect(self, reason: str) -> None:
        """Drop the connection, if there is one, and connect again at once: the network has changed."""
        self._failures = 0
        self._over_websocket.clear()
        self._try_now.set()
        if self._attempt is not None and not self._attempt.expired():
            self._attempt.reschedule(asyncio.get_running_loop().time())
        elif self._connection is not None:
            self._connection.end(reason)

    # Inside.

    async def _connect_and_stay(self) -> str:
        """Why there is no connection, or none any more."""
        self._try_now.clear()
        self._restart = None
        self._connected_at = None
        connection = None
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S) as self._attempt:
                connection = await self._connect()
            self._attempt = None
            reason = f"{connection.node} {await connection.closed}"
            self._first = (self._first + 1) % len(self._nodes) if connection.fell_silent else 0
            if connection.fell_silent:  # which took its time, and is no reason to wait longer
                self._try_now.set()
        except TimeoutError:
            if self._try_now.is_set():
                reason = "the attempt was broken off to begin another"
            else:
                reason = f"{self._nodes[0]} does not answer within {CONNECT_TIMEOUT_S:.0f} s"
        except CannotConnect as error:
            reason = str(error)
        finally:
            self._attempt = None
            self._leave(connection)
        return reason

    async def _connect(self) -> ClientConnection:
        """A connection to the first relay that lets us in."""
        count = len(self._nodes)
        for number in range(count):
            index = (self._first + number) % count
            try:
                connection = await self._log_in(self._nodes[index], is_last=number == count - 1)
            except (CannotConnect, TimeoutError) as error:
                if number == count - 1:
                    raise
                logger.debug("relay %s: %s; trying the next", self._nodes[index], error or "does not answer")
            else:
                self._first = index
                return connection
        raise AssertionError("unreachable")

    async def _log_in(self, node: RelayNode, *, is_last: bool) -> ClientConnection:
        """Raises CannotConnect or TimeoutError."""
        if node not in self._over_websocket:
            connection = await self._ask(node, is_last=is_last, over_websocket=False)
            if connection.connected.done():
                return connection
            if connection.refused_with not in WEBSOCKET_AFTER:
                raise CannotConnect(f"{node} {connection.closed.result()}")
        connection = await self._ask(node, is_last=is_last, over_websocket=True)
        if not connection.connected.done():
            self._over_websocket.discard(node)
            raise CannotConnect(f"{node} {connection.closed.result()}")
        self._over_websocket.add(node)
        return connection

    async def _ask(self, node: RelayNode, *, is_last: bool, over_websocket: bool) -> ClientConnection:
        """A connection on which the login has been accepted, or which is closed."""
        async with asyncio.timeout(None if is_last else NODE_TIMEOUT_S):
            connection = await dial(node, self._options, lambda: self._protocol(node))
        try:
            ideal_node = "" if node is self._nodes[0] else self._nodes[0].name
            self._start(connection, ideal_node, over_websocket=over_websocket)
            ended: set[asyncio.Future[str] | asyncio.Future[None]] = {connection.closed, connection.connected}
            async with asyncio.timeout(None if is_last else NODE_LOGIN_TIMEOUT_S):
                await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            self._leave(connection)
            raise
        if not connection.connected.done():
            self._leave(connection)
        return connection

    def _leave(self, connection: ClientConnection | None) -> None:
        if self._core is not None:
            self._heard_at = self._core.heard_at
        self._connection = self._core = None
        self._fail_pings()
        if connection is not None:
            connection.end("closed by us")

    def _protocol(self, node: RelayNode) -> ClientConnection:
        return ClientConnection(node, self._make_core, self._handle)

    def _make_core(self, server: NodePublic | None, now: float) -> ClientCore:
        return ClientCore(self._private_key, now, entropy=os.urandom, server=server, info=self._info)

    def _start(self, connection: ClientConnection, ideal_node: str, *, over_websocket: bool) -> None:
        core = connection.begin(ideal_node, over_websocket=over_websocket)
        self._connection, self._core = connection, core
        if self._is_home is not None:
            core.note_preferred(self._is_home)
        if self._watches:
            core.watch_connections()

    def _handle(self, event: Event) -> None:
        match event:
            case Connected():
                self._connected_at = asyncio.get_running_loop().time()
                self._send_waiting(self._connected_at)
            case PongReceived(data):
                answered = self._pings.get(data)
                if answered is not None and not answered.done():
                    answered.set_result(perf_counter())
                return
            case Restarting():
                self._restart = event
        self._on_event(event)

    def _send_waiting(self, now: float) -> None:
        assert self._core is not None
        while self._waiting:
            destination, packet = self._waiting.popleft()
            self._core.send_packets(destination, (packet,), now)

    def _fail_pings(self) -> None:
        for answered in self._pings.values():
            if not answered.done():
                answered.set_exception(CannotConnect("the connection was lost"))

    async def _wait(self) -> None:
        """Until the next attempt. All clients of a relay that is gone come back apart."""
        loop = asyncio.get_running_loop()
        lasted = self._connected_at is not None and loop.time() - self._connected_at >= SETTLED_S
        self._failures = 1 if lasted else self._failures + 1
        delay = min(BACKOFF_STEP_S * self._failures, MAX_BACKOFF_S)
        if self._restart is not None:
            delay = min(max(delay, self._restart.reconnect_in_s), MAX_RESTART_S)
        spread = 0.5 + int.from_bytes(os.urandom(2), "big") / 0x10000
        try:
            async with asyncio.timeout(delay * spread) as self._pause:
                if self._waiting:
                    self._hurry()
                await self._try_now.wait()
        except TimeoutError:
            pass
        finally:
            self._pause = None

    def _hurry(self) -> None:
        """There is something to send: do not wait long for the next attempt."""
        if self._pause is not None and not self._pause.expired():
            soon = asyncio.get_running_loop().time() + WANTED_BACKOFF_S
            when = self._pause.when()
            if when is not None and when > soon:
                self._pause.reschedule(soon)
