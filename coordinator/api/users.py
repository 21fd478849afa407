"""`/user`: the owners of nodes."""

from __future__ import annotations

from aiohttp import web

from coordinator.api.problems import BadRequest
from coordinator.api.records import show_user
from coordinator.api.requests import path_id, query_id, read_body
from coordinator.api.shapes import CreateUser, EmptyReply, UserReply, UsersReply
from coordinator.errors import Conflict
from coordinator.state import State


async def list_users(state: State, request: web.Request) -> UsersReply:
    """All users, or those that one of the query's filters finds: `name`, else `email`, else `id`."""
    name, email = request.query.get("name"), request.query.get("email")
    wanted_id = query_id(request, "id")
    found = sorted(state.snapshot.users.values(), key=lambda user: user.id)
    if name:
        found = [user for user in found if user.name == name]
    elif email:
        found = [user for user in found if user.email == email]
    elif wanted_id is not None:
        found = [user for user in found if user.id == wanted_id]
    return UsersReply([show_user(user) for user in found])


async def create_user(state: State, request: web.Request) -> UserReply:
    wish = await read_body(request, CreateUser)
    user = await state.create_user(wish.name, wish.display_name, wish.email, wish.picture_url)
    return UserReply(show_user(user))


async def rename_user(state: State, request: web.Request) -> UserReply:
    user = await state.rename_user(path_id(request, "oldId"), request.match_info["newName"])
    return UserReply(show_user(user))


async def delete_user(state: State, request: web.Request) -> EmptyReply:
    """Deletes the user and its pre-auth keys. One that owns nodes is refused, with 400 as Headscale does."""
    try:
        await state.delete_user(path_id(request, "id"))
    except Conflict as error:
        raise BadRequest(str(error)) from error
    return EmptyReply()
