"""Map sessions: the long polls of nodes, and the delivery of changes to them.

`MapSessions` collects what changes, and tells all sessions together, more slowly the longer that takes. A
session holds one merged `Change` at most, however long its node does not read: memory is bounded and what
is sent is always the latest. Responses that are the same for many nodes are encoded once.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import Iterable
from datetime import UTC, datetime

from coordinator.changes import NOTHING, Change
from coordinator.errors import NotFound
from coordinator.mapper import Mapper
from coordinator.model import NodeID
from coordinator.noise_server import Exchange
from coordinator.state import State
from coordinator.store import Snapshot
from meshproto import codec
from meshproto.messages import MapResponse, PingRequest

KEEPALIVE_S = 50.0  # since the last message, plus up to KEEPALIVE_JITTER_S; clients give up after 120
KEEPALIVE_JITTER_S = 9.0
WRITE_TIMEOUT_S = 30.0  # for a node to take one message
MIN_TICK_S = 0.02  # from a change to its delivery, so that what belongs together travels together
MAX_TICK_S = 1.0
DELIVERY_SHARE = 0.25  # of the time may go into telling nodes about changes; the rest is for everything else
MAX_CHARGE_S = 0.005  # for telling one node: more than this was waiting, not work
MAX_BUILDING = 4  # full maps being made at a time
LARGE_MAP = 64 * 1024  # bytes of JSON from which compression leaves the event loop

logger = logging.getLogger(__name__)
_numbers = itertools.count(1)


class MapSession:
    """One streaming poll: its node knows `told`, and `target` may differ from that where `change` says."""

    def __init__(self, node_id: NodeID, told: Snapshot, reached_at: str) -> None:
        self.node_id = node_id
        self.reached_at = reached_at
        self.told = told
        self.target = told
        self.change = NOTHING
        self.replaced = False
        self.number = next(_numbers)
        self.ping: PingRequest | None = None
        self._woken = asyncio.Event()

    def offer(self, target: Snapshot, change: Change) -> None:
        """There is something to tell."""
        self.target = target
        self.change = self.change.merge(change) if self.change else change
        self._woken.set()

    def ask(self, ping: PingRequest) -> None:
        """The node is to answer `ping`, in place of one that was not sent yet."""
        self.ping = ping
        self._woken.set()

    def replace(self) -> None:
        """A newer poll of the node takes over."""
        self.replaced = True
        self._woken.set()

    async def wait(self, timeout_s: float) -> bool:
        """Wait until woken; False when nothing happened for `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True


class MapSessions:
    """All map sessions, by node: a newer poll of a node replaces the older one."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._mapper = Mapper()
        self._sessions: dict[NodeID, MapSession] = {}
        self._building = asyncio.Semaphore(MAX_BUILDING)
        self._frames: dict[tuple[int, bool], tuple[MapResponse, bytes]] = {}
        self._change = NOTHING
        self._tick: asyncio.TimerHandle | None = None
        self._delivered_at = 0.0
        self._spent_s = 0.0
        self._unsubscribe = state.subscribe(self._on_change)

    def close(self) -> None:
        """Stop delivering."""
        self._unsubscribe()
        if self._tick is not None:
            self._tick.cancel()

    def numbers_of(self, nodes: Iterable[NodeID]) -> dict[NodeID, int]:
        """The number of the current session of each of `nodes` that has one; no two sessions share one."""
        return {node: self._sessions[node].number for node in nodes if node in self._sessions}

    def ping(self, node_id: NodeID, target: str) -> None:
        """Ask the node, if it polls, for a HEAD of `target`, a path and query of ours."""
        session = self._sessions.get(node_id)
        if session is None:
            return
        base = self._state.snapshot.settings.server_url or session.reached_at
        if base:
            session.ask(PingRequest(url=base + target))

    async def stream(self, exchange: Exchange, node_id: NodeID, compress: bool, reached_at: str) -> None:
        """Answer a streaming poll: the full map, then changes and keep-alives until either side ends it.

        `reached_at` is the URL at which the node reached us.
        """
        session: MapSession | None = None
        try:
            await self._state.connect(node_id)
            async with self._building:
                session = self._enter(node_id, reached_at)
                frame = await self._full_frame(session.told, node_id, compress, reached_at)
            exchange.start(200, "application/json")
            await self._write(exchange, session, frame)
            del frame  # large, and a poll lasts: what lives with a session has to be small
            while await self._tell_next(exchange, session, compress):
                pass
            exchange.finish()
        finally:
            if session is not None and self._sessions.get(node_id) is session:
                del self._sessions[node_id]
            self._state.disconnect(node_id)

    async def once(self, node_id: NodeID, compress: bool, reached_at: str) -> bytes:
        """The full map as one framed message."""
        async with self._building:
            return await self._full_frame(self._state.snapshot, node_id, compress, reached_at)

    def _enter(self, node_id: NodeID, reached_at: str) -> MapSession:
        """A session that is told of changes from now on, in place of an older one of the node."""
        session = MapSession(node_id, self._state.snapshot, reached_at)
        if node_id not in session.told.nodes:
            raise NotFound("node not found")
        older = self._sessions.get(node_id)
        self._sessions[node_id] = session
        if older is not None:
            older.replace()
        return session

    async def _full_frame(
        self, snapshot: Snapshot, node_id: NodeID, compress: bool, reached_at: str
    ) -> bytes:
        json = codec.encode(self._mapper.full(snapshot, node_id, _wall(), reached_at))
        if len(json) < LARGE_MAP:
            return codec.frame_map_response(json, compress)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, codec.frame_map_response, json, compress)

    async def _tell_next(self, exchange: Exchange, session: MapSession, compress: bool) -> bool:
        """Tell the next change, or keep the poll alive; whether it goes on."""
        if session.node_id not in session.told.nodes:
            return False
        # Spread, so that nodes who connected together do not stay in step for ever.
        has_news = await session.wait(KEEPALIVE_S + random.uniform(0, KEEPALIVE_JITTER_S))
        if session.replaced:
            return False
        started = time.perf_counter()
        for frame in self._next_frames(session, compress) if has_news else [_KEEPALIVE[compress]]:
            await self._write(exchange, session, frame)
        self._spent_s += min(time.perf_counter() - started, MAX_CHARGE_S)
        return True

    def _next_frames(self, session: MapSession, compress: bool) -> list[bytes]:
        frames = []
        ping, session.ping = session.ping, None
        if ping is not None:
            # Beside a keep-alive clients answer it without looking at their map again.
            response = MapResponse(keep_alive=True, ping_request=ping)
            frames.append(codec.frame_map_response(codec.encode(response), compress))
        frame = self._next_frame(session, compress) if session.change else None
        return frames if frame is None else [*frames, frame]

    def _next_frame(self, session: MapSession, compress: bool) -> bytes | None:
        """The message that brings the session up to its target; None when it would say nothing."""
        told, target, change = session.told, session.target, session.change
        session.told, session.change = target, NOTHING
        if session.node_id not in target.nodes:
            return self._frame(self._mapper.farewell(told, session.node_id, _wall()), compress)
        response = self._mapper.delta(told, target, change, session.node_id, _wall(), session.reached_at)
        return None if response is None else self._frame(response, compress)

    def _frame(self, response: MapResponse, compress: bool) -> bytes:
        key = (id(response), compress)
        if key not in self._frames:
            # The response is kept with its frame, lest another one get the same id.
            self._frames[key] = response, codec.frame_map_response(codec.encode(response), compress)
        return self._frames[key][1]

    async def _write(self, exchange: Exchange, session: MapSession, frame: bytes) -> None:
        try:
            async with asyncio.timeout(WRITE_TIMEOUT_S):
                await exchange.write(frame)
        except TimeoutError:
            logger.warning("map session dropped: the node does not read", extra={"node_id": session.node_id})
            exchange.abort()
            raise

    def _on_change(self, _snapshot: Snapshot, change: Change) -> None:
        self._change = self._change.merge(change)
        if self._tick is None:
            self._tick = asyncio.get_running_loop().call_later(MIN_TICK_S, self._deliver)

    def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        # What the last round cost decides how soon after it the next one may come.
        due = self._delivered_at + min(MAX_TICK_S, self._spent_s / DELIVERY_SHARE)
        if loop.time() < due:
            self._tick = loop.call_at(due, self._deliver)
            return
        self._tick = None
        self._delivered_at = loop.time()
        self._spent_s = 0.0
        change, self._change = self._change, NOTHING
        self._frames.clear()
        snapshot = self._state.snapshot
        for session in self._sessions.values():
            session.offer(snapshot, change)


def _wall() -> datetime:
    return datetime.now(UTC)


_KEEPALIVE = {
    compress: codec.frame_map_response(codec.encode(MapResponse(keep_alive=True)), compress)
    for compress in (False, True)
}
