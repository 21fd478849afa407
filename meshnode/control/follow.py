"""Following the map: one long poll after another, and a lite update whenever something here changed.

A poll is read-only to many coordinators, so each one is followed by an update that says everything once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from contextlib import aclosing
from typing import Protocol

import msgspec

from meshnode.control.backoff import Backoff
from meshnode.control.client import ControlClient
from meshnode.control.errors import ConnectionLost, ControlError, NodeUnknown
from meshnode.control.noise_stream import Entropy
from meshnode.netmap.session import IncompleteMap, MapSession, NetworkMap
from meshproto.messages import MapRequest, PingRequest

log = logging.getLogger(__name__)

MAX_PONGS = 4
"""Answers to pings that may be on their way at once; more are not answered."""


class MapObserver(Protocol):
    """Who wants to know. Called from the event loop; must not block."""

    def on_map(self, network_map: NetworkMap) -> None:
        """The map in force has changed, or the stream has begun anew."""

    def on_contact(self, failure: ControlError | None) -> None:
        """The stream is alive (None), or has broken and will be tried again."""


class MapFollower:
    """The map poll of one login, for as long as it is run."""

    def __init__(
        self,
        client: ControlClient,
        observer: MapObserver,
        *,
        describe: Callable[[], MapRequest],
        entropy: Entropy,
    ) -> None:
        """`describe` gives a request that says all about this node: keys, endpoints, hostinfo."""
        self._client = client
        self._observer = observer
        self._describe = describe
        self._entropy = entropy
        self._changed = asyncio.Event()
        self._pongs: set[asyncio.Task[None]] = set()
        self._last_ping_url = ""

    async def network_changed(self, hosts: Collection[str]) -> None:
        """This host's addresses are `hosts` now: connect again where that is needed, and tell them."""
        await self._client.forsake(hosts)
        self.report_change()

    def report_change(self) -> None:
        """What `describe` gives has changed: tell the coordinator soon."""
        self._changed.set()

    async def run(self) -> NodeUnknown:
        """Follow the map until the coordinator says that it does not know us; returns what it said."""
        updates = asyncio.create_task(self._send_updates(), name="control updates")
        try:
            return await self._poll_on_and_on()
        finally:
            tasks = [updates, *self._pongs]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll_on_and_on(self) -> NodeUnknown:
        backoff = Backoff(self._entropy)
        while True:
            try:
                await self._poll(backoff)
            except NodeUnknown as unknown:
                self._observer.on_contact(unknown)
                return unknown
            except ControlError as error:
                self._observer.on_contact(error)
                delay = error.retry_after or backoff.next_delay()
                log.debug("map poll ended, next in %.2f s: %s", delay, error)
                await asyncio.sleep(delay)

    async def _poll(self, backoff: Backoff) -> None:
        """One stream to its end, which is always an error. Deltas count from this stream's first message."""
        session = MapSession()
        request = msgspec.structs.replace(self._describe(), stream=True, keep_alive=True)
        async with aclosing(self._client.poll(request)) as stream:
            async for response in stream:
                if response.ping_request is not None:
                    self._answer_ping(response.ping_request)
                before = session.network_map
                try:
                    after = session.apply(response, time.time())
                except IncompleteMap as error:
                    raise ConnectionLost(str(error)) from error
                if after is not None and after is not before:
                    if before is None:
                        self._changed.set()  # what we said last may not have reached this coordinator
                    backoff.reset()
                    self._observer.on_contact(None)
                    self._observer.on_map(after)

    def _answer_ping(self, request: PingRequest) -> None:
        """Beside the stream. A URL that comes again was answered before (control protocol §9)."""
        if request.url == self._last_ping_url or len(self._pongs) >= MAX_PONGS:
            return
        self._last_ping_url = request.url
        pong = asyncio.create_task(self._client.answer_ping(request), name="answer ping")
        self._pongs.add(pong)
        pong.add_done_callback(self._pongs.discard)

    async def _send_updates(self) -> None:
        backoff = Backoff(self._entropy)
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._client.update(msgspec.structs.replace(self._describe(), omit_peers=True))
                backoff.reset()
            except ControlError as error:
                self._changed.set()
                delay = error.retry_after or backoff.next_delay()
                log.debug("update failed, next attempt in %.2f s: %s", delay, error)
                await asyncio.sleep(delay)
