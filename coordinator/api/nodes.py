"""`/node` and `/auth`: the machines of the mesh, and letting them in."""

from __future__ import annotations

from datetime import UTC, datetime

from aiohttp import web

from coordinator.api.problems import BadRequest
from coordinator.api.records import show_node
from coordinator.api.requests import (
    instant,
    path_id,
    query_flag,
    query_instant,
    read_body,
    required_id,
    route,
)
from coordinator.api.shapes import (
    EmptyReply,
    ExpireNode,
    MoveNode,
    NodeReply,
    NodesReply,
    RegisterNode,
    SetApprovedRoutes,
    SetTags,
)
from coordinator.errors import Conflict, NotFound
from coordinator.model import NodeRecord
from coordinator.state import State


async def list_nodes(state: State, request: web.Request) -> NodesReply:
    """All nodes, or those of the user whose name is the query's `user`."""
    snapshot = state.snapshot
    nodes = sorted(snapshot.nodes.values(), key=lambda node: node.id)
    name = request.query.get("user")
    if name:
        owner = _user_id(state, name)
        nodes = [node for node in nodes if node.user_id == owner]
    return NodesReply([show_node(snapshot, node, in_list=True) for node in nodes])


async def get_node(state: State, request: web.Request) -> NodeReply:
    node_id = path_id(request, "nodeId")
    node = state.snapshot.nodes.get(node_id)
    if node is None:
        raise NotFound(f"no node with ID {node_id}")
    return _reply(state, node)


async def delete_node(state: State, request: web.Request) -> EmptyReply:
    await state.delete_node(path_id(request, "nodeId"))
    return EmptyReply()


async def register_node(state: State, request: web.Request) -> NodeReply:
    """`/node/register?user=NAME&key=ID`, as Headscale up to 0.28 and the tools of that time have it."""
    for name in ("user", "key"):
        if not request.query.get(name):
            raise BadRequest(f"{name}: missing from the query", f"query.{name}")
    return await _register(state, request.query["user"], request.query["key"])


async def register_auth(state: State, request: web.Request) -> NodeReply:
    wish = await read_body(request, RegisterNode)
    return await _register(state, wish.user, wish.auth_id)


async def expire_node(state: State, request: web.Request) -> NodeReply:
    """By body, or by query as Headscale up to 0.29. Nothing given: now. `disableExpiry`: never."""
    node_id = path_id(request, "nodeId")
    wish = await read_body(request, ExpireNode)
    expiry = instant(wish.expiry, "body.expiry") or query_instant(request, "expiry")
    if wish.disable_expiry or query_flag(request, "disableExpiry", "disable_expiry"):
        if expiry is not None:
            raise BadRequest("cannot set both disable_expiry and expiry", "body.disableExpiry")
        return _reply(state, await state.expire_node(node_id, None))
    return _reply(state, await state.expire_node(node_id, expiry or datetime.now(UTC)))


async def rename_node(state: State, request: web.Request) -> NodeReply:
    """A name that another node has is refused with 400, as Headscale does."""
    try:
        node = await state.rename_node(path_id(request, "nodeId"), request.match_info["newName"])
    except Conflict as error:
        raise BadRequest(str(error), "path.newName") from error
    return _reply(state, node)


async def set_tags(state: State, request: web.Request) -> NodeReply:
    node_id = path_id(request, "nodeId")
    wish = await read_body(request, SetTags)
    return _reply(state, await state.set_tags(node_id, tuple(wish.tags)))


async def approve_routes(state: State, request: web.Request) -> NodeReply:
    """Replaces the approved routes.

    A route that the node does not advertise is stored for when it will, as Headscale does. Our own command
    line asks with `?advertisedOnly=true` to have it refused instead.
    """
    node_id = path_id(request, "nodeId")
    wish = await read_body(request, SetApprovedRoutes)
    prefixes = tuple(route(text, f"body.routes[{index}]") for index, text in enumerate(wish.routes))
    in_advance = not query_flag(request, "advertisedOnly")
    return _reply(state, await state.set_approved_routes(node_id, prefixes, in_advance=in_advance))


async def move_node(state: State, request: web.Request) -> NodeReply:
    """Gives the node to another user, as Headscale up to 0.27 could."""
    node_id = path_id(request, "nodeId")
    wish = await read_body(request, MoveNode)
    return _reply(state, await state.move_node(node_id, required_id(wish.user, "body.user")))


async def _register(state: State, user_name: str, registration_id: str) -> NodeReply:
    owner = _user_id(state, user_name)
    return _reply(state, await state.register_pending(registration_id, owner))


def _user_id(state: State, name: str) -> int:
    user_id = state.snapshot.user_ids_by_name.get(name)
    if user_id is None:
        raise NotFound(f'no user named "{name}"')
    return user_id


def _reply(state: State, node: NodeRecord) -> NodeReply:
    """The node as it is now: the snapshot may be ahead of the record that the change returned."""
    snapshot = state.snapshot
    return NodeReply(show_node(snapshot, snapshot.nodes.get(node.id, node)))
