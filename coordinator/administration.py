"""What an administrator does to users, pre-auth keys and nodes, as pure decisions.

Each function reads the state, refuses with a CoordinatorError, or returns the updates to make and the record
as it will be. State (state.py) runs them one after the other and stores the result before it answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TypeAlias, TypeVar

from coordinator import names
from coordinator.apikeys import ApiSecret
from coordinator.authkeys import Secret
from coordinator.errors import Conflict, Invalid, NotFound
from coordinator.model import (
    ApiKey,
    ApiKeyID,
    IPNetwork,
    NodeID,
    NodeRecord,
    PreAuthKey,
    PreAuthKeyID,
    User,
    UserID,
)
from coordinator.store import (
    PutApiKey,
    PutNode,
    PutPreAuthKey,
    PutUser,
    RemoveApiKey,
    RemoveNode,
    RemovePreAuthKey,
    RemoveUser,
    Update,
    View,
)
from meshproto.routes import sorted_prefixes, with_exit_pair

Result = TypeVar("Result")
Decision: TypeAlias = tuple[Sequence[Update], Result]


def user_of(view: View, user_id: UserID) -> User:
    """The user. Raises NotFound."""
    user = view.users.get(user_id)
    if user is None:
        raise NotFound(f"user not found: {user_id}")
    return user


def node_of(view: View, node_id: NodeID) -> NodeRecord:
    """The node. Raises NotFound."""
    node = view.nodes.get(node_id)
    if node is None:
        raise NotFound(f"node not found: {node_id}")
    return node


def key_of(view: View, key_id: PreAuthKeyID) -> PreAuthKey:
    """The pre-auth key. Raises NotFound."""
    key = view.pre_auth_keys.get(key_id)
    if key is None:
        raise NotFound(f"pre-auth key not found: {key_id}")
    return key


def create_user(
    view: View, name: str, display_name: str, email: str, picture_url: str, wall: datetime
) -> Decision[User]:
    """A new local user."""
    names.check_user_name(name)
    _check_user_name_free(view, name)
    user = User(
        id=view.counters.user + 1,
        name=name,
        created_at=wall,
        display_name=display_name,
        email=email,
        profile_pic_url=picture_url,
    )
    return [PutUser(user)], user


def rename_user(view: View, user_id: UserID, new_name: str) -> Decision[User]:
    """The same user under another name."""
    user = user_of(view, user_id)
    names.check_user_name(new_name)
    if new_name != user.name:
        _check_user_name_free(view, new_name)
    if user.provider:
        raise Invalid(f"user {user.name!r} comes from {user.provider} and cannot be renamed here")
    user = replace(user, name=new_name)
    return [PutUser(user)], user


def _check_user_name_free(view: View, name: str) -> None:
    if name in view.user_ids_by_name:
        raise Conflict(f"user {name!r} already exists")


def delete_user(view: View, user_id: UserID) -> Decision[None]:
    """Remove a user who owns no node, together with their pre-auth keys. Tagged nodes made by those stay."""
    user = user_of(view, user_id)
    owned = [node.id for node in view.nodes.values() if node.user_id == user_id]
    if owned:
        raise Conflict(
            f"user {user.name!r} still has nodes ({', '.join(map(str, owned))}); delete or move them first"
        )
    updates: list[Update] = []
    for key in [key for key in view.pre_auth_keys.values() if key.user_id == user_id]:
        updates += _key_removal(view, key.id)
    return [*updates, RemoveUser(user_id)], None


def create_pre_auth_key(
    view: View,
    user_id: UserID | None,
    reusable: bool,
    ephemeral: bool,
    expiration: datetime | None,
    tags: Iterable[str],
    secret: Secret,
    wall: datetime,
) -> Decision[PreAuthKey]:
    """A key for machines of the user, or with tags for machines that no user owns."""
    wanted = tuple(sorted(set(tags)))
    for tag in wanted:
        names.check_tag(tag)
    if user_id is not None:
        user_of(view, user_id)
    elif not wanted:
        raise Invalid("a pre-auth key needs a user or at least one tag")
    if secret.prefix in view.key_ids_by_prefix:
        raise Conflict("the random prefix of the new key is taken; try again")
    key = PreAuthKey(
        id=view.counters.pre_auth_key + 1,
        prefix=secret.prefix,
        hash=secret.hash,
        user_id=user_id,
        created_at=wall,
        reusable=reusable,
        ephemeral=ephemeral,
        tags=wanted,
        expiration=expiration,
    )
    return [PutPreAuthKey(key)], key


def expire_pre_auth_key(view: View, key_id: PreAuthKeyID, wall: datetime) -> Decision[PreAuthKey]:
    """No machine may join with the key any more. Those that did stay."""
    key = key_of(view, key_id)
    if not key.is_expired(wall):
        key = replace(key, expiration=wall)
    return [PutPreAuthKey(key)], key


def delete_pre_auth_key(view: View, key_id: PreAuthKeyID) -> Decision[None]:
    """Forget the key. Nodes that joined with it stay what they are, ephemeral ones too."""
    key_of(view, key_id)
    return _key_removal(view, key_id), None


def _key_removal(view: View, key_id: PreAuthKeyID) -> list[Update]:
    users = [node for node in view.nodes.values() if node.auth_key_id == key_id]
    return [*(PutNode(replace(node, auth_key_id=None)) for node in users), RemovePreAuthKey(key_id)]


def api_key_of(view: View, key_id: ApiKeyID) -> ApiKey:
    """The API key. Raises NotFound."""
    key = view.api_keys.get(key_id)
    if key is None:
        raise NotFound(f"API key not found: {key_id}")
    return key


def create_api_key(
    view: View, expiration: datetime | None, secret: ApiSecret, wall: datetime
) -> Decision[ApiKey]:
    """A key to the whole admin API."""
    if secret.prefix in view.api_key_ids_by_prefix:
        raise Conflict("the random prefix of the new key is taken; try again")
    key = ApiKey(
        id=view.counters.api_key + 1,
        prefix=secret.prefix,
        hash=secret.hash,
        created_at=wall,
        expiration=expiration,
    )
    return [PutApiKey(key)], key


def expire_api_key(view: View, key_id: ApiKeyID, wall: datetime) -> Decision[ApiKey]:
    """Nobody is let in by the key any more."""
    key = api_key_of(view, key_id)
    if not key.is_expired(wall):
        key = replace(key, expiration=wall)
    return [PutApiKey(key)], key


def note_api_key_use(view: View, key_id: ApiKeyID, wall: datetime) -> Decision[None]:
    """The key was used now; one that is gone meanwhile is left alone."""
    key = view.api_keys.get(key_id)
    return [] if key is None else [PutApiKey(replace(key, last_seen=wall))], None


def delete_api_key(view: View, key_id: ApiKeyID) -> Decision[None]:
    """Forget the key."""
    api_key_of(view, key_id)
    return [RemoveApiKey(key_id)], None


def expire_node(view: View, node_id: NodeID, at: datetime | None) -> Decision[NodeRecord]:
    """The node's key is good until `at`, or for ever (None). A time that has passed ends it now."""
    node = replace(node_of(view, node_id), expiry=at)
    return [PutNode(node)], node


def rename_node(view: View, node_id: NodeID, new_name: str) -> Decision[NodeRecord]:
    """Give the node another DNS label, which it keeps whatever its machine calls itself."""
    node = node_of(view, node_id)
    names.check_label(new_name)
    if view.node_ids_by_name.get(new_name, node_id) != node_id:
        raise Conflict(f"node name is not unique: {new_name!r} is taken")
    if names.fqdn(new_name, view.settings.base_domain) is None:
        raise Invalid(f"name {new_name!r} is too long together with the domain {view.settings.base_domain}")
    node = replace(node, given_name=new_name)
    return [PutNode(node)], node


def delete_node(view: View, node_id: NodeID) -> Decision[NodeRecord]:
    """Remove the node and free its addresses."""
    node = node_of(view, node_id)
    return [RemoveNode(node_id)], node


def move_node(view: View, node_id: NodeID, user_id: UserID) -> Decision[NodeRecord]:
    """Give a user's node to another user."""
    node = node_of(view, node_id)
    user = user_of(view, user_id)
    if node.is_tagged:
        raise Invalid(
            f"node {node.given_name!r} is tagged and owned by no user; log it in again as {user.name!r}"
        )
    twins = (view.nodes[twin] for twin in view.node_ids_by_machine[node.machine_key] if twin != node_id)
    if any(twin.user_id == user_id for twin in twins):
        raise Conflict(f"user {user.name!r} already has a node on the same machine; delete that one first")
    node = replace(node, user_id=user_id)
    return [PutNode(node)], node


def set_tags(view: View, node_id: NodeID, tags: Iterable[str]) -> Decision[NodeRecord]:
    """Make the node a tagged one: no user owns it and its key does not expire."""
    node = node_of(view, node_id)
    wanted = tuple(sorted(set(tags)))
    if not wanted:
        raise Invalid("cannot remove all tags from a node - tagged nodes must have at least one tag")
    for tag in wanted:
        names.check_tag(tag)
    node = replace(node, tags=wanted, user_id=None, expiry=None)
    return [PutNode(node)], node


def set_approved_routes(
    view: View, node_id: NodeID, prefixes: Iterable[IPNetwork], in_advance: bool = False
) -> Decision[NodeRecord]:
    """Exactly these routes of the node are approved; one exit route means both.

    A route has to be advertised by the node, or be approved already: approvals survive withdrawal. With
    `in_advance` any route is stored, and takes effect when the node advertises it, as Headscale's API has it.
    """
    node = node_of(view, node_id)
    wanted = with_exit_pair(prefixes)
    known = {*with_exit_pair(node.advertised_routes), *node.approved_routes}
    unknown = sorted_prefixes(wanted - known)
    if unknown and not in_advance:
        advertised = ", ".join(map(str, sorted_prefixes(node.advertised_routes))) or "nothing"
        raise Invalid(
            f"node {node.given_name!r} does not advertise {', '.join(map(str, unknown))}; "
            f"it advertises {advertised}"
        )
    node = replace(node, approved_routes=sorted_prefixes(wanted))
    return [PutNode(node)], node
