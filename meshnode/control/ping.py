"""Answering the coordinator's question whether this node lives: a HEAD of the URL it names (control protocol
§9).

Coordinators use it to choose among routers that serve the same subnet. Other kinds of ping are not answered.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from urllib.parse import urlsplit

from meshnode.control import http1
from meshnode.control.dial import MarkSocket, dial
from meshnode.control.errors import ControlError
from meshnode.control.server_url import InvalidServerURL, ServerURL
from meshproto.messages import PingRequest

log = logging.getLogger(__name__)

PING_TIMEOUT_S = 15.0


def is_answerable(request: PingRequest) -> bool:
    """Whether this is the plain form: no types, and a URL outside Noise."""
    return bool(request.url) and not request.types and not request.url_is_noise


async def answer_ping(request: PingRequest, mark: MarkSocket, tls: ssl.SSLContext | None = None) -> None:
    """Fetch the head of the URL. What goes wrong is the coordinator's to notice."""
    parts = urlsplit(request.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            server = ServerURL.parse(f"{parts.scheme}://{parts.netloc}")
            reader, writer = await dial(server, mark, tls)
            try:
                headers = {"Host": server.authority, "User-Agent": "meshnode", "Connection": "close"}
                writer.write(http1.encode_request("HEAD", target, headers))
                await http1.read_head(reader)
            finally:
                writer.close()
    except (ControlError, InvalidServerURL, http1.NotHTTP, OSError, UnicodeError) as error:
        log.debug("ping %s was not answered: %s", request.url, error)
