"""Asks routers of contested routes whether they are well, and takes the route from those who are not.

A probe is a `PingRequest` in the map stream; the node answers with a HEAD of the URL in it, at the public
listener and outside the control connection (control-protocol §9). Each probe is sent twice within its time,
so that one lost answer moves no traffic.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from coordinator.errors import CoordinatorError
from coordinator.model import NodeID
from coordinator.poll import MapSessions
from coordinator.router_health import ProbeTimes, RouterHealth, contested
from coordinator.state import State

PATH = "/machine/ping-response"
ATTEMPTS = 2

logger = logging.getLogger(__name__)


class RouterProbes:
    """One round of probes after the other, inside the block of `running`."""

    def __init__(self, state: State, sessions: MapSessions, times: ProbeTimes) -> None:
        self._state = state
        self._sessions = sessions
        self._times = times
        self._health = RouterHealth()
        self._pending: dict[str, NodeID] = {}
        self._silent: set[NodeID] = set()
        self._all_answered = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        """Where nodes answer."""
        app.router.add_head(PATH, self.answer)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._run(), name="router probes")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def answer(self, request: web.Request) -> web.Response:
        """A node is well. The id is known to it alone, and good for one answer."""
        probe = request.query.get("id", "")
        if not probe:
            raise web.HTTPBadRequest(text="missing ping ID\n")
        node = self._pending.pop(probe, None)
        if node is None:
            raise web.HTTPNotFound(text="unknown or expired ping\n")
        self._silent.discard(node)
        if not self._silent:
            self._all_answered.set()
        return web.Response()

    async def _run(self) -> None:
        if not self._times.interval_s:
            return
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + self._times.interval_s, loop.time())
            await asyncio.sleep(due - loop.time())
            try:
                await self._round()
            except CoordinatorError as error:
                logger.warning("routers not probed", extra={"error": str(error)})

    async def _round(self) -> None:
        asked = self._sessions.numbers_of(contested(self._state.snapshot.primaries))
        self._health.begin(asked)
        if not asked:
            return
        self._silent = set(asked)
        self._all_answered.clear()
        for _ in range(ATTEMPTS):
            self._ask(self._silent)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._times.timeout_s / ATTEMPTS):
                    await self._all_answered.wait()
                    break
        self._pending.clear()
        answered = asked.keys() - self._silent
        await self._judge(self._health.end(answered, self._sessions.numbers_of(asked)))

    def _ask(self, nodes: Iterable[NodeID]) -> None:
        for node in nodes:
            probe = os.urandom(8).hex()
            self._pending[probe] = node
            self._sessions.ping(node, f"{PATH}?id={probe}")

    async def _judge(self, verdict: dict[NodeID, bool]) -> None:
        unhealthy = self._state.snapshot.primaries.unhealthy
        news = {node: is_well for node, is_well in verdict.items() if is_well == (node in unhealthy)}
        if not news:
            return
        for node, is_well in news.items():
            logger.warning(
                "router %s", "answers again" if is_well else "does not answer", extra={"node_id": node}
            )
        await self._state.set_router_health(news)
