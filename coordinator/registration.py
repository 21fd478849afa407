"""Who may join, as what, and what a register request is answered (control-protocol §6.4, §6.5).

Every decision is a pure function of the state, the request and the time. It returns the updates to make and
the answer to give once they are stored. Refusals are raised as CoordinatorError; the server puts their text
into `RegisterResponse.error`, which the node shows its user word for word.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias
from urllib.parse import urlsplit

import msgspec

from coordinator import authkeys, ipalloc, names
from coordinator.errors import Conflict, Invalid
from coordinator.model import (
    TAGGED_DEVICES_DISPLAY_NAME,
    TAGGED_DEVICES_ID,
    TAGGED_DEVICES_NAME,
    NodeRecord,
    PreAuthKey,
    PreAuthKeyID,
    RegisterMethod,
    UserID,
)
from coordinator.pending import JoinRequest, is_registration_id
from coordinator.store import PutNode, PutPreAuthKey, RemoveNode, Update, View
from meshproto import messages
from meshproto.keys import MachinePublic, NodePublic
from meshproto.messages import Hostinfo, RegisterRequest, RegisterResponse

Entropy: TypeAlias = Callable[[int], bytes]

MAX_HOSTNAME = 255  # characters of a reported host name that are kept
MAX_KEPT_TEXT = 128  # characters of other texts, and
MAX_KEPT_ITEMS = 64  # routes and tags, that are kept of a machine that waits for approval


@dataclass(frozen=True, slots=True)
class Settled:
    """The request is decided: make `updates`, then answer `response`.

    `node` is the node that it is about, as updated.
    """

    response: RegisterResponse
    updates: tuple[Update, ...] = ()
    node: NodeRecord | None = None


@dataclass(frozen=True, slots=True)
class Follow:
    """The machine waits for the approval of `registration_id`; `join` is what a fresh one would hold."""

    registration_id: str
    join: JoinRequest


@dataclass(frozen=True, slots=True)
class Ask:
    """A person has to approve `join`: enter it and answer with its URL."""

    join: JoinRequest


Outcome: TypeAlias = Settled | Follow | Ask


@dataclass(frozen=True, slots=True)
class Ownership:
    """As whose node a machine comes in: a user's, or, with tags, nobody's."""

    user_id: UserID | None
    tags: tuple[str, ...] = ()


def decide(
    view: View, machine_key: MachinePublic, request: RegisterRequest, wall: datetime, entropy: Entropy
) -> Outcome:
    """What a register request of the machine with `machine_key` leads to.

    Raises CoordinatorError to refuse it.
    """
    if request.node_key.is_zero:
        raise Invalid("the register request has no node key")
    node = node_of(view, machine_key, request.node_key)
    expiry = request.requested_expiry
    # A logout may still carry an auth key, so a past expiry is looked at before anything else.
    if expiry is not None and expiry <= wall:
        return _log_out(node, wall)
    if not request.auth_key and node is not None:
        if node.is_expired(wall):
            return Settled(RegisterResponse(node_key_expired=True), node=node)
        if expiry is not None:
            raise Invalid("extending key is not allowed")
        return Settled(response_for(view, node, wall), node=node)
    join = JoinRequest(machine_key, request.node_key, request.hostinfo or Hostinfo(), expiry)
    if request.followup:
        return Follow(_followed_id(request.followup), _to_keep(join))
    if request.auth_key:
        return _join_with_key(view, request.auth_key, join, wall, entropy)
    return Ask(_to_keep(join))


def approve(
    view: View, join: JoinRequest, user_id: UserID, method: RegisterMethod, wall: datetime, entropy: Entropy
) -> Settled:
    """A person lets `join` in as a node of the user.

    Raises CoordinatorError, among others for tags not permitted.
    """
    tags = tuple(sorted(set(join.hostinfo.request_tags)))
    if not view.policy.permits_tags(view.users[user_id], tags):
        raise _tags_refused(tags)
    owner = Ownership(None, tags) if tags else Ownership(user_id)
    existing = _existing_node(view, join.machine_key, user_id, bool(tags))
    node = _admit(view, existing, join, owner, method, wall, entropy)
    return Settled(response_for(view, node, wall), (PutNode(node),), node)


def node_of(view: View, machine_key: MachinePublic, node_key: NodePublic) -> NodeRecord | None:
    """The node with this key, or None.

    Raises Invalid when it belongs to another machine: node keys are public.
    """
    node_id = view.node_ids_by_node_key.get(node_key)
    if node_id is None:
        return None
    node = view.nodes[node_id]
    if node.machine_key != machine_key:
        raise Invalid("node exists with a different machine key")
    return node


def response_for(view: View, node: NodeRecord, wall: datetime) -> RegisterResponse:
    """The answer that describes `node` and its owner."""
    owner = view.users.get(node.user_id) if node.user_id is not None else None
    if owner is None:
        user = messages.User(id=TAGGED_DEVICES_ID, display_name=TAGGED_DEVICES_DISPLAY_NAME)
        login = messages.Login(
            id=TAGGED_DEVICES_ID,
            login_name=TAGGED_DEVICES_NAME,
            display_name=TAGGED_DEVICES_DISPLAY_NAME,
        )
    else:
        shown = owner.display_name or owner.username
        user = messages.User(
            id=owner.id,
            display_name=shown,
            profile_pic_url=owner.profile_pic_url,
            created=owner.created_at,
        )
        login = messages.Login(
            id=owner.id,
            provider=owner.provider,
            login_name=owner.username,
            display_name=shown,
            profile_pic_url=owner.profile_pic_url,
        )
    return RegisterResponse(
        user=user, login=login, machine_authorized=True, node_key_expired=node.is_expired(wall)
    )


def renamed_to_host(node: NodeRecord, hostname: str, taken: Container[str]) -> str:
    """The given name once the machine calls itself `hostname`: kept if an administrator chose it."""
    if not names.follows_hostname(node.given_name, node.hostname):
        return node.given_name
    if names.given_name(hostname) == names.given_name(node.hostname):
        return node.given_name
    return names.unique_name(names.given_name(hostname), taken)


def merged_hostinfo(known: Hostinfo, reported: Hostinfo | None) -> Hostinfo:
    """What is known after a report: a node that does not know its network yet does not make us forget it."""
    if reported is None:
        return known
    if known.net_info is None:
        return reported
    if reported.net_info is None:
        return msgspec.structs.replace(reported, net_info=known.net_info)
    varies = known.net_info.mapping_varies_by_dest_ip
    if reported.net_info.mapping_varies_by_dest_ip is None and varies is not None:
        # Checks that ask one STUN server cannot tell, and come between those that can. Peers would be told of
        # each.
        net_info = msgspec.structs.replace(reported.net_info, mapping_varies_by_dest_ip=varies)
        return msgspec.structs.replace(reported, net_info=net_info)
    return reported


def _log_out(node: NodeRecord | None, wall: datetime) -> Settled:
    gone = RegisterResponse(node_key_expired=True)
    if node is None or node.is_expired(wall):
        return Settled(gone, node=node)
    if node.ephemeral:
        return Settled(gone, (RemoveNode(node.id),))
    # Now, not the year 1970 that clients send: peers would show the difference as an age.
    node = replace(node, expiry=wall)
    return Settled(gone, (PutNode(node),), node)


def _followed_id(followup: str) -> str:
    registration_id = urlsplit(followup).path.rpartition("/")[2]
    if not is_registration_id(registration_id):
        raise Invalid("invalid registration ID")
    return registration_id


def _to_keep(join: JoinRequest) -> JoinRequest:
    """`join` as it may wait in memory for anybody who asks: the little that approval looks at.

    The node reports the rest once it is in.
    """
    asked = join.hostinfo
    kept = Hostinfo(
        hostname=asked.hostname[:MAX_HOSTNAME],
        os=asked.os[:MAX_KEPT_TEXT],
        routable_ips=asked.routable_ips[:MAX_KEPT_ITEMS],
        request_tags=tuple(tag[:MAX_KEPT_TEXT] for tag in asked.request_tags[:MAX_KEPT_ITEMS]),
    )
    return replace(join, hostinfo=kept)


def _join_with_key(view: View, text: str, join: JoinRequest, wall: datetime, entropy: Entropy) -> Settled:
    key = _find_key(view, text)
    existing = _existing_node(view, join.machine_key, key.user_id, bool(key.tags))
    if existing is not None and _keeps_its_place(existing, key, join, wall):
        # A container that starts again with the one-shot key it joined with.
        return Settled(response_for(view, existing, wall), node=existing)
    _check_key(key, wall)
    if join.hostinfo.request_tags:
        raise _tags_refused(join.hostinfo.request_tags)
    owner = Ownership(None, key.tags) if key.tags else Ownership(key.user_id)
    node = _admit(view, existing, join, owner, RegisterMethod.AUTH_KEY, wall, entropy, key)
    updates: tuple[Update, ...] = (PutNode(node),)
    if not key.reusable:
        updates += (PutPreAuthKey(replace(key, used=True)),)
    return Settled(response_for(view, node, wall), updates, node)


def _find_key(view: View, text: str) -> PreAuthKey:
    secret = authkeys.parse(text)
    key_id: PreAuthKeyID | None = view.key_ids_by_prefix.get(secret.prefix) if secret is not None else None
    if secret is None or key_id is None or not secret.opens(view.pre_auth_keys[key_id]):
        raise Invalid("invalid pre auth key; check it, or create one with: coordinator preauthkeys create")
    return view.pre_auth_keys[key_id]


def _check_key(key: PreAuthKey, wall: datetime) -> None:
    fix = "create a new one with: coordinator preauthkeys create"
    if key.revoked is not None:
        raise Invalid(f"authkey revoked; {fix}")
    if key.is_expired(wall):
        raise Invalid(f"authkey expired; {fix}")
    if key.used and not key.reusable:
        raise Invalid(f"authkey already used; {fix}")


def _keeps_its_place(node: NodeRecord, key: PreAuthKey, join: JoinRequest, wall: datetime) -> bool:
    same_kind_of_owner = node.is_tagged == bool(key.tags)
    return node.node_key == join.node_key and not node.is_expired(wall) and same_kind_of_owner


def _existing_node(
    view: View, machine_key: MachinePublic, user_id: UserID | None, tagged: bool
) -> NodeRecord | None:
    """The node that this machine already has under that owner, or that converts between user and tags.

    Another user's node of the machine is none of it: that user's login makes a second node.
    """
    nodes = [view.nodes[node_id] for node_id in view.node_ids_by_machine.get(machine_key, ())]
    own = next((node for node in nodes if not node.is_tagged and node.user_id == user_id), None)
    tagged_one = next((node for node in nodes if node.is_tagged), None)
    if not tagged:
        return own or tagged_one
    if tagged_one is not None or user_id is not None:
        return tagged_one or own
    return nodes[0] if len(nodes) == 1 else None


def _admit(
    view: View,
    existing: NodeRecord | None,
    join: JoinRequest,
    owner: Ownership,
    method: RegisterMethod,
    wall: datetime,
    entropy: Entropy,
    key: PreAuthKey | None = None,
) -> NodeRecord:
    """The record of the machine once it is in: a new one, or `existing` with its id, addresses and name."""
    holder = node_of(view, join.machine_key, join.node_key)
    if holder is not None and (existing is None or holder.id != existing.id):
        raise Conflict(
            "the node key of this machine is registered under another owner; "
            "log in with a new one (--force-reauth)"
        )
    hostname = join.hostinfo.hostname[:MAX_HOSTNAME]
    if existing is None:
        existing = _new_node(view, join, hostname, wall, entropy)
    given_name = renamed_to_host(existing, hostname, view.node_ids_by_name)
    return replace(
        existing,
        node_key=join.node_key,
        hostname=hostname,
        given_name=given_name,
        hostinfo=merged_hostinfo(existing.hostinfo, join.hostinfo),
        user_id=owner.user_id,
        tags=owner.tags,
        register_method=method,
        auth_key_id=key.id if key is not None else None,
        ephemeral=key is not None and key.ephemeral,
        # Set anew each time: a login must never leave an old expiry behind (a tagged node that logged out
        # would be answered "expired" for ever).
        expiry=None if owner.tags else _expiry(view, join, wall),
    )


def _new_node(view: View, join: JoinRequest, hostname: str, wall: datetime, entropy: Entropy) -> NodeRecord:
    ipv4, ipv6 = ipalloc.allocate(view, entropy)
    return NodeRecord(
        id=view.counters.node + 1,
        machine_key=join.machine_key,
        node_key=join.node_key,
        hostname=hostname,
        given_name=names.unique_name(names.given_name(hostname), view.node_ids_by_name),
        created_at=wall,
        ipv4=ipv4,
        ipv6=ipv6,
        last_seen=wall,
    )


def _expiry(view: View, join: JoinRequest, wall: datetime) -> datetime | None:
    if join.requested_expiry is not None:
        return join.requested_expiry
    lifetime = view.settings.node_expiry
    return wall + lifetime if lifetime else None


def _tags_refused(tags: Iterable[str]) -> Invalid:
    return Invalid(f"requested tags [{', '.join(tags)}] are invalid or not permitted")
