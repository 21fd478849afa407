"""The coordinator's records: users, nodes, pre-auth keys. Immutable values; a change is a new value.

All times are UTC datetimes, all collections are sorted tuples, so that two equal records compare equal and
print the same. What is only true while the process runs (who is connected, who serves a route) is not here
but in the `Snapshot` (store.py).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic, MachinePublic, NodePublic
from meshproto.messages import Hostinfo
from meshproto.routes import EXIT_ROUTES, effective_routes, sorted_prefixes

UserID: TypeAlias = int
NodeID: TypeAlias = int
PreAuthKeyID: TypeAlias = int
ApiKeyID: TypeAlias = int
IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network


class RegisterMethod(enum.StrEnum):
    """How a node was let in. The values are what Headscale stores."""

    CLI = "cli"
    AUTH_KEY = "authkey"
    OIDC = "oidc"


@dataclass(frozen=True, slots=True)
class User:
    """An owner of nodes. `name` is unique among local users (those without a provider)."""

    id: UserID
    name: str
    created_at: datetime
    display_name: str = ""
    email: str = ""
    provider_identifier: str = ""
    provider: str = ""
    profile_pic_url: str = ""

    @property
    def username(self) -> str:
        """What maps and policies call the user: e-mail, else name, else provider identifier, else id."""
        return self.email or self.name or self.provider_identifier or str(self.id)


# The owner that maps and lists show for tagged nodes. It is never stored (coordinator-behaviour §5.4).
TAGGED_DEVICES_ID: UserID = 2147455555
TAGGED_DEVICES_NAME = "tagged-devices"
TAGGED_DEVICES_DISPLAY_NAME = "Tagged Devices"


@dataclass(frozen=True, slots=True)
class PreAuthKey:
    """A credential that lets machines join without a person. The secret itself is never kept, only its hash.

    `prefix` is the 12 hex digits in the clear, `hash` the SHA-256 of the secret in hex (docs/adr/0004).
    A key with tags makes tagged nodes, which no user owns; `user_id` may then be None.
    """

    id: PreAuthKeyID
    prefix: str
    hash: str
    user_id: UserID | None
    created_at: datetime
    reusable: bool = False
    ephemeral: bool = False
    used: bool = False
    tags: tuple[str, ...] = ()
    expiration: datetime | None = None
    revoked: datetime | None = None

    @property
    def masked(self) -> str:
        """How lists show the key: recognisable, useless to join with."""
        return f"hskey-auth-{self.prefix}-***"

    def is_expired(self, at: datetime) -> bool:
        """Whether its lifetime is over at `at`."""
        return self.expiration is not None and self.expiration <= at


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A credential for the admin API from anywhere. The secret itself is never kept, only its hash.

    `prefix` is in the clear, `hash` the SHA-256 of the secret in hex. `last_seen` is about when it was used.
    """

    id: ApiKeyID
    prefix: str
    hash: str
    created_at: datetime
    expiration: datetime | None = None
    last_seen: datetime | None = None

    @property
    def masked(self) -> str:
        """How lists show the key: recognisable, useless to call with."""
        return f"hskey-api-{self.prefix}-***"

    def is_expired(self, at: datetime) -> bool:
        """Whether its lifetime is over at `at`."""
        return self.expiration is not None and self.expiration <= at


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A machine registered under one owner.

    `hostname` is what the machine says, `given_name` the unique DNS label made from it (names.py).
    `endpoints`, `hostinfo`, `disco_key` and `capability_version` are what the node last reported.
    `approved_routes` is the administrator's list and survives withdrawal by the node. Tagged nodes have no
    `user_id` and no `expiry`.
    """

    id: NodeID
    machine_key: MachinePublic
    node_key: NodePublic
    hostname: str
    given_name: str
    created_at: datetime
    user_id: UserID | None = None
    disco_key: DiscoPublic | None = None
    endpoints: tuple[AddrPort, ...] = ()
    hostinfo: Hostinfo = field(default_factory=Hostinfo)
    capability_version: int = 0
    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None
    register_method: RegisterMethod = RegisterMethod.CLI
    tags: tuple[str, ...] = ()
    auth_key_id: PreAuthKeyID | None = None
    ephemeral: bool = False
    last_seen: datetime | None = None
    expiry: datetime | None = None
    approved_routes: tuple[IPNetwork, ...] = ()

    @property
    def is_tagged(self) -> bool:
        return bool(self.tags)

    @property
    def addresses(self) -> tuple[IPAddress, ...]:
        """The node's own addresses, IPv4 first."""
        return tuple(address for address in (self.ipv4, self.ipv6) if address is not None)

    @property
    def advertised_routes(self) -> tuple[IPNetwork, ...]:
        """What the node offers: subnet routes and exit routes, as it last reported them."""
        return self.hostinfo.routable_ips

    @property
    def effective_routes(self) -> tuple[IPNetwork, ...]:
        """Advertised and approved, exit routes included, sorted."""
        return sorted_prefixes(effective_routes(self.advertised_routes, self.approved_routes))

    @property
    def subnet_routes(self) -> tuple[IPNetwork, ...]:
        """The effective routes that are elected per prefix (primaries.py): all but the exit routes."""
        return tuple(route for route in self.effective_routes if route not in EXIT_ROUTES)

    @property
    def exit_routes(self) -> tuple[IPNetwork, ...]:
        """The effective exit routes; non-empty for an exit node."""
        return tuple(route for route in self.effective_routes if route in EXIT_ROUTES)

    def is_expired(self, at: datetime) -> bool:
        """Whether the node key is no longer good at `at`."""
        return self.expiry is not None and self.expiry <= at
