"""The HTTP/1.1 request that becomes a DERP connection, and its answer (nat-traversal reference §1.2).

A client that knows the relay's key already (see `certificates`) asks for a fast start: it sends ClientInfo in
the same flight as the request, and the relay answers with frames only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from derp.frames import FrameError
from meshproto.keys import NodePublic

MAX_HEAD_SIZE = 16 * 1024
"""Bytes of a request or response up to its empty line."""
END_OF_HEAD = b"\r\n\r\n"

SWITCHING = 101
FAST_START = "derp-fast-start"
IDEAL_NODE = "ideal-node"


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request without its body. Header names are lower case."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def asks_for_derp(self) -> bool:
        """Whether frames follow. `Upgrade: WebSocket` without a sub-protocol is how old clients said it."""
        upgrade = self.headers.get("upgrade", "").lower()
        if upgrade == "websocket":
            return not self.headers.get("sec-websocket-protocol")
        return upgrade == "derp"

    @property
    def wants_fast_start(self) -> bool:
        return self.headers.get(FAST_START) == "1"


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A response without its body."""

    status: int
    reason: str


def encode_request(host: str, *, fast_start: bool, ideal_node: str = "") -> bytes:
    """`host` as in the header of that name. `ideal_node`: which relay was wanted, when this is another."""
    lines = ["GET /derp HTTP/1.1", f"Host: {host}", "Upgrade: DERP", "Connection: Upgrade"]
    if ideal_node:
        lines.append(f"Ideal-Node: {ideal_node}")
    if fast_start:
        lines.append("Derp-Fast-Start: 1")
    return "\r\n".join(lines).encode("latin-1") + END_OF_HEAD


def encode_response(server: NodePublic) -> bytes:
    """The switch to DERP, for who did not ask for a fast start."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\nDerp-Version: 2\r\n"
        + f"Derp-Public-Key: {server.raw.hex()}".encode()
        + END_OF_HEAD
    )


def parse_request_untrusted(head: bytes) -> RequestHead:
    """A request up to its empty line. Raises FrameError and nothing else."""
    request_line, *lines = head.decode("latin-1").split("\r\n")
    parts = request_line.split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise FrameError("not an HTTP/1 request")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return RequestHead(parts[0], parts[1].partition("?")[0], headers)


def parse_response_untrusted(head: bytes) -> ResponseHead:
    """A response up to its empty line. Raises FrameError and nothing else."""
    status_line = head.decode("latin-1").split("\r\n")[0]
    version, _, rest = status_line.partition(" ")
    status, _, reason = rest.partition(" ")
    if not version.startswith("HTTP/1.") or len(status) != 3 or not (status.isascii() and status.isdecimal()):
        raise FrameError("not an HTTP/1 response")
    return ResponseHead(int(status), reason.strip())


class HeadReader:
    """Collects bytes up to the empty line of a request or response."""

    def __init__(self) -> None:
        self._buffer = b""

    def receive_data(self, data: bytes) -> tuple[bytes, bytes] | None:
        """The head and what follows it, once complete. Raises FrameError when it grows past MAX_HEAD_SIZE."""
        self._buffer += data
        end = self._buffer.find(END_OF_HEAD)
        if end > MAX_HEAD_SIZE or (end < 0 and len(self._buffer) > MAX_HEAD_SIZE):
            raise FrameError("HTTP head is too large")
        if end < 0:
            return None
        return self._buffer[:end], self._buffer[end + len(END_OF_HEAD) :]

    @property
    def received(self) -> bytes:
        """Everything so far."""
        return self._buffer
