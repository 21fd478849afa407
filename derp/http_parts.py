"""What the HTTP listeners of relays and coordinators have in common, beyond what aiohttp brings."""

from __future__ import annotations

from contextlib import AsyncExitStack

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter


async def open_runner(
    app: web.Application, stack: AsyncExitStack, *, idle_s: float, grace_s: float
) -> web.AppRunner:
    """A runner that serves `app` until `stack` closes.

    It ends connections that are without a request for `idle_s`, and in the end waits `grace_s` for requests
    under way.
    """
    runner = web.AppRunner(
        app, access_log=None, handle_signals=False, keepalive_timeout=idle_s, shutdown_timeout=grace_s
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    return runner


class Taken(web.StreamResponse):
    """Stands for an answer that was given on the connection itself: writes nothing and ends it."""

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self.force_close()
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None
