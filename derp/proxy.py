"""Through an HTTP proxy to a relay: `CONNECT`, as HTTPS_PROXY and NO_PROXY in the environment say."""

from __future__ import annotations

import asyncio
import base64
import socket
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from derp.errors import CannotConnect
from derp.frames import FrameError
from derp.relay_node import RelayNode
from derp.upgrade import MAX_HEAD_SIZE, HeadReader, parse_response_untrusted


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy. `authorization` is the value of a header, or empty."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"proxy {self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """`http://[user:password@]host[:port]`, with or without `http://`. Raises CannotConnect."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            host, port = None, 0
        if parts.scheme != "http" or not host:
            raise CannotConnect(f"{_without_password(url)} is not a proxy we can use: http://HOST:PORT is")
        if parts.username is None:
            return cls(host, port)
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return cls(host, port, "Basic " + base64.b64encode(credentials.encode()).decode())


def from_environment(node: RelayNode) -> Proxy | None:
    """The proxy that the environment names for this relay. Raises CannotConnect."""
    scheme = "https" if node.uses_tls else "http"
    url = urllib.request.getproxies_environment().get(scheme, "")
    if not url or urllib.request.proxy_bypass(f"{node.host_name}:{node.port}"):
        return None
    return Proxy.parse(url)


async def connect_through(proxy: Proxy, connected: socket.socket, node: RelayNode) -> None:
    """Turn a connection to the proxy into one to the relay. Raises CannotConnect."""
    loop = asyncio.get_running_loop()
    host = f"[{node.host_name}]" if ":" in node.host_name else node.host_name
    lines = [f"CONNECT {host}:{node.port} HTTP/1.1", f"Host: {host}:{node.port}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await loop.sock_sendall(connected, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    try:
        head = await _read_head(connected)
        response = parse_response_untrusted(head)
    except FrameError as error:
        raise CannotConnect(f"{proxy} does not answer in HTTP") from error
    if response.status // 100 != 2:
        raise CannotConnect(f"{proxy} answers {response.status} {response.reason}".rstrip())


async def _read_head(connected: socket.socket) -> bytes:
    """Byte by byte, because what follows belongs to the relay. Raises FrameError."""
    loop = asyncio.get_running_loop()
    reader = HeadReader()
    for _ in range(MAX_HEAD_SIZE):
        data = await loop.sock_recv(connected, 1)
        if not data:
            raise FrameError("closed")
        complete = reader.receive_data(data)
        if complete is not None:
            return complete[0]
    raise FrameError("too large")


def _without_password(url: str) -> str:
    return url.rpartition("@")[2]
