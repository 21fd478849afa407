"""The two HTTP/1.1 exchanges that come before Noise: `GET /key` and the upgrade of `/ts2021`.

Each uses a connection of its own. Only what these two need of HTTP/1.1 is here: one request, one response
whose body is delimited by Content-Length, by chunks or by the end of the connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

MAX_HEAD_SIZE = 32 * 1024
MAX_BODY_SIZE = 64 * 1024
"""In bytes; a coordinator's key is a hundred (control protocol §2.1)."""


class NotHTTP(Exception):
    """What came back is no HTTP/1.1 response within our limits."""


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers; names are lower case."""

    status: int
    headers: Mapping[str, str]


def encode_request(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """A request without a body."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def parse_head_untrusted(data: bytes) -> Head:
    """The head of a response, up to and with its empty line. Raises NotHTTP and nothing else."""
    try:
        status_line, *lines = data.decode("latin-1").split("\r\n")
        version, status, *_ = status_line.split(" ", 2)
        if not version.startswith("HTTP/1.") or len(status) != 3 or not status.isdecimal():
            raise ValueError(status_line)
        pairs = (line.partition(":") for line in lines if line)
        return Head(int(status), {name.strip().lower(): value.strip() for name, _, value in pairs})
    except ValueError as error:
        raise NotHTTP("not an HTTP response") from error


async def read_head(reader: asyncio.StreamReader) -> Head:
    """Raises NotHTTP, or ConnectionResetError when the other end closes without a byte, reset or not."""
    try:
        return parse_head_untrusted(await reader.readuntil(b"\r\n\r\n"))
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        if isinstance(error, asyncio.IncompleteReadError) and not error.partial:
            raise ConnectionResetError("the connection was closed without an answer") from error
        raise NotHTTP("the connection ended before a complete HTTP response") from error


async def read_body(reader: asyncio.StreamReader, head: Head) -> bytes:
    """At most MAX_BODY_SIZE bytes of it. Raises NotHTTP when it is longer, cut short or wrongly framed."""
    if head.headers.get("transfer-encoding", "").lower() == "chunked":
        return await _read_chunked(reader)
    length = head.headers.get("content-length", "")
    try:
        if not length:
            return await _read_to_end(reader)
        if not _is_number(length) or int(length) > MAX_BODY_SIZE:
            raise NotHTTP(f"a body of {length[:20]} bytes is more than we read")
        return await reader.readexactly(int(length))
    except asyncio.IncompleteReadError as error:
        raise NotHTTP("the body is cut short") from error


def _is_number(text: str) -> bool:
    """Decimal, and not so long that reading it is a question of its own: beyond 4,300 digits `int` raises."""
    return text.isascii() and text.isdecimal() and len(text) < 20


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while piece := await reader.read(MAX_BODY_SIZE):
        body += piece
        if len(body) > MAX_BODY_SIZE:
            raise NotHTTP("the body is longer than we read")
    return body


async def _read_chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    try:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            if size < 0 or len(body) + size > MAX_BODY_SIZE:
                raise NotHTTP("the body is longer than we read")
            body += (await reader.readexactly(size + 2))[:-2]
    except (ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        raise NotHTTP("a chunk is wrongly framed") from error
    return body
