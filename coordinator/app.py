"""Composition: the coordinator as one running program."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from aiohttp import web

from coordinator import __version__, api, files, http, keyfile, logs, names
from coordinator.acceptor import Acceptor
from coordinator.api import debug
from coordinator.config import Config
from coordinator.db import check_sqlite, open_sqlite
from coordinator.derp_map import Relays
from coordinator.derp_sources import DerpSources
from coordinator.dns_records import ExtraRecords
from coordinator.errors import StartupError
from coordinator.machine_api import MachineApi
from coordinator.noise_server import NoiseServer
from coordinator.poll import MapSessions
from coordinator.probes import RouterProbes
from coordinator.relay import EmbeddedRelay, with_embedded
from coordinator.settings import NetworkSettings
from coordinator.state import State, Timings
from coordinator.stun_servers import StunServers
from derp.http_parts import open_runner
from derp.listen import CannotListen, open_listeners
from meshproto.keys import MachinePrivate, NodePrivate

HTTP_IDLE_S = 75.0  # for a plain HTTP connection without a request
SHUTDOWN_GRACE_S = 3.0  # for requests under way

logger = logging.getLogger(__name__)


def check(config: Config) -> None:
    """Look at what `serve` would use, changing nothing. Raises StartupError."""
    for key in (keyfile.noise_key(config.private_key_file), keyfile.relay_key(config.relay_private_key_file)):
        if key.path.exists():
            key.read()
    DerpSources(config.relay, config.state_dir)
    _extra_records(config)
    check_sqlite(config.database_file)


def serve(config: Config, ready: Callable[[str], None] = print) -> None:
    """Run until SIGINT or SIGTERM. `ready` gets the lines to show once it runs. Raises StartupError."""
    logs.set_up(config.log_level, config.log_format)
    for warning in config.warnings:
        logger.warning(warning)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config, ready))


async def _serve(config: Config, ready: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, logger.info, "SIGHUP: nothing to reload")
    async with running(config) as coordinator:
        for line in coordinator.greeting():
            ready(line)
        sys.stdout.flush()
        await stop.wait()
        logger.info("shutting down")


class Coordinator:
    """The parts of a running coordinator that its owner may want to look at."""

    def __init__(
        self, config: Config, state: State, listeners: list[socket.socket], stun: StunServers | None
    ) -> None:
        self.config = config
        self.state = state
        self._listeners = listeners
        self._stun_ports = [] if stun is None else stun.ports

    @property
    def port(self) -> int:
        """The public listener's port, also when the configuration left it open (0)."""
        port: int = self._listeners[0].getsockname()[1]
        return port

    def greeting(self) -> list[str]:
        """Where it listens, and what to do next."""
        address = self.config.listen_addr
        host = "every address" if address.is_any else address.host
        ports = [f"port {self.port}", *(f"UDP {port} for STUN" for port in self._stun_ports)]
        lines = [
            f"coordinator {__version__} listens on {host}, {', '.join(ports)}; "
            f"admin socket {self.config.unix_socket}"
        ]
        snapshot = self.state.snapshot
        if not snapshot.users:
            lines.append("There are no users yet. Next:")
            lines.append("  coordinator users create NAME")
        if not snapshot.nodes:
            if snapshot.users:
                lines.append("There are no nodes yet. Next:")
            url = self.config.server_url or f"http://ADDRESS:{self.port}"
            lines.append("  coordinator preauthkeys create --user NAME")
            lines.append(f"  meshnode up --login-server {url} --authkey KEY     (on each machine)")
        return lines


@dataclass(frozen=True, slots=True)
class _Claimed:
    """What a coordinator has for itself alone while it runs, and what it read from its files."""

    listeners: list[socket.socket]
    stun: StunServers | None
    unix_socket: socket.socket
    private_key: MachinePrivate
    relay_key: NodePrivate | None
    sources: DerpSources
    extra_records: ExtraRecords | None

    def network(self, config: Config) -> NetworkSettings:
        """What maps are made with."""
        relays = Relays(others=self.sources.derp_map)
        if self.relay_key is not None and self.stun is not None:
            relays = with_embedded(relays, config, self.relay_key, self.stun)
        network = replace(config.network, relays=relays)
        if self.extra_records is None:
            return network
        return replace(network, dns=replace(network.dns, extra_records=self.extra_records.records))


def _claim(config: Config, stack: AsyncExitStack) -> _Claimed:
    """Bind, read and lock, so that what is wrong shows before anything runs. Raises StartupError."""
    listeners = _listen(config)
    for listener in listeners:
        stack.callback(listener.close)
    stun = relay_key = None
    if config.relay.is_enabled:
        stun = StunServers.open(config.relay)
        stack.callback(stun.close)
    files.make_state_directory(config.state_dir)
    private_key = keyfile.noise_key(config.private_key_file).load_or_create()
    if config.relay.is_enabled:
        relay_key = keyfile.relay_key(config.relay_private_key_file).load_or_create()
    sources = DerpSources(config.relay, config.state_dir)
    extra_records = _extra_records(config)
    stack.enter_context(files.locked(config.database_file))
    unix_socket = stack.enter_context(files.admin_socket(config.unix_socket, config.unix_socket_permission))
    return _Claimed(listeners, stun, unix_socket, private_key, relay_key, sources, extra_records)


def _extra_records(config: Config) -> ExtraRecords | None:
    path = config.dns.extra_records_path
    return None if path is None else ExtraRecords(path)


def _listen(config: Config) -> list[socket.socket]:
    try:
        return open_listeners(config.listen_addr)
    except CannotListen as error:
        raise StartupError(f"listen_addr {error}") from error


@asynccontextmanager
async def running(config: Config, timings: Timings | None = None) -> AsyncIterator[Coordinator]:
    """The whole coordinator, serving until the block ends. Raises StartupError."""
    timings = timings or Timings(ephemeral_timeout_s=config.ephemeral_inactivity_timeout.total_seconds())
    async with AsyncExitStack() as stack:
        claimed = _claim(config, stack)
        database = await open_sqlite(config.database_file)
        stack.push_async_callback(database.close)
        state = await stack.enter_async_context(State.open(database, claimed.network(config), timings))
        _warn_of_long_names(state)
        await stack.enter_async_context(claimed.sources.kept_up_to_date(state.set_other_relays))
        if claimed.extra_records is not None:
            await stack.enter_async_context(claimed.extra_records.kept_up_to_date(state.set_extra_records))
        relay = None
        if claimed.relay_key is not None and claimed.stun is not None:
            relay = await stack.enter_async_context(
                EmbeddedRelay.open(config, claimed.relay_key, state, claimed.stun.responder)
            )
        sessions = MapSessions(state)
        stack.callback(sessions.close)
        machine_api = MachineApi(state, sessions)
        noise_server = await stack.enter_async_context(NoiseServer.open(machine_api.handle))
        admin_app = api.create_app(state)
        app = http.create_app(state, noise_server, claimed.private_key)
        debug.add_to(admin_app, state)
        probes = RouterProbes(state, sessions, config.probes)
        probes.add_to(app)
        await stack.enter_async_context(probes.running())
        if relay is not None:
            admin_app.router.add_get("/metrics", relay.show_figures)
            relay.add_to(app)
        admin = await _open_runner(admin_app, stack)
        await web.SockSite(admin, claimed.unix_socket).start()
        public = _accept(await _open_runner(app, stack), claimed.listeners, relay)
        stack.callback(public.close)
        yield Coordinator(config, state, claimed.listeners, claimed.stun)
        # Machines first, and none may come back: polls would hold up the public listener for the whole grace.
        public.close()
        await asyncio.gather(noise_server.close(), *([relay.server.close()] if relay is not None else []))


async def _open_runner(app: web.Application, stack: AsyncExitStack) -> web.AppRunner:
    return await open_runner(app, stack, idle_s=HTTP_IDLE_S, grace_s=SHUTDOWN_GRACE_S)


def _accept(runner: web.AppRunner, listeners: list[socket.socket], relay: EmbeddedRelay | None) -> Acceptor:
    assert runner.server is not None
    if relay is None:
        return Acceptor(listeners, runner.server)
    return Acceptor(listeners, relay.front(runner.server), relay.tls)


def _warn_of_long_names(state: State) -> None:
    snapshot = state.snapshot
    for node in snapshot.nodes.values():
        if names.fqdn(node.given_name, snapshot.settings.base_domain) is None:
            logger.warning(
                f"node {node.id} is in no map: its name is too long; run: "
                f"coordinator nodes rename --identifier {node.id} NAME"
            )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
