"""What machines may ask inside the control connection: `/machine/register`, `/machine/map`, and refusals.

Anybody can get here with any machine key; that the node key in a request belongs to it is checked for each
request.
"""

from __future__ import annotations

import logging
import re
from typing import TypeVar

from coordinator.errors import CoordinatorError, NotFound, Unavailable
from coordinator.noise_server import Exchange
from coordinator.poll import MapSessions
from coordinator.state import State
from meshproto import capver, codec
from meshproto.codec import MalformedMessage
from meshproto.messages import COMPRESS_ZSTD, MapRequest, Message, RegisterRequest, RegisterResponse

# Known to clients, not served: they take a quick refusal without trouble (control-protocol §5.1).
NOT_IMPLEMENTED = frozenset(
    f"/machine/{name}"
    for name in (
        "audit-log",
        "c2n",
        "feature/query",
        "id-token",
        "set-device-attr",
        "set-dns",
        "update-health",
        "whoami",
    )
)

_AUTHORITY = re.compile(r"([A-Za-z0-9.-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")

Kind = TypeVar("Kind", bound=Message)

logger = logging.getLogger(__name__)


class MachineApi:
    """Answers the requests of control connections."""

    def __init__(self, state: State, sessions: MapSessions) -> None:
        self._state = state
        self._sessions = sessions

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request."""
        request = exchange.request
        match request.method, request.path:
            case "POST", "/machine/register":
                await self._register(exchange)
            case "POST", "/machine/map":
                await self._map(exchange)
            case _, path if path in NOT_IMPLEMENTED:
                await exchange.respond(501, b"Not implemented\n")
            case _:
                await exchange.respond(404, b"Not found\n")

    async def _register(self, exchange: Exchange) -> None:
        request = await _parsed(exchange, RegisterRequest)
        if request is None or not await _is_supported(exchange, request.version):
            return
        try:
            response = await self._state.register(exchange.machine_key, request, _reached_at(exchange))
        except Unavailable as error:
            await exchange.respond(503, f"{error}\n".encode())
            return
        except CoordinatorError as refusal:
            logger.info(
                "registration refused",
                extra={"machine_key": exchange.machine_key.short(), "reason": str(refusal)},
            )
            response = RegisterResponse(error=str(refusal))
        await exchange.respond(200, codec.encode(response), "application/json")

    async def _map(self, exchange: Exchange) -> None:
        request = await _parsed(exchange, MapRequest)
        if request is None or not await _is_supported(exchange, request.version):
            return
        try:
            await self._answer_map(exchange, request)
        except NotFound as error:
            await exchange.respond(404, f"{error}\n".encode())
        except Unavailable as error:
            await exchange.respond(503, f"{error}\n".encode())

    async def _answer_map(self, exchange: Exchange, request: MapRequest) -> None:
        compress = request.compress == COMPRESS_ZSTD
        if request.stream:
            # Since capability version 68 what a streaming request reports may be stale: it is not looked at.
            node = self._state.node_for(exchange.machine_key, request)
            await self._sessions.stream(exchange, node.id, compress, _reached_at(exchange))
            return
        if request.read_only:
            node = self._state.node_for(exchange.machine_key, request)
        else:
            node = await self._state.update_node_from_map_request(exchange.machine_key, request)
        if request.omit_peers:
            await exchange.respond(200, b"")
        else:
            frame = await self._sessions.once(node.id, compress, _reached_at(exchange))
            await exchange.respond(200, frame, "application/json")


def _reached_at(exchange: Exchange) -> str:
    """Our URL as the machine has it, empty when it does not say. Only that machine gets it back."""
    authority = exchange.request.headers.get(":authority", "")
    return f"{exchange.scheme}://{authority}" if _AUTHORITY.fullmatch(authority) else ""


async def _parsed(exchange: Exchange, kind: type[Kind]) -> Kind | None:
    """The body as a message; None after a malformed one was answered."""
    try:
        return codec.decode(exchange.request.body, kind)
    except MalformedMessage as error:
        await exchange.respond(400, f"{error}\n".encode())
        return None


async def _is_supported(exchange: Exchange, version: int) -> bool:
    """Whether a client of that capability version is served; otherwise it has been told."""
    if capver.is_supported(version):
        return True
    oldest = capver.client_release(capver.MINIMUM_CAPABILITY_VERSION)
    text = f"unsupported client version: {capver.client_release(version)}; update to {oldest} or later\n"
    await exchange.respond(400, text.encode())
    return False
