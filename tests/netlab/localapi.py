"""Asking a daemon's LocalAPI from outside its namespace: the socket is a file, and files are shared."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from tests.netlab.processes import CommandFailed

TIMEOUT = 10.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("local-tailscaled.sock", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def get(socket_path: Path, path: str) -> Any:
    """The JSON of a path such as `prefs`. Raises CommandFailed when there is no answer or an error."""
    connection = _UnixConnection(socket_path)
    words = ("GET", path)
    try:
        connection.request("GET", f"/localapi/v0/{path}")
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise CommandFailed(words, 1, "", f"{socket_path}: {error}") from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        raise CommandFailed(words, response.status, body, "")
    return json.loads(body)
