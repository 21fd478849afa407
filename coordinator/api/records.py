"""The coordinator's records as the API shows them (coordinator-behaviour §3.3)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network

from coordinator.api import shapes
from coordinator.model import (
    TAGGED_DEVICES_DISPLAY_NAME,
    TAGGED_DEVICES_ID,
    TAGGED_DEVICES_NAME,
    NodeRecord,
    PreAuthKey,
    RegisterMethod,
    User,
)
from coordinator.store import Snapshot
from meshproto.routes import sorted_prefixes

_METHODS = {
    RegisterMethod.CLI: "REGISTER_METHOD_CLI",
    RegisterMethod.AUTH_KEY: "REGISTER_METHOD_AUTH_KEY",
    RegisterMethod.OIDC: "REGISTER_METHOD_OIDC",
}
_TAGGED_DEVICES = shapes.User(
    id=str(TAGGED_DEVICES_ID),
    name=TAGGED_DEVICES_NAME,
    created_at=datetime(1, 1, 1, tzinfo=UTC),  # Go's zero time: it was never created
    display_name=TAGGED_DEVICES_DISPLAY_NAME,
    email="",
    provider_id="",
    provider="",
    profile_pic_url="",
)


def show_user(user: User) -> shapes.User:
    """A user; one without a name is called by what identifies it."""
    return shapes.User(
        id=str(user.id),
        name=user.name or user.username,
        created_at=user.created_at,
        display_name=user.display_name,
        email=user.email,
        provider_id=user.provider_identifier,
        provider=user.provider,
        profile_pic_url=user.profile_pic_url,
    )


def show_key(snapshot: Snapshot, key: PreAuthKey, secret: str | None = None) -> shapes.PreAuthKey:
    """A pre-auth key: masked, or as `secret` in the one reply that tells it."""
    return shapes.PreAuthKey(
        user=_user_by_id(snapshot, key.user_id),
        id=str(key.id),
        key=key.masked if secret is None else secret,
        reusable=key.reusable,
        ephemeral=key.ephemeral,
        used=key.used,
        expiration=key.expiration,
        created_at=key.created_at,
        acl_tags=list(key.tags),
    )


def show_node(snapshot: Snapshot, node: NodeRecord, *, in_list: bool = False) -> shapes.Node:
    """A node with its live state. In lists the owner of tagged nodes is the pseudo user `tagged-devices`."""
    key = None if node.auth_key_id is None else snapshot.pre_auth_keys.get(node.auth_key_id)
    owner = _user_by_id(snapshot, node.user_id)
    if in_list and node.is_tagged:
        owner = _TAGGED_DEVICES
    return shapes.Node(
        id=str(node.id),
        machine_key=str(node.machine_key),
        node_key=str(node.node_key),
        disco_key="" if node.disco_key is None else str(node.disco_key),
        ip_addresses=[str(address) for address in node.addresses],
        name=node.hostname,
        given_name=node.given_name,
        user=owner,
        last_seen=node.last_seen,
        expiry=node.expiry,
        pre_auth_key=None if key is None else show_key(snapshot, key),
        created_at=node.created_at,
        register_method=_METHODS[node.register_method],
        online=node.id in snapshot.online,
        approved_routes=_texts(node.approved_routes),
        available_routes=_texts(node.advertised_routes),
        subnet_routes=_texts((*snapshot.primaries.of(node.id), *node.exit_routes)),
        tags=list(node.tags),
        forced_tags=list(node.tags),
        valid_tags=[],
        invalid_tags=[],
        ephemeral=node.ephemeral,
    )


def _user_by_id(snapshot: Snapshot, user_id: int | None) -> shapes.User | None:
    user = None if user_id is None else snapshot.users.get(user_id)
    return None if user is None else show_user(user)


def _texts(prefixes: Iterable[IPv4Network | IPv6Network]) -> list[str]:
    return [str(prefix) for prefix in sorted_prefixes(prefixes)]
