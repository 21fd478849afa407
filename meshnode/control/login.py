"""What to ask at registration, and what to do with the answer: decisions only (control protocol §6.3, §6.4).

An `Attempt` is one question; `consume` turns the answer into the next step. Which key is asked for:

- a node that was logged in asks with the key it has (`resume`), so that a restart changes nothing;
- a new login, wanted by a person or because the key expired, makes a new key and names the former one
  (`fresh`), so that the coordinator keeps the node's identity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from meshnode.control.errors import login_refused
from meshproto.capver import CURRENT_CAPABILITY_VERSION
from meshproto.keys import NodePrivate, NodePublic
from meshproto.messages import Hostinfo, Login, RegisterAuth, RegisterRequest, RegisterResponse, User

LOGOUT_EXPIRY = datetime(1970, 1, 1, 0, 2, 3, tzinfo=UTC)
"""A time in the past: expire this key now."""
TAILNET_LOCK_MARK = "--TL"
"""What follows this in an auth key is for tailnet lock and never leaves the node (control protocol §6.1)."""

Entropy = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One registration request."""

    node_key: NodePrivate
    old_node_key: NodePrivate | None = None
    is_fresh: bool = False
    """The key was made for this login."""
    auth_key: str = ""
    followup: str = ""
    """The URL at which a person is asked."""

    def __repr__(self) -> str:
        return f"<Attempt {self.node_key.public.short()} fresh={self.is_fresh} followup={self.followup!r}>"


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """The coordinator knows us by this key."""

    node_key: NodePrivate
    old_node_key: NodePrivate | None
    user: User
    login: Login


@dataclass(frozen=True, slots=True)
class AwaitApproval:
    """A person must visit `url`; ask again with `attempt`, which waits for them."""

    url: str
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class AskAgain:
    """The key has expired; ask with a new one."""

    attempt: Attempt


def resume(node_key: NodePrivate, old_node_key: NodePrivate | None) -> Attempt:
    """After a restart."""
    return Attempt(node_key, old_node_key)


def fresh(former: NodePrivate | None, auth_key: str, entropy: Entropy) -> Attempt:
    """A login with a new key. `former` is the key of the login before, if there was one."""
    return Attempt(
        NodePrivate.generate(entropy),
        former,
        is_fresh=True,
        auth_key=auth_key.partition(TAILNET_LOCK_MARK)[0],
    )


def register_request(attempt: Attempt, hostinfo: Hostinfo) -> RegisterRequest:
    """The message that asks it."""
    return RegisterRequest(
        version=CURRENT_CAPABILITY_VERSION,
        node_key=attempt.node_key.public,
        old_node_key=_public_or_zero(attempt.old_node_key),
        auth=RegisterAuth(auth_key=attempt.auth_key) if attempt.auth_key else None,
        followup=attempt.followup,
        hostinfo=hostinfo,
    )


def logout_request(
    node_key: NodePrivate, old_node_key: NodePrivate | None, hostinfo: Hostinfo
) -> RegisterRequest:
    """Expire our key at the coordinator."""
    return RegisterRequest(
        version=CURRENT_CAPABILITY_VERSION,
        node_key=node_key.public,
        old_node_key=_public_or_zero(old_node_key),
        expiry=LOGOUT_EXPIRY,
        hostinfo=hostinfo,
    )


def consume(
    attempt: Attempt, response: RegisterResponse, entropy: Entropy
) -> LoggedIn | AwaitApproval | AskAgain:
    """The next step. The order of the checks is the protocol's (§6.2). Raises LoginRefused."""
    if response.error:
        raise login_refused(response.error)
    if response.node_key_signature:
        raise login_refused(
            "the network wants tailnet-lock signatures", "meshnode does not speak tailnet lock"
        )
    if response.node_key_expired:
        if attempt.is_fresh:
            raise login_refused(
                "it calls a key expired that was made just now", "check the coordinator's log"
            )
        return AskAgain(fresh(attempt.node_key, attempt.auth_key, entropy))
    if response.auth_url:
        return AwaitApproval(response.auth_url, replace(attempt, followup=response.auth_url))
    return LoggedIn(attempt.node_key, attempt.old_node_key, response.user, response.login)


def _public_or_zero(key: NodePrivate | None) -> NodePublic:
    return key.public if key is not None else NodePublic.zero()
