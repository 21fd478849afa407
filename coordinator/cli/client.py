"""The admin API over the coordinator's unix socket: one request, one reply, one deadline."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from coordinator.cli.invocation import CommandError

API = "/api/v1"
FIRST_RETRY = 0.05  # seconds; doubled up to LAST_RETRY while the server is not there yet
LAST_RETRY = 1.0

_ABSENT = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})


class ApiError(CommandError):
    """The coordinator refused. `status` is HTTP's; the message is the first of the reply's own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """A coordinator on the unix socket at `path`. A request is given up after `timeout` seconds."""

    def __init__(self, path: str, timeout: float) -> None:
        self.path = path
        self.timeout = timeout

    def get(self, *segments: str | int, absent: str | None = None, **query: str | None) -> Any:
        """The reply of GET /api/v1/<segments>?<query>; parameters that are None are left out.

        `absent` replaces the message of a 404. Raises CommandError; ApiError where the coordinator refused.
        """
        return self._call("GET", segments, query, None, absent)

    def post(
        self,
        *segments: str | int,
        body: Mapping[str, Any] | None = None,
        absent: str | None = None,
        **query: str | None,
    ) -> Any:
        """The reply of POST; as `get` otherwise."""
        return self._call("POST", segments, query, body, absent)

    def delete(self, *segments: str | int, absent: str | None = None, **query: str | None) -> Any:
        """The reply of DELETE; as `get` otherwise."""
        return self._call("DELETE", segments, query, None, absent)

    def _call(
        self,
        method: str,
        segments: tuple[str | int, ...],
        query: Mapping[str, str | None],
        body: Mapping[str, Any] | None,
        absent: str | None,
    ) -> Any:
        for segment in segments:
            if segment in ("", ".", ".."):
                raise CommandError(f'"{segment}" cannot be a name')
        path = "/".join([API, *(quote(str(segment), safe="") for segment in segments)])
        given = {name: value for name, value in query.items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        try:
            return self._request(method, target, body)
        except ApiError as error:
            if error.status == http.HTTPStatus.NOT_FOUND and absent is not None:
                raise ApiError(error.status, absent) from error
            raise

    def _request(self, method: str, target: str, body: Mapping[str, Any] | None) -> Any:
        deadline = time.monotonic() + self.timeout
        connection = http.client.HTTPConnection("local")
        connection.sock = self._connect(deadline)
        payload = None if body is None else json.dumps(body)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, target, payload, headers)
            reply = connection.getresponse()
            return _decode(reply.status, reply.reason, reply.read())
        except TimeoutError:
            raise CommandError(self._slow()) from None
        except OSError as error:
            raise CommandError(
                f"the coordinator at {self.path} broke off its answer ({error}); see its log"
            ) from error
        except http.client.HTTPException as error:
            raise CommandError(
                f"what answers at {self.path} is no coordinator; name its socket with --socket or --config"
            ) from error
        finally:
            connection.close()

    def _connect(self, deadline: float) -> socket.socket:
        """A connection to the socket, waiting for a server that is just starting until the deadline."""
        pause = FIRST_RETRY
        while True:
            stream = socket.socket(socket.AF_UNIX)
            stream.settimeout(max(deadline - time.monotonic(), FIRST_RETRY))
            try:
                stream.connect(self.path)
            except OSError as error:
                stream.close()
                if error.errno not in _ABSENT or time.monotonic() + pause >= deadline:
                    raise CommandError(self._unreachable(error)) from error
            else:
                return stream
            time.sleep(pause)
            pause = min(2 * pause, LAST_RETRY)

    def _unreachable(self, error: OSError) -> str:
        if error.errno in _FORBIDDEN:
            return (
                f"no permission on the coordinator's socket {self.path}: "
                "run this as root or as a member of the socket's group"
            )
        if error.errno in _ABSENT:
            why = "there is no such socket" if error.errno == errno.ENOENT else "nothing answers there"
            return (
                f"cannot reach the coordinator at {self.path} ({why}); is `coordinator serve` running? "
                "Name another socket with --socket or --config"
            )
        return self._slow() if isinstance(error, TimeoutError) else f"cannot use socket {self.path}: {error}"

    def _slow(self) -> str:
        return (
            f"the coordinator at {self.path} did not answer within {self.timeout:g} s; "
            "see its log, or raise cli.timeout in the configuration"
        )


def _decode(status: int, reason: str, content: bytes) -> Any:
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if status < http.HTTPStatus.BAD_REQUEST and document is not None:
        return document
    raise ApiError(status, _message_of(document) or f"unexpected response status: {status} {reason}")


def _message_of(problem: Any) -> str:
    """What an RFC 7807 reply says in particular; Headscale puts it into the first of `errors`."""
    if not isinstance(problem, dict):
        return ""
    for error in problem.get("errors") or []:
        if isinstance(error, dict) and error.get("message"):
            return str(error["message"])
    return str(problem.get("detail") or problem.get("message") or "")
