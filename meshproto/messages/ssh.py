"""Who may log in over the tunnel's SSH server (reference §8.8). Names are lowerCamel on the wire."""

from __future__ import annotations

import msgspec

from meshproto.addresses import AddrPorts, Endpoints
from meshproto.gotime import OptionalTime
from meshproto.messages.base import Int64, Message, always


class SSHRecorderFailureAction(Message, frozen=True, kw_only=True):
    """What happens when a session cannot be recorded."""

    reject_session_with_message: str = ""
    terminate_session_with_message: str = ""
    notify_url: str = ""


class SSHAction(Message, frozen=True, kw_only=True, rename="camel"):
    """What to do with a matching session; `hold_and_delegate` is a URL that is asked for the final action."""

    message: str = ""
    reject: bool = False
    accept: bool = False
    session_duration: Int64 = 0
    """Nanoseconds, 0 for no limit."""
    allow_agent_forwarding: bool = False
    hold_and_delegate: str = ""
    allow_local_port_forwarding: bool = False
    allow_remote_port_forwarding: bool = False
    recorders: Endpoints = AddrPorts()
    on_recording_failure: SSHRecorderFailureAction | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.recorders, AddrPorts):
            msgspec.structs.force_setattr(self, "recorders", AddrPorts(self.recorders))


class SSHPrincipal(Message, frozen=True, kw_only=True, rename="camel"):
    """Who connects; any of the fields that are set may match."""

    node: str = ""
    node_ip: str = msgspec.field(name="nodeIP", default="")
    user_login: str = ""
    any: bool = False


class SSHRule(Message, frozen=True, kw_only=True, rename="camel"):
    """Principals, the users they may become, and the action. The first matching rule wins."""

    rule_expires: OptionalTime = None
    principals: tuple[SSHPrincipal, ...] = always(())
    ssh_users: dict[str, str] = msgspec.field(default_factory=dict)
    """Requested user -> local user; `=` keeps the name, empty denies, the key `*` matches any."""
    action: SSHAction | None = always(None)
    accept_env: tuple[str, ...] = ()


class SSHPolicy(Message, frozen=True, kw_only=True, rename="camel"):
    """All rules. Sticky: only an explicit empty list takes an earlier policy back."""

    rules: tuple[SSHRule, ...] = always(())
