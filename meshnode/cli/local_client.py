"""The daemon's LocalAPI as a command sees it: HTTP over the unix socket, with errors for people.

Only the standard library, since every command waits for these imports.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from meshnode.cli.errors import AccessDenied, CommandError, DaemonNotRunning

DEFAULT_SOCKET = "/run/meshnode/meshnode.sock"
SOCKET_VARIABLE = "MESHNODE_SOCKET"
HOST = "local-tailscaled.sock"
"""What the LocalAPI's Host header must be: Tailscale's, as its own tools send it."""
REQUEST_TIMEOUT_S = 60.0

Json = dict[str, Any]


def socket_path(given: str | None) -> str:
    """The socket to use: the flag, the environment, the default."""
    return given or os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET


class WatchTimeout(Exception):
    """Nothing came in the time allowed."""


class NoAnswer(Exception):
    """The peer did not answer in the time allowed."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__(HOST, timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(self._path)
        except BaseException:
            self.sock.close()
            raise


class LocalClient:
    """One daemon. Every call raises DaemonNotRunning, AccessDenied or CommandError: a line for the user."""

    def __init__(self, path: str) -> None:
        self.path = path

    def is_running(self) -> bool:
        """Whether a daemon answers on the socket."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect(self.path)
        except OSError:
            return False
        return True

    def status(self, *, peers: bool = True) -> Json:
        return self._json("GET", "status?" + urlencode({"peers": str(peers).lower()}))

    def derp_map(self) -> bytes:
        """The relays that this node knows, as JSON. Raises CommandError where there are none, too."""
        return self._call("GET", "derpmap")

    def prefs(self) -> Json:
        return self._json("GET", "prefs")

    def edit_prefs(self, masked: Json) -> Json:
        """Change the settings named in `masked`; the settings after it."""
        return self._json("PATCH", "prefs", masked)

    def start(self, options: Json) -> None:
        self._call("POST", "start", options)

    def login_interactive(self) -> None:
        self._call("POST", "login-interactive")

    def logout(self) -> str:
        """Returns a warning, or nothing."""
        return self._call("POST", "logout").decode(errors="replace")

    def ping(self, address: str, kind: str, size: int, timeout_s: float) -> Json:
        """One ping. Raises NoAnswer after `timeout_s`, or when the daemon has waited long enough."""
        query = urlencode({"ip": address, "type": kind} | ({"size": size} if size else {}))
        connection = self._connect(timeout_s)
        try:
            answer = json.loads(self._send(connection, "POST", f"ping?{query}", None).read())
        except TimeoutError as error:
            raise NoAnswer from error
        finally:
            connection.close()
        assert isinstance(answer, dict)
        return answer

    def paths(self, peer_key: str) -> Json:
        return self._json("GET", "debug-paths?" + urlencode({"peer": peer_key}))

    def data_plane(self) -> Json:
        return self._json("GET", "debug-dataplane")

    def metrics(self) -> str:
        return self._call("GET", "metrics").decode()

    def shutdown(self) -> None:
        self._call("POST", "shutdown")

    def watch(self, mask: int) -> Watch:
        """Notifications from now on, beginning with the initial values that `mask` asks for."""
        connection = self._connect(REQUEST_TIMEOUT_S)
        return Watch(connection, self._send(connection, "GET", f"watch-ipn-bus?mask={mask}", None))

    def _json(self, method: str, path: str, body: Json | None = None) -> Json:
        answer = json.loads(self._call(method, path, body))
        assert isinstance(answer, dict)
        return answer

    def _call(self, method: str, path: str, body: Json | None = None) -> bytes:
        connection = self._connect(REQUEST_TIMEOUT_S)
        try:
            return self._send(connection, method, path, body).read()
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(f"the daemon at {self.path} broke off its answer: {error}") from error
        finally:
            connection.close()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        connection = _UnixConnection(self.path, timeout)
        try:
            connection.connect()
        except PermissionError as error:
            raise AccessDenied(f"no permission to use the daemon's socket {self.path}; use sudo") from error
        except OSError as error:
            raise DaemonNotRunning(
                f"cannot reach the meshnode daemon at {self.path}: {_why(error, self.path)}; "
                'start it with "sudo meshnode up", or name its socket with --socket'
            ) from error
        return connection

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Json | None
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, "/localapi/v0/" + path, None if body is None else json.dumps(body))
            response = connection.getresponse()
        except TimeoutError:
            connection.close()
            raise
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise CommandError(f"the daemon at {self.path} gave no answer: {error}") from error
        if response.status >= 300:
            text = _error_text(response.read())
            connection.close()
            if response.status == http.client.GATEWAY_TIMEOUT:
                raise NoAnswer
            if response.status == http.client.FORBIDDEN:
                raise AccessDenied(f'{text}; use sudo, or once "sudo meshnode set --operator=$USER"')
            raise CommandError(text)
        return response


class Watch:
    """A stream of notifications."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response

    def next(self, timeout: float | None) -> Json:
        """The next one. Raises WatchTimeout after `timeout` s, DaemonNotRunning when the daemon ends."""
        if self._connection.sock is not None:
            self._connection.sock.settimeout(timeout)
        try:
            line = self._response.readline()
        except TimeoutError as error:
            raise WatchTimeout from error
        except (OSError, http.client.HTTPException) as error:
            raise DaemonNotRunning(f"the daemon went away: {error}") from error
        if not line:
            raise DaemonNotRunning("the daemon went away while we waited for it; see its log")
        notification = json.loads(line)
        assert isinstance(notification, dict)
        return notification

    def __iter__(self) -> Iterator[Json]:
        while True:
            yield self.next(None)

    def close(self) -> None:
        self._connection.close()


def _why(error: OSError, path: str) -> str:
    if isinstance(error, (FileNotFoundError, ConnectionRefusedError)):
        return "it does not seem to run" + ("" if not Path(path).exists() else " (its socket is stale)")
    return error.strerror or str(error)


def _error_text(body: bytes) -> str:
    text = body.decode(errors="replace").strip()
    try:
        document = json.loads(text)
    except ValueError:
        return text or "the daemon refused without saying why"
    if isinstance(document, dict):
        return str(document.get("error") or document.get("Error") or text)
    return text
