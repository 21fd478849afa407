"""The JSON of the admin API: what it takes and answers, in Headscale's names (coordinator-behaviour §3.3).

Ids are decimal strings; times are RFC 3339 in UTC or null; arrays and scalars are always present. Requests
are closed: an unknown field is refused, because it is a mistyped one more often than not.
"""

from __future__ import annotations

from datetime import datetime

import msgspec


class _Reply(msgspec.Struct, rename="camel"):
    """Base of what is answered."""


class _Request(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Base of what is taken."""


class User(_Reply):
    id: str
    name: str
    created_at: datetime
    display_name: str
    email: str
    provider_id: str
    provider: str
    profile_pic_url: str


class PreAuthKey(_Reply):
    """`key` is the whole key in the reply that creates it, and masked everywhere else."""

    user: User | None
    id: str
    key: str
    reusable: bool
    ephemeral: bool
    used: bool
    expiration: datetime | None
    created_at: datetime
    acl_tags: list[str]


class Node(_Reply):
    """`available_routes` are advertised, `approved_routes` allowed, `subnet_routes` served right now.

    `forced_tags`, `valid_tags` and `invalid_tags` are how Headscale up to 0.27 told `tags`. `ephemeral` is
    ours: it stays true when the pre-auth key that made the node so is deleted.
    """

    id: str
    machine_key: str
    node_key: str
    disco_key: str
    ip_addresses: list[str]
    name: str
    given_name: str
    user: User | None
    last_seen: datetime | None
    expiry: datetime | None
    pre_auth_key: PreAuthKey | None
    created_at: datetime
    register_method: str
    online: bool
    approved_routes: list[str]
    available_routes: list[str]
    subnet_routes: list[str]
    tags: list[str]
    forced_tags: list[str]
    valid_tags: list[str]
    invalid_tags: list[str]
    ephemeral: bool


class UserReply(_Reply):
    user: User


class UsersReply(_Reply):
    users: list[User]


class NodeReply(_Reply):
    node: Node


class NodesReply(_Reply):
    nodes: list[Node]


class PreAuthKeyReply(_Reply):
    pre_auth_key: PreAuthKey


class PreAuthKeysReply(_Reply):
    pre_auth_keys: list[PreAuthKey]


class HealthReply(_Reply):
    database_connectivity: bool


class EmptyReply(_Reply):
    """`{}`: done, nothing to say."""


class ProblemDetail(_Reply, omit_defaults=True):
    """One cause. `location` is the field or parameter at fault, where there is one."""

    message: str
    location: str = ""


class Problem(_Reply):
    """A refusal (RFC 7807). `code` and `message` repeat it as Headscale up to 0.29 did, for its clients."""

    title: str
    status: int
    detail: str
    errors: list[ProblemDetail]
    code: int
    message: str


class CreateUser(_Request):
    name: str
    display_name: str = ""
    email: str = ""
    picture_url: str = ""


class CreatePreAuthKey(_Request):
    """Without `expiration` the key can be used for an hour, as with the command line."""

    user: str | int | None = None
    reusable: bool = False
    ephemeral: bool = False
    expiration: datetime | None = None
    acl_tags: list[str] | None = None


class ExpirePreAuthKey(_Request):
    """By `id`; up to Headscale 0.27 by `user` and `key`."""

    id: str | int | None = None
    user: str | int | None = None
    key: str | None = None


class RegisterNode(_Request):
    """`user` is a name."""

    user: str
    auth_id: str


class ExpireNode(_Request):
    """With neither field: now."""

    expiry: datetime | None = None
    disable_expiry: bool = False


class SetTags(_Request):
    tags: list[str]


class SetApprovedRoutes(_Request):
    routes: list[str]


class MoveNode(_Request):
    user: str | int
