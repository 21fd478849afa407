"""The LocalAPI: HTTP on a unix socket, with Tailscale's paths, shapes and rules of access (node behaviour
§1.2, §1.3).

Anybody on the host may read; changes need root, the user that runs the daemon, or the operator. Who asks is
taken from the socket (SO_PEERCRED), so the socket's file mode is open. Requests that a browser could have
been talked into making (an Origin, a Referer, a foreign Host) are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from meshnode import __version__
from meshnode.backend import Backend, Refused
from meshnode.diagnostics import Diagnostics, NothingToShow
from meshnode.host_rules import check_on_this_host
from meshnode.metrics import CONTENT_TYPE
from meshnode.notifications import Notification, Want
from meshnode.pinging import MAX_SIZE, PING_TIMEOUT_S, PingType
from meshnode.prefs import InvalidPrefs, Prefs, apply_masked
from meshnode.state import StateError
from meshproto.addresses import IPAddress, MalformedAddress, parse_address
from meshproto.capver import CURRENT_CAPABILITY_VERSION
from meshproto.keys import MalformedKey, NodePublic

log = logging.getLogger(__name__)

BASE = "/localapi/v0/"
READS_BY_POST = frozenset({BASE + "ping"})
"""What changes nothing although it is asked for by POST."""
ALLOWED_HOSTS = frozenset({"", "local-tailscaled.sock"})
DEFAULT_DIRECTORY = Path("/run/meshnode")
"""Where the socket is by default; we make it and remove it."""
MAX_BODY_SIZE = 1024 * 1024
SHUTDOWN_TIMEOUT_S = 1.0
"""How long answers that are being given may take once the daemon ends."""
WATCHER_CHECK_S = 30.0
"""How often a silent watch looks whether its client is still there."""
_UCRED = struct.Struct("3i")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SocketTaken(Exception):
    """The socket cannot be served. `str()` is a line for a person."""


def bind_socket(path: Path) -> socket.socket:
    """A listening socket at `path`. A stale one of a dead daemon is replaced. Raises SocketTaken."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if _is_answered(path):
            raise SocketTaken(
                f"another meshnode daemon already answers on {path}; "
                "stop it first, or give this one its own --socket and --state-dir"
            )
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen(64)
    except OSError as error:
        raise SocketTaken(
            f"cannot make the socket {path}: {error.strerror or error}; "
            "run as root, or name a path of your own with --socket"
        ) from error
    return listener


def unbind(path: Path) -> None:
    """Remove the socket, and its directory where that is ours and has nothing else in it."""
    path.unlink(missing_ok=True)
    if path.parent == DEFAULT_DIRECTORY:
        with contextlib.suppress(OSError):
            path.parent.rmdir()


def _is_answered(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


class LocalAPI:
    """Serves one backend."""

    def __init__(self, backend: Backend, diagnostics: Diagnostics, shut_down: Callable[[], None]) -> None:
        """`shut_down` is called when somebody with the right to asks the daemon to end."""
        self._backend = backend
        self._diagnostics = diagnostics
        self._shut_down = shut_down
        self._commands = asyncio.Lock()
        self._runner: web.AppRunner | None = None
        self._path: Path | None = None

    async def serve(self, listener: socket.socket, path: Path) -> None:
        """Answer from now on, until `close`."""
        app = web.Application(middlewares=[self._guard], client_max_size=MAX_BODY_SIZE)
        app.add_routes(
            [
                web.get(BASE + "status", self._status),
                web.get(BASE + "prefs", self._get_prefs),
                web.patch(BASE + "prefs", self._edit_prefs),
                web.post(BASE + "check-prefs", self._check_prefs),
                web.post(BASE + "start", self._start),
                web.post(BASE + "login-interactive", self._login_interactive),
                web.post(BASE + "logout", self._logout),
                web.get(BASE + "watch-ipn-bus", self._watch),
                web.post(BASE + "shutdown", self._shutdown),
                web.post(BASE + "ping", self._ping),
                web.get(BASE + "derpmap", self._derp_map),
                web.get(BASE + "debug-paths", self._debug_paths),
                web.get(BASE + "debug-dataplane", self._debug_dataplane),
                web.get(BASE + "metrics", self._metrics),
                web.get(BASE + "usermetrics", self._metrics),
            ]
        )
        self._path = path
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def close(self) -> None:
        """Stop answering and remove the socket."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._path is not None:
            unbind(self._path)

    # Access.

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Who may do what, and errors as text."""
        headers = {"Tailscale-Version": __version__, "Tailscale-Cap": str(CURRENT_CAPABILITY_VERSION)}
        if (
            request.headers.get("Host", "") not in ALLOWED_HOSTS
            or {"Origin", "Referer"} & request.headers.keys()
        ):
            return web.Response(status=403, text="not a request of a program on this host", headers=headers)
        is_read = request.method in ("GET", "HEAD") or request.path in READS_BY_POST
        if not is_read and not self._may_write(request):
            return web.Response(
                status=403, text="access denied: changes need root or the operator", headers=headers
            )
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.text)
        except (InvalidPrefs, Refused, _BadRequest) as error:
            response = web.Response(status=400, text=str(error))
        except NothingToShow as error:
            response = web.Response(status=404, text=str(error))
        except StateError as error:
            log.error("%s", error)
            response = web.Response(status=500, text=str(error))
        if not response.prepared:
            response.headers.update(headers)
        return response

    def _may_write(self, request: web.Request) -> bool:
        uid = _peer_uid(request)
        return uid in (0, os.geteuid()) or (
            uid is not None and uid == _uid_of(self._backend.prefs.operator_user)
        )

    # Handlers.

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return _json(self._backend.status(peers=request.query.get("peers", "true") != "false"))

    async def _get_prefs(self, request: web.Request) -> web.StreamResponse:
        return _json(self._backend.prefs)

    async def _edit_prefs(self, request: web.Request) -> web.StreamResponse:
        masked = await _body(request)
        async with self._commands:
            return _json(await self._backend.edit_prefs(masked))

    async def _check_prefs(self, request: web.Request) -> web.StreamResponse:
        check_on_this_host(_prefs(await _body(request)))
        return _json({"Error": ""})

    async def _start(self, request: web.Request) -> web.StreamResponse:
        """Options: `AuthKey`, `UpdatePrefs`, and `ForceLogin` for a login although we are logged in."""
        options = await _body(request)
        update = options.get("UpdatePrefs")
        prefs = self._backend.prefs if update is None else _prefs(update)
        async with self._commands:
            await self._backend.start(
                prefs,
                str(options.get("AuthKey") or ""),
                force_login=options.get("ForceLogin") is True,
            )
        return web.Response(status=204)

    async def _login_interactive(self, request: web.Request) -> web.StreamResponse:
        async with self._commands:
            await self._backend.start(self._backend.prefs, force_login=True)
        return web.Response(status=204)

    async def _logout(self, request: web.Request) -> web.StreamResponse:
        """204, or 200 with a text about what could not be done."""
        async with self._commands:
            warning = await self._backend.logout()
        return web.Response(text=warning) if warning else web.Response(status=204)

    async def _shutdown(self, request: web.Request) -> web.StreamResponse:
        self._shut_down()
        return web.Response(status=204)

    async def _ping(self, request: web.Request) -> web.StreamResponse:
        """A PingResult; 504 when nothing answers in time."""
        address, kind, size = _ping_arguments(request.query)
        try:
            return _json(await self._diagnostics.ping(address, kind, size))
        except TimeoutError:
            return web.Response(status=504, text=f"{address} did not answer within {PING_TIMEOUT_S:g} s")

    async def _derp_map(self, request: web.Request) -> web.StreamResponse:
        return _json(self._diagnostics.derp_map())

    async def _debug_paths(self, request: web.Request) -> web.StreamResponse:
        """`peer` is the node key of one."""
        try:
            peer = NodePublic.parse(request.query.get("peer", ""))
        except MalformedKey as error:
            raise _BadRequest(f"peer: {error}") from error
        return _json(self._diagnostics.paths(peer))

    async def _debug_dataplane(self, request: web.Request) -> web.StreamResponse:
        return _json(self._diagnostics.data_plane())

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=self._diagnostics.metrics().encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        """Newline-delimited notifications until the client goes."""
        try:
            mask = int(request.query.get("mask", "0"))
        except ValueError as error:
            raise _BadRequest("mask is a number") from error
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        with self._backend.bus.watch() as notifications:
            initial = self._initial(mask)
            await response.prepare(request)
            try:
                await response.write(_line(initial))
                while (notification := await _next(notifications, request)) is not None:
                    await response.write(_line(notification))
            except ConnectionError:
                pass  # the watcher has gone
        return response

    def _initial(self, mask: int) -> Notification:
        """The first notification: who we are, and the values that the mask asks for."""
        fields: Notification = {"Version": __version__}
        if mask & Want.INITIAL_STATE:
            fields |= self._backend.login_progress()
        if mask & Want.INITIAL_PREFS:
            fields["Prefs"] = msgspec.to_builtins(self._backend.prefs)
        if mask & Want.INITIAL_HEALTH:
            fields["Health"] = list(self._backend.health())
        return fields


async def _next(
    notifications: asyncio.Queue[Notification | None], request: web.Request
) -> Notification | None:
    """The next notification, or None when there will be none or the watcher has gone."""
    while request.transport is not None:
        try:
            async with asyncio.timeout(WATCHER_CHECK_S):
                return await notifications.get()
        except TimeoutError:
            continue
    return None


class _BadRequest(Exception):
    """The request is not one of this API."""


async def _body(request: web.Request) -> dict[str, Any]:
    text = await request.text()
    try:
        document = json.loads(text or "{}")
    except ValueError as error:
        raise _BadRequest("the body is not JSON") from error
    if not isinstance(document, dict):
        raise _BadRequest("the body is not a JSON object")
    return document


def _ping_arguments(query: Mapping[str, str]) -> tuple[IPAddress, PingType, int]:
    try:
        address = parse_address(query.get("ip", ""))
        kind = PingType(query.get("type", PingType.DISCO.value))
        size = int(query.get("size") or 0)
    except MalformedAddress as error:
        raise _BadRequest(f"ip: {error}") from error
    except ValueError as error:
        raise _BadRequest("type is disco, TSMP or ICMP, and size a number") from error
    if size and kind is not PingType.DISCO:
        raise _BadRequest("size is for pings of type disco only")
    if not 0 <= size <= MAX_SIZE:
        raise _BadRequest(f"size is at most {MAX_SIZE}")
    return address, kind, size


def _prefs(document: dict[str, Any]) -> Prefs:
    """Whole preferences from their JSON: every known field counts. Raises InvalidPrefs."""
    masked = dict(document)
    masked.update({field.encode_name + "Set": True for field in msgspec.structs.fields(Prefs)})
    return apply_masked(Prefs(), masked)


def _json(document: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(document), content_type="application/json")


def _line(notification: Notification) -> bytes:
    return msgspec.json.encode(notification) + b"\n"


def _peer_uid(request: web.Request) -> int | None:
    transport = request.transport
    connection = transport.get_extra_info("socket") if transport is not None else None
    if connection is None:
        return None
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)
    return int(uid)


def _uid_of(user: str) -> int | None:
    try:
        return pwd.getpwnam(user).pw_uid if user else None
    except KeyError:
        return None
