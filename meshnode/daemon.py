"""The daemon: puts the parts together, runs until it is told to end, and leaves the host as it found it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from meshnode import __version__
from meshnode.backend import Backend
from meshnode.config import DaemonConfig
from meshnode.control.client import ControlClient
from meshnode.control.server_url import ServerURL
from meshnode.diagnostics import Diagnostics
from meshnode.linux.cleanup import clean_up
from meshnode.linux.errors import RouterError
from meshnode.linux_tunnel import LinuxTunnel, mark_socket
from meshnode.localapi import LocalAPI, SocketTaken, bind_socket, unbind
from meshnode.state import State, StateDir, StateError
from meshnode.tsmp import Tsmp
from meshnode.tunnel import TunnelError
from meshproto.keys import MachinePrivate, NodePrivate

log = logging.getLogger(__name__)

MAX_OPEN_FILES = 8192
CAP_NET_ADMIN = 12
"""Bit of the capability that all of our work on the host's network needs (capabilities(7))."""


class CannotGoOn(Exception):
    """The daemon cannot run here, or not any more. `str()` is one line for a person, with the fix."""


def run_daemon(config: DaemonConfig) -> None:
    """Run until SIGTERM, SIGINT, SIGHUP or a request to shut down.

    Raises CannotGoOn, at the start before anything is changed.
    """
    _set_up_logging(config.verbose)
    _check_privileges()
    _allow_many_sockets()
    _spare_the_collector()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(config))


def _spare_the_collector() -> None:
    """Modules and classes stay for good: a look at all of them in search of garbage would hold up packets."""
    gc.collect()
    gc.freeze()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's event loop where it is installed: cheaper per packet than the standard one."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def run_cleanup(config: DaemonConfig) -> tuple[str, ...]:
    """Undo what a crashed daemon left, and return what that was. Raises CannotGoOn."""
    _set_up_logging(config.verbose)
    _check_privileges()
    store = _open_state_dir(config.state_dir)
    try:
        return asyncio.run(_clean_up(config))
    finally:
        store.close()


async def _serve(config: DaemonConfig) -> None:
    store = _open_state_dir(config.state_dir)
    try:
        state = _load_or_create_state(store)
        listener = _bind(config.socket)
        try:
            await _serve_on(config, store, state, listener)
        finally:
            listener.close()
            unbind(config.socket)
    finally:
        store.close()


async def _serve_on(config: DaemonConfig, store: StateDir, state: State, listener: socket.socket) -> None:
    ending = _Ending()
    await _clean_up(config)
    tunnel = await _open_tunnel(config, state, ending)
    backend = Backend(
        store,
        state,
        tunnel,
        make_client=_client_factory(state.machine_key),
        entropy=os.urandom,
        on_crash=ending.crash,
    )
    tsmp = Tsmp(config.tun, os.urandom)
    api = LocalAPI(backend, Diagnostics(backend, tunnel, tsmp, config.tun), shut_down=ending.set)
    try:
        tsmp.open()
        await backend.open()
        await api.serve(listener, config.socket)
        log.info("meshnode %s runs: interface %s, state %s", __version__, config.tun, config.state_dir)
        await ending.wait()
    finally:
        backend.bus.close()
        await api.close()
        tsmp.close()
        await backend.close()
    log.info("meshnode has ended")


class _Ending:
    """Why and when the daemon ends."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._crash: BaseException | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.set)

    def set(self) -> None:
        self._event.set()

    def crash(self, error: BaseException) -> None:
        """A task has failed that must not: end in good order, and say so."""
        self._crash = self._crash or error
        self._event.set()

    async def wait(self) -> None:
        """Return when the daemon is to end. Raises what crashed."""
        await self._event.wait()
        if isinstance(self._crash, StateError):
            raise CannotGoOn(str(self._crash)) from self._crash
        if self._crash is not None:
            raise self._crash


def _client_factory(machine_key: MachinePrivate) -> Callable[[ServerURL], ControlClient]:
    return lambda server: ControlClient(server, machine_key, mark=mark_socket, entropy=os.urandom)


def _open_state_dir(path: Path) -> StateDir:
    try:
        return StateDir(path)
    except StateError as error:
        raise CannotGoOn(str(error)) from error


def _load_or_create_state(store: StateDir) -> State:
    try:
        state = store.load()
        if state is None:
            state = State(machine_key=MachinePrivate.generate(os.urandom))
            store.save(state)
    except StateError as error:
        raise CannotGoOn(str(error)) from error
    return state


def _bind(path: Path) -> socket.socket:
    try:
        return bind_socket(path)
    except SocketTaken as error:
        raise CannotGoOn(str(error)) from error


async def _clean_up(config: DaemonConfig) -> tuple[str, ...]:
    try:
        return await clean_up(config.tun, config.state_dir)
    except RouterError as error:
        raise CannotGoOn("; ".join(map(str, error.problems))) from error


async def _open_tunnel(config: DaemonConfig, state: State, ending: _Ending) -> LinuxTunnel:
    gone = CannotGoOn(f"the interface {config.tun} was deleted by another program; start meshnode again")
    try:
        key = state.node_key or NodePrivate.generate(os.urandom)
        return await LinuxTunnel.open(config, key, on_gone=lambda: ending.crash(gone))
    except TunnelError as error:
        raise CannotGoOn(str(error)) from error


def _check_privileges() -> None:
    if not _has_capability(CAP_NET_ADMIN):
        raise CannotGoOn("the daemon needs root, to make its network interface; start it with sudo")


def _allow_many_sockets() -> None:
    """A hard NAT takes hundreds of them for a few seconds, and the usual soft limit is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or soft < hard:
        wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return os.geteuid() == 0


def _set_up_logging(verbose: bool) -> None:
    """One line an event on stderr, with the time only where no service manager adds it."""
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if verbose else logging.INFO,
        format=stamp + "%(levelname)s %(name)s: %(message)s",
    )
    if not verbose:
        for chatty in ("asyncio", "pyroute2", "aiohttp", "h2", "hpack"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
