"""Through an HTTP proxy to a server: `CONNECT`, as HTTPS_PROXY and NO_PROXY in the environment say.

HTTPS_PROXY is for servers with TLS and HTTP_PROXY for those without, each also in lower case, which wins.
NO_PROXY lists those to reach without: names, which stand for everything below them too, with or without a
port; addresses; networks such as 10.0.0.0/8; or `*`.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import urllib.request
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import unquote, urlsplit

from derp.errors import ProxyFailed
from derp.frames import FrameError
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
        """`http://[user:password@]host[:port]`, with or without `http://`. Raises ProxyFailed."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            host, port = None, 0
        if parts.scheme != "http" or not host:
            raise ProxyFailed(f"{_without_password(url)} is not a proxy we can use: http://HOST:PORT is")
        if parts.username is None:
            return cls(host, port)
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return cls(host, port, "Basic " + base64.b64encode(credentials.encode()).decode())


def from_environment(host: str, port: int, *, uses_tls: bool) -> Proxy | None:
    """The proxy that the environment names for this server. Raises ProxyFailed when we cannot use it."""
    settings = urllib.request.getproxies_environment()
    url = settings.get("https" if uses_tls else "http", "")
    if not url or _is_exempt(host, port, settings):
        return None
    return Proxy.parse(url)


def _is_exempt(host: str, port: int, settings: dict[str, str]) -> bool:
    """What urllib knows of NO_PROXY, and networks, which it does not know."""
    name = f"[{host}]" if ":" in host else host
    if any(urllib.request.proxy_bypass(one, settings) for one in (host, f"{name}:{port}")):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return any(_is_in(address, entry.strip()) for entry in settings.get("no", "").split(","))


def _is_in(address: IPv4Address | IPv6Address, network: str) -> bool:
    try:
        return address in ip_network(network, strict=False)
    except ValueError:
        return False


async def connect_through(proxy: Proxy, connected: socket.socket, host: str, port: int) -> None:
    """Turn a connection to the proxy into one to the server. Raises ProxyFailed or OSError."""
    loop = asyncio.get_running_loop()
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    await loop.sock_sendall(connected, ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
    try:
        head = await _read_head(connected)
        response = parse_response_untrusted(head)
    except FrameError as error:
        raise ProxyFailed(f"{proxy} does not answer in HTTP") from error
    if response.status // 100 != 2:
        raise ProxyFailed(f"{proxy} answers {response.status} {response.reason}".rstrip())


async def _read_head(connected: socket.socket) -> bytes:
    """Byte by byte, because what follows belongs to the server. Raises FrameError."""
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
