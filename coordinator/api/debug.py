"""What an administrator at the machine may look at: maps as nodes get them. On the unix socket only."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus

import msgspec
from aiohttp import web

from coordinator import visibility
from coordinator.api.problems import problem
from coordinator.mapper import Mapper
from coordinator.model import NodeRecord
from coordinator.state import State
from meshproto import codec

PATH = "/api/v1/debug"


def add_to(app: web.Application, state: State) -> None:
    """Serve it below PATH."""
    pages = _Debug(state)
    app.router.add_get(f"{PATH}/map/{{node}}", pages.map)
    app.router.add_get(f"{PATH}/why/{{node}}/{{peer}}", pages.why)


class _Absent(Exception):
    """There is no such node."""


class _Debug:
    def __init__(self, state: State) -> None:
        self._state = state

    async def map(self, request: web.Request) -> web.StreamResponse:
        """The first message that the node would get now."""
        try:
            node = self._node(request, "node")
        except _Absent as absent:
            return _not_found(absent)
        response = Mapper().full(self._state.snapshot, node.id, datetime.now(UTC))
        return web.Response(body=codec.encode(response), content_type="application/json")

    async def why(self, request: web.Request) -> web.StreamResponse:
        """What stands between two nodes."""
        try:
            one, other = self._node(request, "node"), self._node(request, "peer")
        except _Absent as absent:
            return _not_found(absent)
        reasons = visibility.explain(self._state.snapshot, one, other)
        return web.Response(body=msgspec.json.encode({"reasons": reasons}), content_type="application/json")

    def _node(self, request: web.Request, place: str) -> NodeRecord:
        """The node that the path names by id or name. Raises _Absent."""
        snapshot, wanted = self._state.snapshot, request.match_info[place]
        node_id = snapshot.node_ids_by_name.get(wanted)
        if node_id is None and wanted.isascii() and wanted.isdigit() and len(wanted) < 20:
            node_id = int(wanted)
        node = None if node_id is None else snapshot.nodes.get(node_id)
        if node is None:
            raise _Absent(f"no node {wanted}; list them with `coordinator nodes list`")
        return node


def _not_found(absent: _Absent) -> web.StreamResponse:
    return problem(HTTPStatus.NOT_FOUND, "looking at a node", str(absent))
