"""Registration (reference §6) and the `/key` reply that precedes it (§2.1)."""

from __future__ import annotations

from datetime import datetime

from meshproto.gotime import ZERO_TIME, OptionalTime, Time, none_if_zero
from meshproto.keys import ChallengePublic, MachinePublic, NetworkLockPublic, NodePublic
from meshproto.messages.base import Int64, Message, always
from meshproto.messages.hostinfo import Hostinfo


class OverTLSPublicKeyResponse(Message, frozen=True, kw_only=True, rename="camel"):
    """Reply of `GET /key`: the server's Noise key. The legacy key is all zero nowadays."""

    legacy_public_key: MachinePublic = always(MachinePublic.zero())
    public_key: MachinePublic = always(MachinePublic.zero())


class EarlyNoise(Message, frozen=True, kw_only=True, rename="camel"):
    """The early payload (reference §4)."""

    node_key_challenge: ChallengePublic = always(ChallengePublic.zero())


class RegisterAuth(Message, frozen=True, kw_only=True):
    """The credential of a register request; old clients send it with an empty key, which means none."""

    auth_key: str = ""

    def __repr__(self) -> str:
        return "<RegisterAuth redacted>"


class RegisterRequest(Message, frozen=True, kw_only=True):
    """Body of `POST /machine/register`."""

    version: Int64 = always(0)
    node_key: NodePublic = always(NodePublic.zero())
    old_node_key: NodePublic = always(NodePublic.zero())
    nl_key: NetworkLockPublic = always(NetworkLockPublic.zero())
    auth: RegisterAuth | None = None
    expiry: Time = always(ZERO_TIME)
    """See `requested_expiry`. A time in the past logs the node out."""
    followup: str = always("")
    """The `auth_url` being waited for, or empty."""
    hostinfo: Hostinfo | None = always(None)
    ephemeral: bool = False
    node_key_signature: bytes | None = always(None)
    signature_type: str = ""
    timestamp: OptionalTime = None
    device_cert: bytes | None = None
    signature: bytes | None = None
    tailnet: str = ""

    @property
    def auth_key(self) -> str:
        """The pre-auth key, empty when the request has none."""
        return self.auth.auth_key if self.auth is not None else ""

    @property
    def requested_expiry(self) -> datetime | None:
        """`expiry`, or None when no expiry is asked for."""
        return none_if_zero(self.expiry)


class User(Message, frozen=True, kw_only=True):
    """The owner of the node, as a register response names them."""

    id: Int64 = always(0)
    display_name: str = always("")
    profile_pic_url: str = ""
    created: OptionalTime = None


class Login(Message, frozen=True, kw_only=True):
    """The identity-provider account behind the user."""

    id: Int64 = always(0)
    provider: str = always("")
    login_name: str = always("")
    display_name: str = always("")
    profile_pic_url: str = ""


class RegisterResponse(Message, frozen=True, kw_only=True):
    """Reply to a register request; clients look at error, signature, expiry and URL, in that order."""

    user: User = always(User())
    login: Login = always(Login())
    node_key_expired: bool = always(False)
    machine_authorized: bool = always(False)
    auth_url: str = always("")
    node_key_signature: bytes | None = always(None)
    error: str = always("")
