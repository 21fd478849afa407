"""The public listener: the key, the upgrade to a control connection, some pages (control-protocol §2)."""

from __future__ import annotations

import asyncio
import binascii
import logging
import os
import platform
from base64 import b64decode

from aiohttp import web

from coordinator import __version__, pages, websocket
from coordinator.noise_server import NoiseServer
from coordinator.pending import is_registration_id
from coordinator.state import State
from derp.http_parts import Taken
from meshproto import codec
from meshproto.codec import MalformedMessage
from meshproto.early import encode_early_payload
from meshproto.keys import ChallengePrivate, MachinePrivate
from meshproto.messages import (
    DERPAdmitClientRequest,
    DERPAdmitClientResponse,
    EarlyNoise,
    OverTLSPublicKeyResponse,
)
from meshproto.noise.ik import Accepted, Responder, error_frame
from meshproto.noise.symmetric import NoiseError

UPGRADE = "tailscale-control-protocol"
HANDSHAKE_HEADER = "X-Tailscale-Handshake"
MINIMUM_KEY_VERSION = 39  # clients that ask `/key` with less cannot do anything with the answer
MAX_BODY = 4 * 1024  # bytes; nothing here takes a body of any size

_SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: " + UPGRADE.encode() + b"\r\nConnection: upgrade\r\n\r\n"
)
_SECURITY_HEADERS = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

logger = logging.getLogger(__name__)


def create_app(state: State, noise_server: NoiseServer, private_key: MachinePrivate) -> web.Application:
    """The public listener's application. `private_key` is the one that `/key` gives the public half of."""
    listener = _Listener(state, noise_server, private_key)
    app = web.Application(client_max_size=MAX_BODY)
    app.on_response_prepare.append(_add_security_headers)
    app.router.add_get("/key", listener.key)
    app.router.add_post("/ts2021", listener.upgrade)
    app.router.add_get("/ts2021", listener.websocket)
    app.router.add_get("/health", listener.health)
    app.router.add_get("/version", listener.version)
    app.router.add_get("/robots.txt", listener.robots)
    app.router.add_get("/register/{registration_id}", listener.register)
    app.router.add_post("/verify", listener.verify)
    app.router.add_get("/", listener.root)
    return app


class _Listener:
    def __init__(self, state: State, noise_server: NoiseServer, private_key: MachinePrivate) -> None:
        self._state = state
        self._noise_server = noise_server
        self._public_key = private_key.public
        self._responder = Responder(private_key, os.urandom)

    async def key(self, request: web.Request) -> web.Response:
        """The Noise public key, which clients fetch before each login."""
        text = request.query.get("v", "")
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise web.HTTPBadRequest(text="capability version must be an integer: /key?v=<number>\n")
        if int(text) < MINIMUM_KEY_VERSION:
            return web.Response()
        return _json(codec.encode(OverTLSPublicKeyResponse(public_key=self._public_key)))

    async def upgrade(self, request: web.Request) -> web.StreamResponse:
        """Turn the HTTP connection into a control connection, and stay until that is over."""
        initiation = _initiation(request)
        if self._noise_server.is_full:
            raise web.HTTPServiceUnavailable(text="too many connections\n")
        transport = request.transport
        if transport is None:
            raise web.HTTPBadRequest(text="connection lost\n")
        try:
            accepted = self._responder.consume_initiation(initiation)
        except NoiseError as error:
            # After the 101, where clients look for it and show it to their user.
            transport.write(_SWITCHING + error_frame(str(error)))
            return Taken()
        await self._take_over(request, accepted, transport)
        return Taken()

    async def _take_over(
        self, request: web.Request, accepted: Accepted, transport: asyncio.Transport
    ) -> None:
        challenge = ChallengePrivate.generate(os.urandom).public
        early = encode_early_payload(EarlyNoise(node_key_challenge=challenge))
        connection = self._noise_server.take_over(
            accepted,
            transport,
            _SWITCHING + accepted.response,
            early,
            request.protocol.connection_lost,
            scheme_of(request),
        )
        try:
            await asyncio.shield(connection.closed)
        finally:
            connection.abort()

    async def websocket(self, request: web.Request) -> web.StreamResponse:
        """The same for browsers, which can only open WebSockets: the handshake is in the query."""
        if UPGRADE not in request.headers.get("Sec-WebSocket-Protocol", "").replace(",", " ").split():
            raise web.HTTPBadRequest(text=f"WebSocket subprotocol {UPGRADE} expected\n")
        initiation = _decoded(request.query.get(HANDSHAKE_HEADER, ""))
        if self._noise_server.is_full:
            raise web.HTTPServiceUnavailable(text="too many connections\n")
        try:
            accepted = self._responder.consume_initiation(initiation)
        except NoiseError as error:
            raise web.HTTPBadRequest(text=f"{error}\n") from error
        return await websocket.serve(request, UPGRADE, accepted, self._noise_server, scheme_of(request))

    async def health(self, _request: web.Request) -> web.Response:
        """Whether the coordinator and its database work."""
        try:
            await self._state.ping_database()
        except Exception:
            logger.exception("the database does not answer")
            return _json(b'{"status":"fail"}', status=500, content_type="application/health+json")
        return _json(b'{"status":"pass"}', content_type="application/health+json")

    async def version(self, _request: web.Request) -> web.Response:
        return web.json_response({"version": __version__, "python": {"version": platform.python_version()}})

    async def robots(self, _request: web.Request) -> web.Response:
        return web.Response(text=pages.ROBOTS)

    async def root(self, _request: web.Request) -> web.Response:
        """Nothing to see: says neither what runs here nor for whom."""
        return web.Response(text="", content_type="text/html")

    async def register(self, request: web.Request) -> web.Response:
        """How to approve a machine: the page behind the URL that its user is shown."""
        registration_id = request.match_info["registration_id"]
        if not is_registration_id(registration_id):
            raise web.HTTPBadRequest(text="invalid registration ID\n")
        return web.Response(text=pages.register_page(registration_id), content_type="text/html")

    async def verify(self, request: web.Request) -> web.Response:
        """Whether a relay elsewhere may serve a client: every node that is known, also an expired one."""
        try:
            question = codec.decode(await request.read(), DERPAdmitClientRequest)
        except MalformedMessage:
            raise web.HTTPBadRequest(text="Bad Request: invalid JSON\n") from None
        answer = DERPAdmitClientResponse(allow=self._state.is_node_key(question.node_public))
        return _json(codec.encode(answer))


def scheme_of(request: web.Request) -> str:
    """That of the URL which the client has: a proxy in front of us tells. Only that client gets it back."""
    return "https" if request.headers.get("X-Forwarded-Proto", "").lower() == "https" else "http"


def _initiation(request: web.Request) -> bytes:
    """The handshake message in the request's headers. Raises the HTTP error that says what is wrong."""
    offered = request.headers.get("Upgrade", "")
    if not offered:
        # The sign of a reverse proxy that does not pass upgrades; `Connection` is not looked at, because
        # some that do rewrite it.
        logger.warning("no Upgrade header in a /ts2021 request: does a proxy strip it?")
        raise web.HTTPInternalServerError(text="no Upgrade header; a proxy in between must pass it\n")
    if offered.lower() != UPGRADE:
        raise web.HTTPBadRequest(text=f"unknown Upgrade; expected {UPGRADE}\n")
    return _decoded(request.headers.get(HANDSHAKE_HEADER, ""))


def _decoded(encoded: str) -> bytes:
    if not encoded:
        raise web.HTTPBadRequest(text=f"no {HANDSHAKE_HEADER}\n")
    try:
        return b64decode(encoded, validate=True)
    except binascii.Error:
        raise web.HTTPBadRequest(text=f"{HANDSHAKE_HEADER} is not base64\n") from None


def _json(body: bytes, status: int = 200, content_type: str = "application/json") -> web.Response:
    return web.Response(body=body, status=status, content_type=content_type)


async def _add_security_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SECURITY_HEADERS)
    response.headers.popall("Server", None)  # it would name every library with its version
