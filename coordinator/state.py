"""`State`: the coordinator's one owner of users, nodes, keys, sessions and pending registrations.

Everything that changes goes through its methods; each returns only after the change is durable. Decisions are
made by the pure modules (administration.py, registration.py, reports.py); this one runs them through the
writer, keeps the clocks, and tells the map sessions what changed. It lives on one event loop and needs no
locks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from coordinator import administration, apikeys, authkeys, registration, reports
from coordinator.changes import Change
from coordinator.db import Database
from coordinator.errors import CoordinatorError, Invalid, NotFound
from coordinator.model import (
    ApiKey,
    ApiKeyID,
    IPNetwork,
    NodeID,
    NodeRecord,
    PreAuthKey,
    PreAuthKeyID,
    RegisterMethod,
    User,
    UserID,
)
from coordinator.pending import (
    PENDING_LIFETIME_S,
    JoinRequest,
    PendingRegistrations,
    is_registration_id,
)
from coordinator.presence import Due, Presence
from coordinator.settings import NetworkSettings
from coordinator.store import (
    MarkExpired,
    PutNode,
    RemoveNode,
    SetExtraRecords,
    SetOnline,
    SetOtherRelays,
    SetRouterHealth,
    Snapshot,
    Update,
    View,
)
from coordinator.writer import Writer
from meshproto.keys import MachinePublic, NodePublic
from meshproto.messages import DERPMap, DNSRecord, MapRequest, RegisterRequest, RegisterResponse

API_KEY_USE_STEP = timedelta(minutes=1)

Listener: TypeAlias = Callable[[Snapshot, Change], None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timings:
    """How long things last, in seconds. Tests shorten them."""

    offline_grace_s: float = 10.0
    ephemeral_timeout_s: float = 120.0
    expiry_check_s: float = 5.0
    pending_lifetime_s: float = PENDING_LIFETIME_S


class State:
    """See the module. Open one with `State.open`, inside whose block it runs."""

    def __init__(self, database: Database, snapshot: Snapshot, timings: Timings) -> None:
        self._database = database
        self._timings = timings
        self._writer = Writer(snapshot, database, self._wall, self._publish)
        self._presence = Presence(timings.offline_grace_s, timings.ephemeral_timeout_s)
        self._pending = PendingRegistrations(os.urandom, timings.pending_lifetime_s)
        self._followers: dict[str, set[asyncio.Event]] = {}
        self._listeners: list[Listener] = []
        self._rearm = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, database: Database, settings: NetworkSettings, timings: Timings | None = None
    ) -> AsyncIterator[State]:
        """The state stored in `database`, running until the block ends. The database is not closed."""
        snapshot = await database.load(settings, cls._wall())
        state = cls(database, snapshot, timings or Timings())
        for node in snapshot.nodes.values():
            if node.ephemeral:
                state._presence.ephemeral_without_session(node.id, state._now())
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(state._writer.run()), tasks.create_task(state._keep_house())]
            try:
                yield state
            finally:
                await state._writer.close()
                for task in running:
                    task.cancel()

    @property
    def snapshot(self) -> Snapshot:
        """The current state, immutable."""
        return self._writer.snapshot

    def subscribe(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with each new snapshot and where it may differ. Returns how to stop that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def ping_database(self) -> None:
        """Raises when the database does not answer."""
        await self._database.ping()

    # Users.

    async def create_user(
        self, name: str, display_name: str = "", email: str = "", picture_url: str = ""
    ) -> User:
        """A new local user. Raises Invalid for a bad name, Conflict for a taken one."""
        return await self._writer.submit(
            lambda view: administration.create_user(
                view, name, display_name, email, picture_url, self._wall()
            )
        )

    async def rename_user(self, user_id: UserID, new_name: str) -> User:
        """Raises NotFound, Invalid for a bad name, Conflict for a taken one."""
        return await self._writer.submit(lambda view: administration.rename_user(view, user_id, new_name))

    async def delete_user(self, user_id: UserID) -> None:
        """The user's pre-auth keys go too. Raises NotFound, Conflict while the user owns nodes."""
        await self._writer.submit(lambda view: administration.delete_user(view, user_id))

    # Pre-auth keys.

    async def create_pre_auth_key(
        self,
        user_id: UserID | None,
        reusable: bool = False,
        ephemeral: bool = False,
        expiration: datetime | None = None,
        tags: tuple[str, ...] = (),
    ) -> tuple[PreAuthKey, str]:
        """A new key and its full text, which is not kept. Raises NotFound (user), Invalid (tags, neither)."""
        secret = authkeys.generate(os.urandom)
        key = await self._writer.submit(
            lambda view: administration.create_pre_auth_key(
                view, user_id, reusable, ephemeral, expiration, tags, secret, self._wall()
            )
        )
        return key, str(secret)

    async def expire_pre_auth_key(self, key_id: PreAuthKeyID) -> PreAuthKey:
        """Raises NotFound."""
        return await self._writer.submit(
            lambda view: administration.expire_pre_auth_key(view, key_id, self._wall())
        )

    async def delete_pre_auth_key(self, key_id: PreAuthKeyID) -> None:
        """Raises NotFound."""
        await self._writer.submit(lambda view: administration.delete_pre_auth_key(view, key_id))

    # API keys.

    def authenticate(self, text: str) -> ApiKey | None:
        """The API key that `text` is the whole of, or None."""
        return apikeys.authenticate(self.snapshot, text, self._wall())

    async def create_api_key(self, expiration: datetime | None = None) -> tuple[ApiKey, str]:
        """A new key and its full text, which is not kept."""
        secret = apikeys.generate(os.urandom)
        key = await self._writer.submit(
            lambda view: administration.create_api_key(view, expiration, secret, self._wall())
        )
        return key, str(secret)

    async def expire_api_key(self, key_id: ApiKeyID) -> ApiKey:
        """Raises NotFound."""
        return await self._writer.submit(
            lambda view: administration.expire_api_key(view, key_id, self._wall())
        )

    async def delete_api_key(self, key_id: ApiKeyID) -> None:
        """Raises NotFound."""
        await self._writer.submit(lambda view: administration.delete_api_key(view, key_id))

    async def note_api_key_use(self, key: ApiKey) -> None:
        """Remember about when the key was used: to the minute, so that busy callers cost no writes."""
        wall = self._wall()
        if key.last_seen is None or wall - key.last_seen >= API_KEY_USE_STEP:
            await self._writer.submit(lambda view: administration.note_api_key_use(view, key.id, wall))

    # Nodes, as an administrator sees them.

    async def register_pending(self, registration_id: str, user_id: UserID) -> NodeRecord:
        """Approve a machine that waits, as a node of the user.

        Raises Invalid for a malformed id or tags not permitted, NotFound for a user or registration that is
        not there.
        """
        if not is_registration_id(registration_id):
            raise Invalid(
                f"invalid registration ID {registration_id!r}: expected hskey-authreq-<24 hex digits>"
            )
        pending = self._pending.get(registration_id, self._now())
        if pending is None:
            raise NotFound(
                f"no pending registration {registration_id}: it is over or was never asked for; "
                "run `meshnode up` again on the machine and use the key that it prints"
            )

        def decide(view: View) -> tuple[tuple[Update, ...], NodeRecord]:
            administration.user_of(view, user_id)
            settled = registration.approve(
                view, pending.join, user_id, RegisterMethod.CLI, self._wall(), os.urandom
            )
            assert settled.node is not None
            return settled.updates, settled.node

        node = await self._writer.submit(decide)
        self._pending.remove(registration_id)
        self._wake_followers(registration_id)
        self._log_node("node registered", node)
        return node

    async def expire_node(self, node_id: NodeID, at: datetime | None) -> NodeRecord:
        """The node's key is good until `at`; None: for ever. Raises NotFound."""
        return await self._writer.submit(lambda view: administration.expire_node(view, node_id, at))

    async def rename_node(self, node_id: NodeID, new_name: str) -> NodeRecord:
        """Raises NotFound, Invalid for a bad label, Conflict for a taken one."""
        return await self._writer.submit(lambda view: administration.rename_node(view, node_id, new_name))

    async def delete_node(self, node_id: NodeID) -> None:
        """Raises NotFound."""
        node = await self._writer.submit(lambda view: administration.delete_node(view, node_id))
        self._presence.forget(node_id)
        self._log_node("node deleted", node)

    async def move_node(self, node_id: NodeID, user_id: UserID) -> NodeRecord:
        """Raises NotFound, Invalid for a tagged node, Conflict when the user has the machine already."""
        return await self._writer.submit(lambda view: administration.move_node(view, node_id, user_id))

    async def set_tags(self, node_id: NodeID, tags: Iterable[str]) -> NodeRecord:
        """Raises NotFound, Invalid for no or malformed tags."""
        wanted = tuple(tags)
        return await self._writer.submit(lambda view: administration.set_tags(view, node_id, wanted))

    async def set_approved_routes(
        self, node_id: NodeID, prefixes: Iterable[IPNetwork], *, in_advance: bool = False
    ) -> NodeRecord:
        """Raises NotFound, Invalid for a route that the node does not advertise, unless `in_advance`."""
        wanted = tuple(prefixes)
        return await self._writer.submit(
            lambda view: administration.set_approved_routes(view, node_id, wanted, in_advance)
        )

    # Questions.

    def is_online(self, node_id: NodeID) -> bool:
        """Whether the node has a map session, or had one within the grace time."""
        return node_id in self.snapshot.online

    def is_node_key(self, key: NodePublic) -> bool:
        """Whether a node has this key, be it expired."""
        return key in self.snapshot.node_ids_by_node_key

    def primary_routes(self, node_id: NodeID) -> tuple[IPNetwork, ...]:
        """The subnet routes that the node serves now."""
        return self.snapshot.primaries.of(node_id)

    # Relays.

    async def set_other_relays(self, derp_map: DERPMap) -> None:
        """The relays besides the one inside, from now on."""
        await self._writer.submit(lambda _view: ([SetOtherRelays(derp_map)], None))

    # Routers.

    async def set_router_health(self, health: Mapping[NodeID, bool]) -> None:
        """Those that answer are well, others are passed over while another one can serve."""
        await self._writer.submit(lambda _view: ([SetRouterHealth(health)], None))

    # DNS.

    async def set_extra_records(self, records: tuple[DNSRecord, ...]) -> None:
        """The names that nodes answer besides their own, from now on."""
        await self._writer.submit(lambda _view: ([SetExtraRecords(records)], None))

    # Machines.

    async def register(
        self, machine_key: MachinePublic, request: RegisterRequest, reached_at: str = ""
    ) -> RegisterResponse:
        """Answer a register request. A follow-up is held until its registration is approved or over.

        `reached_at` is the URL at which the machine reached us: it stands in for a server_url that is not
        set.

        Raises CoordinatorError with what `RegisterResponse.error` should say.
        """
        while True:
            outcome = await self._writer.submit(
                lambda view: self._decide_registration(view, machine_key, request)
            )
            match outcome:
                case registration.Settled():
                    self._settled(outcome)
                    return outcome.response
                case registration.Ask(join):
                    return self._ask(join, reached_at)
                case registration.Follow(registration_id, join):
                    pending = self._pending.get(registration_id, self._now())
                    if pending is None or pending.join.machine_key != machine_key:
                        # Over, or lost in a restart. A fresh URL, because some clients cannot recover from an
                        # error.
                        return self._ask(join, reached_at)
                    await self._followed(registration_id, pending.deadline)

    async def update_node_from_map_request(
        self, machine_key: MachinePublic, request: MapRequest
    ) -> NodeRecord:
        """Take over what the node reports of itself.

        Raises NotFound when it is not a node of this machine.
        """
        known = self.node_for(machine_key, request)
        if reports.updated(self.snapshot, known, request) == known:
            return known

        def decide(view: View) -> tuple[list[Update], NodeRecord]:
            node = reports.node_of(view, machine_key, request)
            node = reports.updated(view, node, request)
            return [PutNode(node)], node

        return await self._writer.submit(decide)

    def node_for(self, machine_key: MachinePublic, request: MapRequest) -> NodeRecord:
        """The node that sends `request`. Raises NotFound when it is not a node of this machine."""
        return reports.node_of(self.snapshot, machine_key, request)

    async def connect(self, node_id: NodeID) -> None:
        """A map session of the node begins; pair with `disconnect`, also when this raises NotFound."""
        self._presence.session_opened(node_id)

        def decide(view: View) -> tuple[list[Update], None]:
            node = administration.node_of(view, node_id)
            return [PutNode(replace(node, last_seen=self._wall())), SetOnline(node_id, True)], None

        await self._writer.submit(decide)

    def disconnect(self, node_id: NodeID) -> None:
        """A map session of the node is over. It goes offline after the grace time, unless it comes back."""
        self._presence.session_closed(node_id, self._now())
        self._rearm.set()

    # Inside.

    @staticmethod
    def _now() -> float:
        return time.monotonic()

    @staticmethod
    def _wall() -> datetime:
        return datetime.now(UTC)

    def _publish(self, snapshot: Snapshot, change: Change) -> None:
        for listener in self._listeners:
            try:
                listener(snapshot, change)
            except Exception:
                logger.exception("a listener failed")  # its own trouble: the write has happened

    def _decide_registration(
        self, view: View, machine_key: MachinePublic, request: RegisterRequest
    ) -> tuple[tuple[Update, ...], registration.Outcome]:
        outcome = registration.decide(view, machine_key, request, self._wall(), os.urandom)
        return outcome.updates if isinstance(outcome, registration.Settled) else (), outcome

    def _settled(self, outcome: registration.Settled) -> None:
        if outcome.node is None or not outcome.updates:
            return
        if outcome.node.ephemeral:
            self._presence.ephemeral_without_session(outcome.node.id, self._now())
            self._rearm.set()
        self._log_node(
            "node logged out" if outcome.response.node_key_expired else "node registered", outcome.node
        )

    def _ask(self, join: JoinRequest, reached_at: str) -> RegisterResponse:
        pending = self._pending.ask(join, self._now())
        url = f"{self.snapshot.settings.server_url or reached_at}/register/{pending.id}"
        logger.info(
            "registration waits for approval",
            extra={"hostname": join.hostinfo.hostname, "registration_id": pending.id},
        )
        return RegisterResponse(auth_url=url)

    async def _followed(self, registration_id: str, deadline: float) -> None:
        """Return when the registration was approved, or is over."""
        approved = asyncio.Event()
        followers = self._followers.setdefault(registration_id, set())
        followers.add(approved)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - self._now())):
                    await approved.wait()
        finally:
            followers.discard(approved)
            if not followers:
                self._followers.pop(registration_id, None)

    def _wake_followers(self, registration_id: str) -> None:
        for approved in self._followers.pop(registration_id, ()):
            approved.set()

    async def _keep_house(self) -> None:
        """Deadlines of presence, and key expiries."""
        check_at = self._now()
        while True:
            wake_at = min(check_at, self._presence.next_timeout() or check_at)
            self._rearm.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, wake_at - self._now())):
                    await self._rearm.wait()
            for node_id, due in self._presence.take_due(self._now()):
                await self._handle_due(node_id, due)
            if check_at <= self._now():
                check_at = self._now() + self._timings.expiry_check_s
                try:
                    await self._mark_expired()
                except CoordinatorError as error:
                    logger.warning("expiries not marked", extra={"error": str(error)})

    async def _handle_due(self, node_id: NodeID, due: Due) -> None:
        try:
            if due is Due.GO_OFFLINE:
                await self._go_offline(node_id)
            else:
                await self._remove_ephemeral(node_id)
        except CoordinatorError as error:
            logger.warning(
                "deadline not handled", extra={"node_id": node_id, "due": due.value, "error": str(error)}
            )
            self._presence.postpone(node_id, due, self._now())

    async def _go_offline(self, node_id: NodeID) -> None:
        def decide(view: View) -> tuple[list[Update], NodeRecord | None]:
            node = view.nodes.get(node_id)
            if node is None or self._presence.has_session(node_id):
                return [], None
            node = replace(node, last_seen=self._wall())
            return [PutNode(node), SetOnline(node_id, False)], node

        node = await self._writer.submit(decide)
        if node is not None and node.ephemeral:
            self._presence.ephemeral_without_session(node_id, self._now())

    async def _remove_ephemeral(self, node_id: NodeID) -> None:
        def decide(view: View) -> tuple[list[Update], NodeRecord | None]:
            node = view.nodes.get(node_id)
            if node is None or not node.ephemeral or self._presence.has_session(node_id):
                return [], None
            return [RemoveNode(node_id)], node

        node = await self._writer.submit(decide)
        if node is not None:
            self._log_node("ephemeral node removed", node)

    async def _mark_expired(self) -> None:
        wall = self._wall()
        snapshot = self.snapshot
        due = [
            node.id
            for node in snapshot.nodes.values()
            if node.expiry is not None and node.expiry <= wall and node.id not in snapshot.expired
        ]
        if not due:
            return

        def decide(view: View) -> tuple[list[Update], None]:
            nodes = (view.nodes.get(node_id) for node_id in due)
            return [
                MarkExpired(node.id) for node in nodes if node is not None and node.is_expired(wall)
            ], None

        await self._writer.submit(decide)

    def _log_node(self, event: str, node: NodeRecord) -> None:
        logger.info(event, extra={"node_id": node.id, "node_name": node.given_name})
