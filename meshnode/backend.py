"""The node as one state machine: preferences, login, network map and tunnel, kept in agreement.

Whatever happens - a command, a map, a change of network, a key's expiry - ends in `_reconcile`, which derives
what must be in force and makes the tunnel match it. The tunnel depends on the last valid map only, so it
outlives the coordinator and a login that is being renewed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from meshnode import __version__
from meshnode.backend_state import BackendState, Situation, state_of
from meshnode.contact import Contact
from meshnode.control.client import ControlClient
from meshnode.control.errors import ControlError
from meshnode.control.login import LoggedIn, fresh, resume
from meshnode.control.server_url import ServerURL
from meshnode.control.session import ControlSession
from meshnode.health import health_lines
from meshnode.host_rules import check_on_this_host
from meshnode.hostinfo import describe_host, own_hostname
from meshnode.login_trial import LoginTrial
from meshnode.netmap.derive import Configuration, derive, find_exit_node, is_expired
from meshnode.netmap.lookup import seconds_to_next_expiry
from meshnode.netmap.session import NetworkMap
from meshnode.netmap_cache import NetmapCache
from meshnode.notifications import Bus
from meshnode.prefs import Prefs, apply_masked, normalise
from meshnode.state import State, StateDir
from meshnode.status import Document, StatusFacts, home_region, status_document
from meshnode.tunnel import Tunnel
from meshnode.wireguard import PeerConfig
from meshproto.capver import CURRENT_CAPABILITY_VERSION
from meshproto.keys import NodePrivate
from meshproto.messages import COMPRESS_ZSTD, Hostinfo, MapRequest, Node

log = logging.getLogger(__name__)

EXPIRY_CHECK_MAX_S = 3600.0
"""How long a timer for a key's expiry may sleep, since wall clocks are set."""
RETRY_CONFIGURE_S = 15.0

Entropy = Callable[[int], bytes]


class Refused(Exception):
    """A command that cannot be done in the present state. `str()` is a line for a person."""


class Backend:
    """Everything the LocalAPI can ask for. All methods are called from one event loop."""

    def __init__(
        self,
        store: StateDir,
        state: State,
        tunnel: Tunnel,
        *,
        make_client: Callable[[ServerURL], ControlClient],
        entropy: Entropy,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.bus = Bus()
        self._store = store
        self._state = state
        self._tunnel = tunnel
        self._entropy = entropy
        self._on_crash = on_crash
        self._session = ControlSession(make_client, self, entropy)

        self._contact = Contact()
        self._cache = NetmapCache(store)
        self._network_map: NetworkMap | None = None

        self._trial = LoginTrial()
        self._configuration = Configuration()
        self._configured_key: NodePrivate | None = None
        self._problems: tuple[str, ...] = ()
        self._reconciling = asyncio.Lock()
        self._wake = asyncio.Event()
        self._network_changed = False
        self._worker: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._announced = BackendState.NO_STATE
        tunnel.on_network_change = self._on_network_change
        tunnel.on_change = self._session.report_change

    # Life.

    async def open(self) -> None:
        """Begin where the last run stopped: from the cached map at once, and with the coordinator soon."""
        self._worker = asyncio.create_task(self._reconcile_on_and_on(), name="reconcile")
        self._worker.add_done_callback(self._report_crash)
        key = self._state.node_key
        if self.prefs.want_running and key is not None:
            # A login elsewhere that was still on trial ended with the last run.
            self._set_prefs(msgspec.structs.replace(self.prefs, control_url=self._state.login_server))
            self._network_map = self._cache.load(key.public)
            server = ServerURL.parse(self._state.login_server)
            await self._session.resume(server, resume(key, self._state.old_node_key))
        await self._reconcile()

    async def close(self) -> None:
        """Stop, and leave the host as it was before `open`. The preferences stay as they are."""
        await self._session.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        await self._cache.close()
        self.bus.close()
        await self._tunnel.close()

    # What can be asked.

    @property
    def prefs(self) -> Prefs:
        return self._state.prefs

    @property
    def network_map(self) -> NetworkMap | None:
        """The map in force, if it was made for our key."""
        return self._map_of(self._state.node_key)

    @property
    def wireguard_peers(self) -> tuple[PeerConfig, ...]:
        """The peers that the tunnel is configured with."""
        return self._configuration.peers

    @property
    def state(self) -> BackendState:
        network_map = self._map_of(self._state.node_key)
        return state_of(
            Situation(
                wants_running=self.prefs.want_running,
                has_node_key=self._state.node_key is not None,
                is_logging_in=self._trial.is_under_way,
                awaits_person=bool(self._trial.url),
                has_map=network_map is not None,
                is_expired=self._is_key_expired(),
                is_authorized=network_map is not None and network_map.self_node.machine_authorized,
                is_configured=bool(self._configuration.router.addresses)
                and self._configured_key == self._state.node_key,
            )
        )

    def status(self, *, peers: bool = True) -> Document:
        """The status document."""
        network_map = self._network_map
        known = [peer.key for peer in network_map.peers.values()] if network_map is not None and peers else []
        return status_document(
            StatusFacts(
                version=__version__,
                state=self.state,
                node_key=self._state.node_key.public if self._state.node_key is not None else None,
                prefs=self.prefs,
                hostname=self.prefs.hostname or own_hostname(),
                network_map=network_map,
                auth_url=self._trial.url,
                is_polling=self._contact.is_polling,
                endpoints=tuple(own.address for own in self._tunnel.endpoints()),
                home_region=home_region(self._tunnel.net_info()),
                exit_node=self._exit_node(),
                traffic=self._tunnel.traffic(known),
                health=self.health(),
                offloads=self._tunnel.offloads(),
                wall=self._contact.wall(),
            ),
            peers=peers,
        )

    def health(self) -> tuple[str, ...]:
        """The health list."""
        wants = self.prefs.want_running
        return health_lines(
            network_map=self._network_map if wants else None,
            login_error=self._trial.error,
            contact_failure=self._contact.failure if wants else "",
            silent_for_s=self._contact.silent_for_s,
            problems=self._problems,
            advice=self._configuration.advice,
            wall=self._contact.wall(),
            relay_problem=self._tunnel.relay_problem(),
            net_info=self._tunnel.net_info(),
        )

    def login_progress(self) -> dict[str, Any]:
        """What a watcher that comes late must know of the login that is going on, as notification fields."""
        fields: dict[str, Any] = {"State": int(self.state)}
        if self._trial.url:
            fields["BrowseToURL"] = self._trial.url
        if self._trial.error:
            fields["ErrMessage"] = self._trial.error
        return fields

    # What can be commanded.

    async def edit_prefs(self, masked: Mapping[str, Any]) -> Prefs:
        """Change the settings that `masked` names. Raises InvalidPrefs, Refused or StateError."""
        before, after = self.prefs, apply_masked(self.prefs, masked)
        check_on_this_host(after)
        if after.control_url != before.control_url and self._state.node_key is not None:
            raise Refused(
                f"this node is logged in at {before.control_url}; "
                f"to move it use: meshnode login --login-server={after.control_url}"
            )
        if after.want_running and not before.want_running:
            await self.start(after)
            return self.prefs
        self._trial.amend(masked)
        self._set_prefs(after)
        if before.want_running and not after.want_running:
            await self._stop()
        self._session.report_change()
        await self._reconcile()
        return self.prefs

    async def start(self, prefs: Prefs, auth_key: str = "", *, force_login: bool = False) -> None:
        """Run with these preferences, logging in where that is needed or forced.

        A login that fails at its first attempt leaves everything as it was before and is told on the bus.
        Raises InvalidPrefs, Refused or StateError when it does not even begin.
        """
        prefs = msgspec.structs.replace(normalise(prefs), want_running=True, logged_out=False)
        check_on_this_host(prefs)
        if not prefs.control_url:
            raise Refused("which coordinator? name it with --login-server=https://…")
        server = ServerURL.parse(prefs.control_url)
        node_key = self._state.node_key if prefs.control_url == self._state.login_server else None
        self._trial.begin(self.prefs)
        self._set_prefs(prefs)
        if node_key is None or force_login or self._is_key_expired():
            attempt = fresh(node_key, auth_key, self._entropy)
        else:
            attempt = replace(resume(node_key, self._state.old_node_key), auth_key=auth_key)
        if node_key is not None and self._map_of(node_key) is None:
            self._network_map = self._cache.load(node_key.public)
        if attempt.is_fresh or auth_key or self._map_of(node_key) is None:
            self._trial.go_on()
            await self._session.try_login(server, attempt)
        else:
            self._trial.succeed()
            await self._session.resume(server, attempt)
        await self._reconcile()

    async def logout(self) -> str:
        """Forget the login here, and expire it at the coordinator. Returns a warning where that failed.

        Raises StateError.
        """
        warning = ""
        node_key = self._state.node_key
        await self._stop()
        if node_key is not None:
            try:
                server = ServerURL.parse(self._state.login_server)
                await self._session.logout(server, node_key, self._state.old_node_key)
            except ControlError as error:
                warning = (
                    f"logged out here, but the coordinator could not be told, so the key stays valid: {error}"
                )
        prefs = msgspec.structs.replace(self.prefs, want_running=False, logged_out=True)
        self._save(replace(self._state, node_key=None, old_node_key=None, login_server="", prefs=prefs))
        await self._cache.forget()
        self._network_map = None
        await self._reconcile()
        return warning

    # What the control session tells us.

    def hostinfo(self) -> Hostinfo:
        """See SessionHost."""
        return describe_host(self.prefs, self._tunnel.net_info())

    def map_request(self, node_key: NodePrivate) -> MapRequest:
        """See SessionHost."""
        endpoints = self._tunnel.endpoints()
        return MapRequest(
            version=CURRENT_CAPABILITY_VERSION,
            compress=COMPRESS_ZSTD,
            node_key=node_key.public,
            disco_key=self._tunnel.disco_key,
            hostinfo=self.hostinfo(),
            endpoints=tuple(own.address for own in endpoints),
            endpoint_types=tuple(int(own.type) for own in endpoints),
        )

    def on_login_url(self, url: str) -> None:
        """See SessionHost."""
        self._trial.needs_person(url)
        log.info("login needs a person: %s", url)
        self.bus.publish(BrowseToURL=url)
        self._wake.set()

    def on_logged_in(self, result: LoggedIn) -> None:
        """See SessionHost."""
        self._save(
            replace(
                self._state,
                node_key=result.node_key,
                old_node_key=result.old_node_key,
                login_server=self.prefs.control_url,
            )
        )
        self._trial.succeed()
        log.info("logged in as %s", result.login.login_name or result.user.display_name)
        self.bus.publish(LoginFinished={})
        self._wake.set()

    def on_login_failed(self, error: ControlError) -> None:
        """See SessionHost."""
        log.warning("login failed: %s", error)
        before = self._trial.fail(str(error))
        if before is not None:
            self._set_prefs(before)
            self._session.report_change()
        self.bus.publish(ErrMessage=self._trial.error)
        self._wake.set()

    def on_map(self, network_map: NetworkMap) -> None:
        """See MapObserver."""
        self._contact.clock_read(network_map.control_time)
        self._network_map = network_map
        self._cache.save_soon(network_map)
        self._wake.set()

    def on_contact(self, failure: ControlError | None) -> None:
        """See MapObserver."""
        if failure is None:
            self._contact.made()
        else:
            self._contact.lost(failure)

    def on_crash(self, error: BaseException) -> None:
        """See SessionHost."""
        self._on_crash(error)

    # The tunnel.

    def _on_network_change(self) -> None:
        self._network_changed = True
        self._wake.set()

    async def _reconcile_on_and_on(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._network_changed:
                self._network_changed = False
                await self._session.network_changed([own.address.host for own in self._tunnel.endpoints()])
            await self._reconcile()

    async def _reconcile(self) -> None:
        """Make the tunnel match what must be in force, and tell who watches."""
        async with self._reconciling:
            wanted, key = self._wanted()
            if wanted is not None and self._differs(wanted, key):
                self._problems = tuple(await self._tunnel.configure(key, wanted))
                self._configuration, self._configured_key = wanted, key
            self._arm_timer()
            self._announce()

    def _differs(self, wanted: Configuration, key: NodePrivate) -> bool:
        """Whether the tunnel must be touched: most news of a map, like who is online, are none to it."""
        is_other_node = bool(wanted.router.addresses) and key != self._configured_key
        return wanted != self._configuration or is_other_node or bool(self._problems)

    def _wanted(self) -> tuple[Configuration | None, NodePrivate]:
        """What must be in force, and under which key. None: what is in force stays until the next map."""
        key = self._state.node_key
        if key is None or not self.prefs.want_running or self._network_map is None:
            return Configuration(), key or NodePrivate.generate(self._entropy)
        if self._map_of(key) is None:
            return None, key
        return derive(self._network_map, self.prefs, self._tunnel.facts(), self._contact.wall()), key

    def _exit_node(self) -> Node | None:
        if self._network_map is None or not self.prefs.uses_exit_node:
            return None
        return find_exit_node(self._network_map.peers.values(), self.prefs)

    def _arm_timer(self) -> None:
        """Look again when the next key expires, or when something could not be configured."""
        if self._timer is not None:
            self._timer.cancel()
        delay = RETRY_CONFIGURE_S if self._problems else EXPIRY_CHECK_MAX_S
        if self._network_map is not None:
            delay = min(delay, seconds_to_next_expiry(self._network_map, self._contact.wall()))
        self._timer = asyncio.get_running_loop().call_later(delay, self._wake.set)

    def _announce(self) -> None:
        state = self.state
        if state is not self._announced:
            self._announced = state
            log.info("state is %s", state.label)
            self.bus.publish(State=int(state))

    # Odds and ends.

    async def _stop(self) -> None:
        """End the control session and every login that is on its way."""
        await self._session.stop()
        self._contact.ended()
        self._trial.succeed()

    def _map_of(self, key: NodePrivate | None) -> NetworkMap | None:
        """The map, if it was made for this key."""
        current = self._network_map
        return (
            current
            if current is not None and key is not None and current.self_node.key == key.public
            else None
        )

    def _is_key_expired(self) -> bool:
        """Whether the map says that our key is no longer valid."""
        network_map = self._map_of(self._state.node_key)
        return network_map is not None and is_expired(network_map.self_node, self._contact.wall())

    def _set_prefs(self, prefs: Prefs) -> None:
        if prefs != self.prefs:
            self._save(replace(self._state, prefs=prefs))
            self.bus.publish(Prefs=msgspec.to_builtins(prefs))

    def _save(self, state: State) -> None:
        """Durable first, then in force. Raises StateError."""
        if state != self._state:
            self._store.save(state)
            self._state = state

    def _report_crash(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._on_crash(error)
