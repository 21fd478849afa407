"""`/preauthkey`: credentials with which nodes join without a person."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from aiohttp import web

from coordinator.api.problems import BadRequest
from coordinator.api.records import show_key
from coordinator.api.requests import instant, optional_id, query_id, read_body, required_id
from coordinator.api.shapes import (
    CreatePreAuthKey,
    EmptyReply,
    ExpirePreAuthKey,
    PreAuthKeyReply,
    PreAuthKeysReply,
)
from coordinator.errors import NotFound
from coordinator.state import State

DEFAULT_LIFETIME = timedelta(hours=1)  # Headscale stores the zero time instead: a key that never worked
KEY_START = "hskey-auth-"
PREFIX_SIZE = 12


async def list_keys(state: State, request: web.Request) -> PreAuthKeysReply:
    """All keys, or those of the user whose ID is the query's `user` (which Headscale 0.27 required)."""
    owner = query_id(request, "user")
    snapshot = state.snapshot
    keys = sorted(snapshot.pre_auth_keys.values(), key=lambda key: key.id)
    return PreAuthKeysReply([show_key(snapshot, key) for key in keys if owner in (None, key.user_id)])


async def create_key(state: State, request: web.Request) -> PreAuthKeyReply:
    """A new key; this reply is the only one that tells it."""
    wish = await read_body(request, CreatePreAuthKey)
    expiration = instant(wish.expiration, "body.expiration") or datetime.now(UTC) + DEFAULT_LIFETIME
    key, secret = await state.create_pre_auth_key(
        optional_id(wish.user, "body.user"),
        wish.reusable,
        wish.ephemeral,
        expiration,
        tuple(wish.acl_tags or ()),
    )
    return PreAuthKeyReply(show_key(state.snapshot, key, secret))


async def expire_key(state: State, request: web.Request) -> EmptyReply:
    wish = await read_body(request, ExpirePreAuthKey)
    by_key = wish.key if wish.id is None else None
    key_id = _id_of(state, by_key) if by_key else required_id(wish.id, "body.id")
    await state.expire_pre_auth_key(key_id)
    return EmptyReply()


async def delete_key(state: State, request: web.Request) -> EmptyReply:
    key_id = query_id(request, "id")
    if key_id is None:
        raise BadRequest("id: the ID of the key is required, as in ?id=3", "query.id")
    await state.delete_pre_auth_key(key_id)
    return EmptyReply()


def _id_of(state: State, key: str) -> int:
    """The key by itself, whole or masked. Never repeats it: it may be whole."""
    prefix = key.removeprefix(KEY_START)[:PREFIX_SIZE]
    key_id = state.snapshot.key_ids_by_prefix.get(prefix)
    if key_id is None:
        raise NotFound("no pre-auth key begins like the one given")
    return key_id
