"""A relay alone: its listeners, TLS, verification, mesh and figures, until it is told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from derp import metrics
from derp.admission import UrlVerifier
from derp.buckets import TokenBucket
from derp.certificates import BadCertificate, ServerTls
from derp.front import Front
from derp.http_parts import open_runner
from derp.keyfile import load_or_create
from derp.listen import ListenAddress, open_listeners
from derp.mesh import run_mesh
from derp.relay_node import RelayNode
from derp.server import RelayServer
from derp.server_core import Limits, ServerCore
from derp.web import add_routes, generate_204

HTTP_IDLE_S = 30.0
TLS_HANDSHAKE_TIMEOUT_S = 10.0
TLS_SHUTDOWN_TIMEOUT_S = 1.0
SHUTDOWN_GRACE_S = 1.0
RELOAD_CHECK_S = 3600.0
"""How often the certificate's file is looked at, which renewals replace without telling anyone."""

PAGE = """<!DOCTYPE html>
<title>DERP relay</title>
<p>This is a relay of a mesh VPN. It passes on packets that it cannot read, between machines that cannot reach
each other directly. There is nothing here for a browser.
"""
_SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_RATE_MEMBERS = ("PerClientRateLimitBytesPerSec", "PerClientRateBurstBytes")

logger = logging.getLogger(__name__)


class CannotStart(Exception):
    """The relay cannot run as configured; `str()` says why."""


@dataclass(frozen=True, slots=True)
class RelayConfig:
    """How a relay runs. Paths that are None are not used."""

    listen: Sequence[ListenAddress]
    key_file: Path
    certificate: Path | None = None
    certificate_key: Path | None = None
    plain_http: ListenAddress | None = None
    """Where to answer `/generate_204` in clear: port 80, for clients behind captive portals."""
    metrics: ListenAddress | None = None
    mesh_key: bytes | None = None
    mesh_with: Sequence[RelayNode] = ()
    verify_url: str = ""
    verify_fail_open: bool = True
    rate_file: Path | None = None
    accepts_per_second: float = 0.0
    accepts_burst: float = 0.0
    write_timeout_s: float = 10.0


def read_rate_file(path: Path, limits: Limits) -> Limits:
    """`limits` with the rates of the file, whose format is that of Tailscale's relay. Raises CannotStart."""
    try:
        members = json.loads(path.read_text())
        rate, burst = (float(members.get(name, 0)) for name in _RATE_MEMBERS)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CannotStart(f"cannot use the rate file {path}: {error}") from error
    if rate < 0 or burst < 0:
        raise CannotStart(f"cannot use the rate file {path}: a rate is negative")
    return replace(limits, bytes_per_second=rate, burst_bytes=burst)


class RelayApp:
    """See the module. Raises CannotStart, BadKeyFile or BadCertificate; `run` also CannotListen."""

    def __init__(self, config: RelayConfig) -> None:
        self._config = config
        self._key = load_or_create(config.key_file)
        self._limits = Limits(write_timeout_s=config.write_timeout_s)
        if config.rate_file is not None:
            self._limits = read_rate_file(config.rate_file, self._limits)
        self._tls: ServerTls | None = None
        if config.certificate is not None and config.certificate_key is not None:
            self._tls = ServerTls(
                config.certificate, config.certificate_key, self._key.public, datetime.now(UTC)
            )
        self._certificate_time = self._modified()
        self._servers: list[asyncio.Server] = []
        self._core = ServerCore(
            self._key,
            entropy=os.urandom,
            mesh_key=config.mesh_key,
            verifies_clients=bool(config.verify_url),
            limits=self._limits,
        )

    async def run(self, stopped: asyncio.Event, on_ready: Callable[[list[str]], None]) -> None:
        """Serve until `stopped`, then tell clients and close. `on_ready` hears where it listens."""
        async with AsyncExitStack() as stack:
            relay = await self._open_relay(stack)
            listening = await self._listen(relay, stack)
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(self._watch_certificate())]
                if self._config.mesh_with:
                    background.append(tasks.create_task(run_mesh(relay, self._config.mesh_with)))
                on_ready(listening)
                await stopped.wait()
                for server in self._servers:
                    server.close()
                await relay.close()
                for task in background:
                    task.cancel()

    def reload(self) -> None:
        """Read certificate and rates again. What cannot be read stays as it was, and is logged."""
        now = asyncio.get_running_loop().time()
        try:
            if self._config.rate_file is not None:
                self._limits = read_rate_file(self._config.rate_file, self._limits)
                self._core.set_limits(self._limits, now)
            self._reload_certificate()
        except (CannotStart, BadCertificate) as error:
            logger.error("reload: %s", error)
        else:
            logger.info("reloaded")

    async def _open_relay(self, stack: AsyncExitStack) -> RelayServer:
        verify = None
        if self._config.verify_url:
            verify = await stack.enter_async_context(
                UrlVerifier.open(self._config.verify_url, fail_open=self._config.verify_fail_open)
            )
        return await stack.enter_async_context(RelayServer.open(self._core, verify))

    async def _listen(self, relay: RelayServer, stack: AsyncExitStack) -> list[str]:
        config = self._config
        runner = await _open_runner(self._web_app(relay), stack)
        limit = None
        if config.accepts_per_second:
            burst = max(config.accepts_burst, config.accepts_per_second)
            limit = TokenBucket(config.accepts_per_second, burst, asyncio.get_running_loop().time())
        assert runner.server is not None
        front = Front(relay, runner.server, limit)
        listening = [name for address in config.listen for name in await self._serve(address, front, stack)]
        if config.plain_http is not None:
            where = await _serve_plainly(config.plain_http, _plain_app(), stack)
            logger.info("checks for captive portals on %s", where)
        if config.metrics is not None:
            logger.info("figures on %s", await _serve_plainly(config.metrics, self._metrics_app(), stack))
        return listening

    async def _serve(self, address: ListenAddress, front: Front, stack: AsyncExitStack) -> list[str]:
        loop = asyncio.get_running_loop()
        names = []
        for listener in open_listeners(address):
            server = await loop.create_server(
                front,
                sock=listener,
                ssl=self._tls.context if self._tls else None,
                ssl_handshake_timeout=TLS_HANDSHAKE_TIMEOUT_S if self._tls else None,
                ssl_shutdown_timeout=TLS_SHUTDOWN_TIMEOUT_S if self._tls else None,
            )
            stack.callback(server.close)
            self._servers.append(server)
            names.append(_name(listener))
        return names

    def _web_app(self, relay: RelayServer) -> web.Application:
        app = web.Application()
        app.on_response_prepare.append(_tidy_headers)
        add_routes(app, relay)
        app.router.add_get("/robots.txt", _robots)
        app.router.add_get("/", _page)
        return app

    def _metrics_app(self) -> web.Application:
        async def show(_request: web.Request) -> web.Response:
            return web.Response(
                body=metrics.render(self._core).encode(), headers={"Content-Type": metrics.CONTENT_TYPE}
            )

        app = web.Application()
        app.router.add_get("/metrics", show)
        return app

    async def _watch_certificate(self) -> None:
        while True:
            await asyncio.sleep(RELOAD_CHECK_S)
            if self._modified() != self._certificate_time:
                self.reload()

    def _reload_certificate(self) -> None:
        if self._tls is not None:
            self._tls.reload(datetime.now(UTC))
            self._certificate_time = self._modified()

    def _modified(self) -> float:
        try:
            return self._config.certificate.stat().st_mtime if self._config.certificate else 0.0
        except OSError:
            return 0.0


async def _open_runner(app: web.Application, stack: AsyncExitStack) -> web.AppRunner:
    return await open_runner(app, stack, idle_s=HTTP_IDLE_S, grace_s=SHUTDOWN_GRACE_S)


async def _serve_plainly(address: ListenAddress, app: web.Application, stack: AsyncExitStack) -> str:
    runner = await _open_runner(app, stack)
    listeners = open_listeners(address)
    for listener in listeners:
        await web.SockSite(runner, listener).start()
    return ", ".join(_name(listener) for listener in listeners)


def _name(listener: socket.socket) -> str:
    return str(ListenAddress(*listener.getsockname()[:2]))


def _plain_app() -> web.Application:
    app = web.Application()
    app.on_response_prepare.append(_tidy_headers)
    app.router.add_get("/generate_204", generate_204)
    app.router.add_get("/{path:.*}", _to_https)
    return app


async def _to_https(request: web.Request) -> web.Response:
    host = request.host.rpartition(":")[0] or request.host
    return web.Response(status=302, headers={"Location": f"https://{host}{request.rel_url}"})


async def _robots(_request: web.Request) -> web.Response:
    return web.Response(text="User-agent: *\nDisallow: /\n")


async def _page(_request: web.Request) -> web.Response:
    return web.Response(text=PAGE, content_type="text/html")


async def _tidy_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SECURITY_HEADERS)
    response.headers.popall("Server", None)  # it would name every library with its version
