"""The HTTP side of a relay: probes, captive portal checks, WebSockets (nat-traversal reference §1.1).

`add_routes` puts it into any aiohttp application, of a relay alone or of a coordinator that has one inside.
"""

from __future__ import annotations

import re

from aiohttp import web

from derp import websocket
from derp.front import arrival
from derp.http_parts import Taken
from derp.server import RelayServer
from derp.upgrade import encode_response

CHALLENGE_HEADER = "X-Tailscale-Challenge"
RESPONSE_HEADER = "X-Tailscale-Response"
NO_CACHE = "no-cache, no-store, must-revalidate, no-transform, max-age=0"

_CHALLENGE = re.compile(r"[A-Za-z0-9._:-]{1,64}")
_PROBES = ("/derp/probe", "/derp/latency-check")


def add_routes(app: web.Application, relay: RelayServer) -> None:
    """`/derp` and what belongs to it."""
    handler = _Derp(relay)
    app.router.add_get("/derp", handler.derp, allow_head=False)
    for path in _PROBES:
        app.router.add_route("*", path, probe)
    app.router.add_get("/generate_204", generate_204)


async def probe(request: web.Request) -> web.Response:
    """Clients without UDP measure the round trip by this."""
    if request.method not in ("GET", "HEAD"):
        return web.Response(status=405, text="bogus probe method\n")
    return web.Response(headers={"Access-Control-Allow-Origin": "*"})


async def generate_204(request: web.Request) -> web.Response:
    """An empty answer, and the challenge, by which a client knows that no captive portal answered for us."""
    headers = {"Cache-Control": NO_CACHE}
    challenge = request.headers.get(CHALLENGE_HEADER, "")
    if _CHALLENGE.fullmatch(challenge):
        headers[RESPONSE_HEADER] = f"response {challenge}"
    return web.Response(status=204, headers=headers)


class _Derp:
    def __init__(self, relay: RelayServer) -> None:
        self._relay = relay

    async def derp(self, request: web.Request) -> web.StreamResponse:
        """A connection that was used for something else before, or is to become a WebSocket.

        All others that ask for DERP are the relay's before they get here (see `front`).
        """
        headers = {name.lower(): value for name, value in request.headers.items()}
        upgrade = headers.get("upgrade", "").lower()
        transport = request.transport
        if upgrade == "websocket":
            return await websocket.serve(request, self._relay)
        if upgrade != "derp" or transport is None:
            return web.Response(status=426, text="DERP requires connection upgrade\n")
        connection = self._relay.take_over(
            transport,
            arrival(transport, headers),
            greeting=encode_response(self._relay.core.public_key),
            on_lost=request.protocol.connection_lost,
        )
        try:
            await connection.closed
        finally:
            connection.abort()
        return Taken()
