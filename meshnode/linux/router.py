"""LinuxRouter: make the host's network match a RouterConfig, and undo it without a trace.

Nothing is remembered about rules, routes and addresses: every call compares the plan with what the kernel
has, so it makes no difference whether that is our last call's work, a crashed daemon's, or another program's.
New things are added before old ones are removed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from meshnode.linux.errors import Trouble
from meshnode.linux.firewall import Firewall
from meshnode.linux.marks import Ownership, ownership
from meshnode.linux.netlink import FoundRoutes, FoundRule, Link, Netlink, SlotTaken, beside_the_loop
from meshnode.linux.plan import Ipv6, Plan, describe_route, describe_rule, make_plan
from meshnode.linux.router_config import FAMILIES, IPInterface, RouterConfig
from meshnode.linux.ruleset import tables
from meshnode.linux.runner import ProgramFailed, ProgramMissing, Run, run
from meshnode.linux.sysctl import Settings, SysctlKeeper
from meshnode.linux.sysctl_plan import FORWARDING_4, FORWARDING_6, REVERSE_PATH, strict_interfaces

logger = logging.getLogger(__name__)

# Groups of settings that matter if they cannot be set: their name, and what to do about it. In a container
# /proc/sys is often read-only.
GROUPS = {
    FORWARDING_4: (
        "IPv4 forwarding",
        "sysctl -w net.ipv4.ip_forward=1, or start the container with --sysctl net.ipv4.ip_forward=1",
    ),
    FORWARDING_6: (
        "IPv6 forwarding",
        "sysctl -w net.ipv6.conf.all.forwarding=1, or start the container with"
        " --sysctl net.ipv6.conf.all.forwarding=1",
    ),
    REVERSE_PATH: (
        "the reverse-path filter's use of marks",
        "sysctl -w net.ipv4.conf.all.src_valid_mark=1, or start the container with"
        " --sysctl net.ipv4.conf.all.src_valid_mark=1",
    ),
}


class LinuxRouter:
    """The host's addresses, rules, routes, firewall table and settings, for one tunnel interface."""

    def __init__(
        self, interface: str, state_dir: Path, *, run: Run = run, settings: Settings | None = None
    ) -> None:
        """Changes nothing yet. Raises ValueError on a name that is no plain interface name.

        `state_dir` gets the journal of kernel settings; `run` and `settings` are there for tests.
        """
        self._own = ownership(interface)
        self._settings = settings or Settings()
        self._firewall = Firewall(self._own, run)
        self._sysctls = SysctlKeeper(interface, state_dir, self._settings)
        self._lock = asyncio.Lock()
        self._config = RouterConfig()
        self._raised = False
        """We set the interface up."""
        self.changes: tuple[str, ...] = ()
        """What the last `set`, `repair` or `close` changed, a line each."""

    async def set(self, config: RouterConfig) -> tuple[str, ...]:
        """Make the host match `config`. Idempotent; `RouterConfig()` removes all that is ours.

        Returns notes: what `config` asks for and this host cannot have, with what to do about it.
        Raises RouterError with every problem found, after everything else was done.
        """
        async with self._lock:
            self._config = config
            return await self._apply(config)

    async def repair(self) -> tuple[str, ...]:
        """Put back what another program removed or changed. Returns what it was; raises as `set` does."""
        async with self._lock:
            await self._apply(self._config)
            return self.changes

    async def close(self) -> None:
        """Remove all that is ours, whoever made it. May be called again. Raises as `set` does."""
        await self.set(RouterConfig())

    async def _apply(self, config: RouterConfig) -> tuple[str, ...]:
        plan = make_plan(config, self._own, self._ipv6())
        work = _Work(self._own, plan, Trouble())
        notes = list(plan.notes)
        if config.is_empty:
            await beside_the_loop(self._network(work))
            self._set_sysctls(work, config)
            await self._set_firewall(work, config, notes)
        else:
            await self._set_firewall(work, config, notes)
            self._set_sysctls(work, config)
            await beside_the_loop(self._network(work))
        self.changes = tuple(work.changes)
        for change in work.changes:
            logger.debug("%s: %s", self._own.interface, change)
        work.trouble.raise_if_any()
        return tuple(notes)

    def _ipv6(self) -> Ipv6:
        off = [
            self._settings.read(f"net/ipv6/conf/{name}/disable_ipv6") for name in ("all", self._own.interface)
        ]
        if off[0] is None:
            return Ipv6.ABSENT
        return Ipv6.OFF_ON_INTERFACE if "1" in off else Ipv6.USABLE

    async def _set_firewall(self, work: _Work, config: RouterConfig, notes: list[str]) -> None:
        needed = any(config.forwards(version) or config.uses_exit(version) for version in FAMILIES)
        with work.trouble.step(f"the firewall table {self._own.nft_table} could not be set"):
            try:
                strict = bool(strict_interfaces(self._settings, self._own.interface))
                if await self._firewall.set(tables(config, self._own, strict=strict)):
                    work.changes.append(f"nft tables {self._own.nft_table}")
            except (ProgramMissing, ProgramFailed) as error:
                may_be_left = config.is_empty and isinstance(error, ProgramFailed)
                if needed or may_be_left:
                    raise
                if not config.is_empty:
                    notes.append(
                        f"{error}. Until then another machine of this network can pretend to be a peer"
                    )

    def _set_sysctls(self, work: _Work, config: RouterConfig) -> None:
        with work.trouble.step("kernel settings could not be changed"):
            applied = self._sysctls.set(config)
            work.changes += applied.changes
            for group, error in applied.failures.items():
                if group in GROUPS:
                    what, fix = GROUPS[group]
                    work.trouble.add(f"{what} could not be set", error.strerror or str(error), fix)

    async def _network(self, work: _Work) -> None:
        with work.trouble.step("the routing of this host could not be read"):
            async with Netlink() as netlink:
                link = await netlink.find_link(self._own.interface)
                if link is None and work.plan.mtu is not None:
                    what = f"the interface {self._own.interface} is not there"
                    work.trouble.add(what, "there is nothing to route into", "start the tunnel first")
                    return
                try:
                    rules = await netlink.rules(self._own)
                except SlotTaken as error:
                    if work.plan.rules:
                        work.trouble.add(
                            "policy rules could not be set",
                            str(error),
                            "give one of the two interfaces another name; mesh0 to mesh99 never clash",
                        )
                        return
                    rules = await netlink.rules_of_table(self._own)
                await self._change_network(work, netlink, link, rules)

    async def _change_network(
        self, work: _Work, netlink: Netlink, link: Link | None, rules: Sequence[FoundRule]
    ) -> None:
        if link is None:
            await work.set_rules(netlink, rules)
            await work.remove_routes(netlink, await netlink.routes(self._own, None))
            return
        await self._raise_link(work, netlink, link)
        addresses = await netlink.addresses(link)
        routes = await netlink.routes(self._own, link)
        await work.add_addresses(netlink, link, addresses)
        await work.set_routes(netlink, link, routes)
        await work.set_rules(netlink, rules)
        await work.remove_routes(netlink, routes)
        await work.remove_addresses(netlink, link, addresses)
        await self._lower_link(work, netlink, link)

    async def _raise_link(self, work: _Work, netlink: Netlink, link: Link) -> None:
        mtu = work.plan.mtu
        if mtu is None:
            return
        if link.mtu != mtu:
            with work.trouble.step(f"the MTU of {self._own.interface} could not be set to {mtu}"):
                await netlink.set_mtu(link, mtu)
                work.changes.append(f"link mtu {mtu}")
        if not link.up:
            with work.trouble.step(f"{self._own.interface} could not be set up"):
                await netlink.set_up(link, True)
                self._raised = True
                work.changes.append("link up")

    async def _lower_link(self, work: _Work, netlink: Netlink, link: Link) -> None:
        """Down again if it was us who set it up: an interface that only has our tunnel's name is not ours."""
        if work.plan.mtu is None and self._raised:
            with work.trouble.step(f"{self._own.interface} could not be set down"):
                await netlink.set_up(link, False)
                self._raised = False
                work.changes.append("link down")


class _Work:
    """One comparison of plan and kernel, with what it changed and what went wrong."""

    def __init__(self, own: Ownership, plan: Plan, trouble: Trouble) -> None:
        self.own = own
        self.plan = plan
        self.trouble = trouble
        self.changes: list[str] = []

    async def add_addresses(self, netlink: Netlink, link: Link, present: AbstractSet[IPInterface]) -> None:
        for address in self.plan.addresses:
            if address not in present:
                with self.trouble.step(f"{address} could not be added to {self.own.interface}"):
                    await netlink.add_address(link, address)
                    self.changes.append(f"address {address}")

    async def remove_addresses(self, netlink: Netlink, link: Link, present: AbstractSet[IPInterface]) -> None:
        for address in sorted(present - set(self.plan.addresses), key=str):
            with self.trouble.step(f"{address} could not be removed from {self.own.interface}"):
                await netlink.remove_address(link, address)
                self.changes.append(f"removed address {address}")

    async def set_routes(self, netlink: Netlink, link: Link, present: FoundRoutes) -> None:
        for route in self.plan.routes:
            if present.get(route.destination) != route:
                with self.trouble.step(f"the route to {route.destination} could not be set"):
                    await netlink.set_route(route, self.own, link)
                    self.changes.append(describe_route(route, self.own))

    async def remove_routes(self, netlink: Netlink, present: FoundRoutes) -> None:
        wanted = {route.destination for route in self.plan.routes}
        for destination in present:
            if destination not in wanted:
                with self.trouble.step(f"the route to {destination} could not be removed"):
                    await netlink.remove_route(destination, self.own)
                    self.changes.append(f"removed ip route {destination} table {self.own.table}")

    async def set_rules(self, netlink: Netlink, present: Sequence[FoundRule]) -> None:
        """Add what is missing, then remove what is not in the plan."""
        there = {found.rule for found in present}
        for rule in self.plan.rules:
            if rule not in there:
                with self.trouble.step(f"the policy rule {rule.priority} could not be added"):
                    await netlink.add_rule(rule, self.own)
                    self.changes.append(describe_rule(rule, self.own))
        for found in present:
            if found.rule is None or found.rule not in self.plan.rules:
                with self.trouble.step(f"the policy rule {found.request['priority']} could not be removed"):
                    await netlink.remove_rule(found)
                    self.changes.append(f"removed ip rule {found.request['priority']}")
