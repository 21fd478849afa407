"""`/bootstrap-dns`: the addresses of the relays, for clients whose own DNS does not work yet.

As Headscale's: a JSON object of the host names in the DERP map, each with its addresses, whichever name is
asked for. Looked up at most once in KEPT_S, however often and by whomever it is asked.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable

from aiohttp import web

from coordinator.state import State
from meshproto.addresses import is_address
from meshproto.messages import DERPMap

KEPT_S = 600.0
LOOKUP_TIMEOUT_S = 3.0
MAX_NAMES = 200


class BootstrapDns:
    """Answers from what it looked up last."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._found: dict[str, list[str]] = {}
        self._names: frozenset[str] = frozenset()
        self._good_until = 0.0
        self._lock = asyncio.Lock()

    async def handle(self, _request: web.Request) -> web.Response:
        """The answer to `GET /bootstrap-dns`."""
        return web.json_response(await self._addresses())

    async def _addresses(self) -> dict[str, list[str]]:
        async with self._lock:
            loop = asyncio.get_running_loop()
            names = host_names(self._state.snapshot.settings.relays.map_for(""))
            if names != self._names or loop.time() >= self._good_until:
                found = await asyncio.gather(*(_look_up(name) for name in sorted(names)[:MAX_NAMES]))
                self._found = {name: addresses for name, addresses in found if addresses}
                self._names = names
                self._good_until = loop.time() + KEPT_S
            return self._found


def host_names(derp_map: DERPMap) -> frozenset[str]:
    """The names of relays; those without one are addresses."""
    regions: Iterable[str] = (
        node.host_name for region in (derp_map.regions or {}).values() for node in region.nodes
    )
    return frozenset(name for name in regions if name and not is_address(name))


async def _look_up(name: str) -> tuple[str, list[str]]:
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S):
            found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return name, []
    return name, list(dict.fromkeys(str(address[0]) for *_, address in found))
