"""The admin API as an aiohttp application: its routes, and how a handler's reply or refusal is written."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
from aiohttp import web

from coordinator.api import health, nodes, preauthkeys, users
from coordinator.api.problems import BadRequest, Handler, problem, problems, status_of
from coordinator.api.requests import MAX_BODY
from coordinator.errors import CoordinatorError
from coordinator.state import State

log = logging.getLogger(__name__)

BASE = "/api/v1"

Operation = Callable[[State, web.Request], Awaitable[msgspec.Struct]]

OPERATIONS: tuple[tuple[str, str, Operation, str], ...] = (
    ("GET", "/user", users.list_users, "listing users"),
    ("POST", "/user", users.create_user, "creating user"),
    ("POST", "/user/{oldId}/rename/{newName}", users.rename_user, "renaming user"),
    ("DELETE", "/user/{id}", users.delete_user, "deleting user"),
    ("GET", "/preauthkey", preauthkeys.list_keys, "listing pre-auth keys"),
    ("POST", "/preauthkey", preauthkeys.create_key, "creating pre-auth key"),
    ("POST", "/preauthkey/expire", preauthkeys.expire_key, "expiring pre-auth key"),
    ("DELETE", "/preauthkey", preauthkeys.delete_key, "deleting pre-auth key"),
    ("GET", "/node", nodes.list_nodes, "listing nodes"),
    ("POST", "/node/register", nodes.register_node, "registering node"),
    ("GET", "/node/{nodeId}", nodes.get_node, "getting node"),
    ("DELETE", "/node/{nodeId}", nodes.delete_node, "deleting node"),
    ("POST", "/node/{nodeId}/expire", nodes.expire_node, "expiring node"),
    ("POST", "/node/{nodeId}/rename/{newName}", nodes.rename_node, "renaming node"),
    ("POST", "/node/{nodeId}/tags", nodes.set_tags, "setting tags"),
    ("POST", "/node/{nodeId}/approve_routes", nodes.approve_routes, "approving routes"),
    ("POST", "/node/{nodeId}/user", nodes.move_node, "moving node"),
    ("POST", "/auth/register", nodes.register_auth, "registering node"),
    ("GET", "/health", health.health, "checking health"),
)


def create_app(state: State) -> web.Application:
    """The API over `state`, for a listener whose callers are trusted: the unix socket, by its permissions.

    Callers are not told apart here. A listener for others puts a middleware before it that asks who they are.
    """
    app = web.Application(middlewares=[problems], client_max_size=MAX_BODY)
    for method, path, operation, action in OPERATIONS:
        app.router.add_route(method, BASE + path, _handler(state, operation, action))
    return app


def _handler(state: State, operation: Operation, action: str) -> Handler:
    """`operation` as aiohttp calls it. `action` says in a refusal what was being done."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            reply = await operation(state, request)
        except CoordinatorError as error:
            location = error.location if isinstance(error, BadRequest) else ""
            return problem(status_of(error), action, str(error), location)
        except web.HTTPException:
            raise
        except Exception:
            log.exception("admin API: %s failed", action)
            message = "the coordinator failed on this request; its log says why"
            return problem(HTTPStatus.INTERNAL_SERVER_ERROR, action, message)
        return web.Response(body=msgspec.json.encode(reply), content_type="application/json")

    return handle
