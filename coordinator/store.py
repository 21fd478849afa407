"""The working state of the coordinator as one immutable `Snapshot`, and `Draft`, which makes the next one.

Readers hold a snapshot as long as they like and never see half an update. The one writer (state.py) opens a
`Draft`, lets operations read it and add updates, stores what was touched, and publishes `draft.snapshot()`.
The database is persistence, not the working state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Generic, Protocol, TypeAlias, TypeVar

from coordinator.changes import Change
from coordinator.model import (
    ApiKey,
    ApiKeyID,
    IPAddress,
    NodeID,
    NodeRecord,
    PreAuthKey,
    PreAuthKeyID,
    User,
    UserID,
)
from coordinator.policy import ALLOW_ALL, Policy
from coordinator.primaries import Primaries
from coordinator.settings import NetworkSettings
from meshproto.keys import MachinePublic, NodePublic
from meshproto.messages import DERPMap, DNSRecord

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Counters:
    """The highest id handed out per kind. Ids are never reused, so these outlive the records."""

    user: UserID = 0
    node: NodeID = 0
    pre_auth_key: PreAuthKeyID = 0
    api_key: ApiKeyID = 0


class View(Protocol):
    """What a decision may read: a `Snapshot`, or a `Draft` with the updates added so far."""

    @property
    def users(self) -> Mapping[UserID, User]: ...
    @property
    def nodes(self) -> Mapping[NodeID, NodeRecord]: ...
    @property
    def pre_auth_keys(self) -> Mapping[PreAuthKeyID, PreAuthKey]: ...
    @property
    def api_keys(self) -> Mapping[ApiKeyID, ApiKey]: ...
    @property
    def user_ids_by_name(self) -> Mapping[str, UserID]: ...
    @property
    def key_ids_by_prefix(self) -> Mapping[str, PreAuthKeyID]: ...
    @property
    def api_key_ids_by_prefix(self) -> Mapping[str, ApiKeyID]: ...
    @property
    def node_ids_by_node_key(self) -> Mapping[NodePublic, NodeID]: ...
    @property
    def node_ids_by_machine(self) -> Mapping[MachinePublic, tuple[NodeID, ...]]: ...
    @property
    def node_ids_by_name(self) -> Mapping[str, NodeID]: ...
    @property
    def node_ids_by_address(self) -> Mapping[IPAddress, NodeID]: ...
    @property
    def counters(self) -> Counters: ...
    @property
    def last_addresses(self) -> Mapping[int, IPAddress]: ...
    @property
    def policy(self) -> Policy: ...
    @property
    def settings(self) -> NetworkSettings: ...


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything maps are made from, at one moment.

    `online` holds the nodes with a map session (or within the grace after one), `expired` those whose key is
    over. `last_addresses` is the address handed out last per IP version, where sequential allocation goes on.
    """

    users: Mapping[UserID, User] = field(default_factory=dict)
    nodes: Mapping[NodeID, NodeRecord] = field(default_factory=dict)
    pre_auth_keys: Mapping[PreAuthKeyID, PreAuthKey] = field(default_factory=dict)
    api_keys: Mapping[ApiKeyID, ApiKey] = field(default_factory=dict)
    user_ids_by_name: Mapping[str, UserID] = field(default_factory=dict)
    key_ids_by_prefix: Mapping[str, PreAuthKeyID] = field(default_factory=dict)
    api_key_ids_by_prefix: Mapping[str, ApiKeyID] = field(default_factory=dict)
    node_ids_by_node_key: Mapping[NodePublic, NodeID] = field(default_factory=dict)
    node_ids_by_machine: Mapping[MachinePublic, tuple[NodeID, ...]] = field(default_factory=dict)
    node_ids_by_name: Mapping[str, NodeID] = field(default_factory=dict)
    node_ids_by_address: Mapping[IPAddress, NodeID] = field(default_factory=dict)
    last_addresses: Mapping[int, IPAddress] = field(default_factory=dict)
    online: frozenset[NodeID] = frozenset()
    expired: frozenset[NodeID] = frozenset()
    primaries: Primaries = field(default_factory=Primaries)
    counters: Counters = field(default_factory=Counters)
    policy: Policy = ALLOW_ALL
    settings: NetworkSettings = field(default_factory=NetworkSettings)


@dataclass(frozen=True, slots=True)
class PutUser:
    user: User


@dataclass(frozen=True, slots=True)
class RemoveUser:
    user_id: UserID


@dataclass(frozen=True, slots=True)
class PutNode:
    node: NodeRecord


@dataclass(frozen=True, slots=True)
class RemoveNode:
    node_id: NodeID


@dataclass(frozen=True, slots=True)
class PutPreAuthKey:
    key: PreAuthKey


@dataclass(frozen=True, slots=True)
class RemovePreAuthKey:
    key_id: PreAuthKeyID


@dataclass(frozen=True, slots=True)
class PutApiKey:
    key: ApiKey


@dataclass(frozen=True, slots=True)
class RemoveApiKey:
    key_id: ApiKeyID


@dataclass(frozen=True, slots=True)
class SetOnline:
    """The node has a map session from now on, or has none any more. Not stored."""

    node_id: NodeID
    online: bool


@dataclass(frozen=True, slots=True)
class MarkExpired:
    """Time went past the expiry of the node's key. Not stored: the expiry is."""

    node_id: NodeID


@dataclass(frozen=True, slots=True)
class SetOtherRelays:
    """The relays besides the one inside. Not stored."""

    derp_map: DERPMap


@dataclass(frozen=True, slots=True)
class SetRouterHealth:
    """The nodes that answer probes from now on, and those that do not. Not stored."""

    health: Mapping[NodeID, bool]


@dataclass(frozen=True, slots=True)
class SetExtraRecords:
    """The names that nodes answer besides their own, in place of those before. Not stored."""

    records: tuple[DNSRecord, ...]


Update: TypeAlias = (
    PutUser
    | RemoveUser
    | PutNode
    | RemoveNode
    | PutPreAuthKey
    | RemovePreAuthKey
    | PutApiKey
    | RemoveApiKey
    | SetOnline
    | MarkExpired
    | SetOtherRelays
    | SetExtraRecords
    | SetRouterHealth
)


class _Table(Generic[K, V]):
    """A mapping that is copied at its first write, so that a draft costs only what it touches."""

    __slots__ = ("_owned", "read")

    def __init__(self, base: Mapping[K, V]) -> None:
        self.read = base
        self._owned: dict[K, V] | None = None

    def write(self) -> dict[K, V]:
        if self._owned is None:
            self.read = self._owned = dict(self.read)
        return self._owned


class Draft:
    """The next snapshot in the making. Updates never fail: they are decided on this view beforehand.

    `wall` is the time of the batch. `touched_*` name the records that storage has to compare with the base.
    """

    def __init__(self, base: Snapshot, wall: datetime) -> None:
        self.base = base
        self.wall = wall
        self._users = _Table(base.users)
        self._nodes = _Table(base.nodes)
        self._keys = _Table(base.pre_auth_keys)
        self._api_keys = _Table(base.api_keys)
        self._user_names = _Table(base.user_ids_by_name)
        self._key_prefixes = _Table(base.key_ids_by_prefix)
        self._api_key_prefixes = _Table(base.api_key_ids_by_prefix)
        self._node_keys = _Table(base.node_ids_by_node_key)
        self._machines = _Table(base.node_ids_by_machine)
        self._node_names = _Table(base.node_ids_by_name)
        self._addresses = _Table(base.node_ids_by_address)
        self._last_addresses = _Table(base.last_addresses)
        self._online: frozenset[NodeID] | set[NodeID] = base.online
        self._expired: frozenset[NodeID] | set[NodeID] = base.expired
        self.primaries = base.primaries
        self.counters = base.counters
        self.policy = base.policy
        self.settings = base.settings
        self.touched_users: set[UserID] = set()
        self.touched_nodes: set[NodeID] = set()
        self.touched_keys: set[PreAuthKeyID] = set()
        self.touched_api_keys: set[ApiKeyID] = set()
        self._changed_nodes: set[NodeID] = set()

    # The `View`, with the updates so far.

    @property
    def users(self) -> Mapping[UserID, User]:
        return self._users.read

    @property
    def nodes(self) -> Mapping[NodeID, NodeRecord]:
        return self._nodes.read

    @property
    def pre_auth_keys(self) -> Mapping[PreAuthKeyID, PreAuthKey]:
        return self._keys.read

    @property
    def api_keys(self) -> Mapping[ApiKeyID, ApiKey]:
        return self._api_keys.read

    @property
    def user_ids_by_name(self) -> Mapping[str, UserID]:
        return self._user_names.read

    @property
    def key_ids_by_prefix(self) -> Mapping[str, PreAuthKeyID]:
        return self._key_prefixes.read

    @property
    def api_key_ids_by_prefix(self) -> Mapping[str, ApiKeyID]:
        return self._api_key_prefixes.read

    @property
    def node_ids_by_node_key(self) -> Mapping[NodePublic, NodeID]:
        return self._node_keys.read

    @property
    def node_ids_by_machine(self) -> Mapping[MachinePublic, tuple[NodeID, ...]]:
        return self._machines.read

    @property
    def node_ids_by_name(self) -> Mapping[str, NodeID]:
        return self._node_names.read

    @property
    def node_ids_by_address(self) -> Mapping[IPAddress, NodeID]:
        return self._addresses.read

    @property
    def last_addresses(self) -> Mapping[int, IPAddress]:
        return self._last_addresses.read

    # What comes out.

    def snapshot(self) -> Snapshot:
        """The state with all updates. The draft must not be used afterwards."""
        return Snapshot(
            users=self.users,
            nodes=self.nodes,
            pre_auth_keys=self.pre_auth_keys,
            api_keys=self.api_keys,
            user_ids_by_name=self.user_ids_by_name,
            key_ids_by_prefix=self.key_ids_by_prefix,
            api_key_ids_by_prefix=self.api_key_ids_by_prefix,
            node_ids_by_node_key=self.node_ids_by_node_key,
            node_ids_by_machine=self.node_ids_by_machine,
            node_ids_by_name=self.node_ids_by_name,
            node_ids_by_address=self.node_ids_by_address,
            last_addresses=self.last_addresses,
            online=frozenset(self._online),
            expired=frozenset(self._expired),
            primaries=self.primaries,
            counters=self.counters,
            policy=self.policy,
            settings=self.settings,
        )

    def change(self) -> Change:
        """Where this draft may differ from its base."""
        return Change(
            nodes=frozenset(self._changed_nodes),
            users=frozenset(self.touched_users),
            relays=self.settings.relays.others != self.base.settings.relays.others,
            dns=self.settings.dns != self.base.settings.dns,
        )

    @property
    def is_stored(self) -> bool:
        """Whether any update has to be written to the database."""
        return bool(self.touched_users or self.touched_nodes or self.touched_keys or self.touched_api_keys)

    # What goes in.

    def apply(self, updates: Iterable[Update]) -> None:
        """Add `updates`, in order."""
        for update in updates:
            match update:
                case PutNode(node):
                    self._put_node(node)
                case RemoveNode(node_id):
                    self._remove_node(node_id)
                case SetOnline(node_id, online):
                    self._set_online(node_id, online)
                case MarkExpired(node_id):
                    self._writable_expired().add(node_id)
                    self._touch_routes(node_id)
                case PutUser(user):
                    self._put_user(user)
                case RemoveUser(user_id):
                    self._remove_user(user_id)
                case PutPreAuthKey(key):
                    self._put_key(key)
                case RemovePreAuthKey(key_id):
                    self._remove_key(key_id)
                case PutApiKey(api_key):
                    self._put_api_key(api_key)
                case RemoveApiKey(key_id):
                    self._remove_api_key(key_id)
                case SetOtherRelays(derp_map):
                    relays = replace(self.settings.relays, others=derp_map)
                    self.settings = replace(self.settings, relays=relays)
                case SetRouterHealth(health):
                    self._judge(health)
                case SetExtraRecords(records):
                    dns = replace(self.settings.dns, extra_records=records)
                    self.settings = replace(self.settings, dns=dns)

    def _put_node(self, node: NodeRecord) -> None:
        before = self.nodes.get(node.id)
        reindex = before is None or _index_of(before) != _index_of(node)
        if before is not None and reindex:
            self._unindex(before)
        if before is None:
            self.counters = replace(self.counters, node=max(self.counters.node, node.id))
            for address in node.addresses:
                self._last_addresses.write()[address.version] = address
        self._nodes.write()[node.id] = node
        if reindex:
            self._index(node)
        self.touched_nodes.add(node.id)
        if node.is_expired(self.wall) != (node.id in self._expired):
            self._writable_expired().symmetric_difference_update({node.id})
        self._touch_routes(node.id)

    def _remove_node(self, node_id: NodeID) -> None:
        self._unindex(self.nodes[node_id])
        del self._nodes.write()[node_id]
        self.touched_nodes.add(node_id)
        self._writable_online().discard(node_id)
        self._writable_expired().discard(node_id)
        self._touch_routes(node_id)

    def _judge(self, health: Mapping[NodeID, bool]) -> None:
        self.primaries, affected = self.primaries.judge(health)
        self._changed_nodes |= affected

    def _set_online(self, node_id: NodeID, online: bool) -> None:
        if online:
            self._judge({node_id: True})  # a new session is a new chance
        if online == (node_id in self._online):
            return
        self._writable_online().symmetric_difference_update({node_id})
        self._touch_routes(node_id)

    def _touch_routes(self, node_id: NodeID) -> None:
        """The node changed: it and whoever won or lost a primary route by that."""
        node = self.nodes.get(node_id)
        serves = node is not None and node_id in self._online and node_id not in self._expired
        routes = node.subnet_routes if node is not None and serves else ()
        self.primaries, affected = self.primaries.stand(node_id, routes)
        self._changed_nodes.add(node_id)
        self._changed_nodes |= affected

    def _index(self, node: NodeRecord) -> None:
        self._node_keys.write()[node.node_key] = node.id
        self._node_names.write()[node.given_name] = node.id
        machines = self._machines.write()
        machines[node.machine_key] = tuple(sorted({*machines.get(node.machine_key, ()), node.id}))
        for address in node.addresses:
            self._addresses.write()[address] = node.id

    def _unindex(self, node: NodeRecord) -> None:
        del self._node_keys.write()[node.node_key]
        del self._node_names.write()[node.given_name]
        machines = self._machines.write()
        machines[node.machine_key] = tuple(i for i in machines[node.machine_key] if i != node.id)
        if not machines[node.machine_key]:
            del machines[node.machine_key]
        for address in node.addresses:
            del self._addresses.write()[address]

    def _put_user(self, user: User) -> None:
        before = self.users.get(user.id)
        names = self._user_names.write()
        if before is not None:
            del names[before.name]
        else:
            self.counters = replace(self.counters, user=max(self.counters.user, user.id))
        self._users.write()[user.id] = user
        names[user.name] = user.id
        self.touched_users.add(user.id)

    def _remove_user(self, user_id: UserID) -> None:
        del self._user_names.write()[self.users[user_id].name]
        del self._users.write()[user_id]
        self.touched_users.add(user_id)

    def _put_key(self, key: PreAuthKey) -> None:
        self._keys.write()[key.id] = key
        self._key_prefixes.write()[key.prefix] = key.id
        self.counters = replace(self.counters, pre_auth_key=max(self.counters.pre_auth_key, key.id))
        self.touched_keys.add(key.id)

    def _remove_key(self, key_id: PreAuthKeyID) -> None:
        del self._key_prefixes.write()[self.pre_auth_keys[key_id].prefix]
        del self._keys.write()[key_id]
        self.touched_keys.add(key_id)

    def _put_api_key(self, key: ApiKey) -> None:
        self._api_keys.write()[key.id] = key
        self._api_key_prefixes.write()[key.prefix] = key.id
        self.counters = replace(self.counters, api_key=max(self.counters.api_key, key.id))
        self.touched_api_keys.add(key.id)

    def _remove_api_key(self, key_id: ApiKeyID) -> None:
        del self._api_key_prefixes.write()[self.api_keys[key_id].prefix]
        del self._api_keys.write()[key_id]
        self.touched_api_keys.add(key_id)

    def _writable_online(self) -> set[NodeID]:
        if not isinstance(self._online, set):
            self._online = set(self._online)
        return self._online

    def _writable_expired(self) -> set[NodeID]:
        if not isinstance(self._expired, set):
            self._expired = set(self._expired)
        return self._expired


def _index_of(node: NodeRecord) -> tuple[object, ...]:
    """What the lookup tables hold of a node. Most updates leave it alone, and then no table is copied."""
    return (node.node_key, node.machine_key, node.given_name, node.addresses)


def apply(snapshot: Snapshot, updates: Iterable[Update], wall: datetime) -> tuple[Snapshot, Change]:
    """The snapshot after `updates` at the time `wall`, and where it may differ."""
    draft = Draft(snapshot, wall)
    draft.apply(updates)
    return draft.snapshot(), draft.change()
