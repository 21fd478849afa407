"""The node's relation to its coordinator over time: sign in, follow the map, sign in again when it must.

Two things may be going on at once: the login that is in force is being followed, and a new one is being
tried. The old one stays until the new one works, so that logging in again cuts nobody off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Protocol

from meshnode.control.backoff import Backoff
from meshnode.control.client import ControlClient
from meshnode.control.errors import ControlError
from meshnode.control.follow import MapFollower, MapObserver
from meshnode.control.login import Attempt, LoggedIn, logout_request, resume
from meshnode.control.noise_stream import Entropy
from meshnode.control.server_url import ServerURL
from meshnode.control.sign_in import sign_in
from meshproto.keys import NodePrivate
from meshproto.messages import Hostinfo, MapRequest

log = logging.getLogger(__name__)

LOGOUT_TIMEOUT_S = 15.0


class SessionHost(MapObserver, Protocol):
    """What the session needs of the node, and tells it. Called from the event loop; must not block."""

    def hostinfo(self) -> Hostinfo:
        """What the node says of itself."""

    def map_request(self, node_key: NodePrivate) -> MapRequest:
        """A request that says all about the node under this key."""

    def on_login_url(self, url: str) -> None:
        """A person must visit `url`; the login goes on by itself afterwards."""

    def on_logged_in(self, result: LoggedIn) -> None:
        """The coordinator has accepted this key. Raising StateError here ends the session."""

    def on_login_failed(self, error: ControlError) -> None:
        """A login that was tried once has failed, and nothing has changed."""

    def on_crash(self, error: BaseException) -> None:
        """A task of the session ended by a fault of ours."""


class ControlSession:
    """At most one login in force and one on trial."""

    def __init__(
        self, make_client: Callable[[ServerURL], ControlClient], host: SessionHost, entropy: Entropy
    ) -> None:
        self._make_client = make_client
        self._host = host
        self._entropy = entropy
        self._in_force: asyncio.Task[None] | None = None
        self._on_trial: asyncio.Task[None] | None = None
        self._follower: MapFollower | None = None

    async def resume(self, server: ServerURL, attempt: Attempt) -> None:
        """Use a login that was in force before. Failures are reported and tried again, for ever."""
        await self.stop()
        self._in_force = self._spawn(self._sign_in_and_follow(server, attempt), "control session")

    async def try_login(self, server: ServerURL, attempt: Attempt) -> None:
        """Try a login; the one in force stays until it works. Its first failure is its end."""
        await self._cancel(self._on_trial)
        self._on_trial = self._spawn(self._trial(server, attempt), "control login")

    def report_change(self) -> None:
        """What the host says of itself has changed."""
        if self._follower is not None:
            self._follower.report_change()

    async def network_changed(self, hosts: Collection[str]) -> None:
        """This host's addresses are `hosts` now."""
        if self._follower is not None:
            await self._follower.network_changed(hosts)

    async def logout(
        self, server: ServerURL, node_key: NodePrivate, old_node_key: NodePrivate | None
    ) -> None:
        """Expire the key at the coordinator. Raises ControlError when it could not be told."""
        client = self._make_client(server)
        try:
            async with asyncio.timeout(LOGOUT_TIMEOUT_S):
                response = await client.register(
                    logout_request(node_key, old_node_key, self._host.hostinfo())
                )
        except TimeoutError as error:
            raise ControlError(f"{server} did not answer within {LOGOUT_TIMEOUT_S:.0f} s") from error
        finally:
            await client.close()
        if response.error:
            raise ControlError(f"{server} refused the logout: {response.error}")

    async def stop(self) -> None:
        """End everything; the coordinator sees us offline."""
        await self._cancel(self._on_trial)
        await self._cancel(self._in_force)
        self._on_trial = self._in_force = None

    async def _trial(self, server: ServerURL, attempt: Attempt) -> None:
        client = self._make_client(server)
        try:
            result = await self._sign_in(client, attempt, on_failure=None)
        except ControlError as error:
            await client.close()
            self._on_trial = None
            self._host.on_login_failed(error)
            return
        except BaseException:
            await client.close()
            raise
        await self._cancel(self._in_force)
        self._on_trial = None
        self._in_force = self._spawn(self._follow_after(server, client, result), "control session")

    async def _sign_in_and_follow(self, server: ServerURL, attempt: Attempt) -> None:
        client = self._make_client(server)
        try:
            result = await self._sign_in(client, attempt, on_failure=self._host.on_contact)
        except BaseException:
            await client.close()
            raise
        await self._follow_after(server, client, result)

    async def _follow_after(self, server: ServerURL, client: ControlClient, result: LoggedIn) -> None:
        backoff = Backoff(self._entropy)
        try:
            while True:
                self._host.on_logged_in(result)
                await self._follow(client, result.node_key)
                await asyncio.sleep(
                    backoff.next_delay()
                )  # a coordinator may accept us and not know us, in turn
                log.info("the coordinator does not know this node any more; logging in again")
                again = resume(result.node_key, result.old_node_key)
                result = await self._sign_in(client, again, on_failure=self._host.on_contact)
        finally:
            await client.close()

    async def _follow(self, client: ControlClient, node_key: NodePrivate) -> None:
        self._follower = MapFollower(
            client, self._host, describe=lambda: self._host.map_request(node_key), entropy=self._entropy
        )
        try:
            await self._follower.run()
        finally:
            self._follower = None

    async def _sign_in(
        self, client: ControlClient, attempt: Attempt, on_failure: Callable[[ControlError], None] | None
    ) -> LoggedIn:
        return await sign_in(
            client,
            attempt,
            hostinfo=self._host.hostinfo,
            entropy=self._entropy,
            on_url=self._host.on_login_url,
            on_failure=on_failure,
        )

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._report_crash)
        return task

    def _report_crash(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._host.on_crash(error)

    async def _cancel(self, task: asyncio.Task[None] | None) -> None:
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
