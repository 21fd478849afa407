"""Watches the host's network: what it is like now, and when it changes or something of ours is removed."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address, ip_interface
from typing import Any

from pyroute2 import AsyncIPRoute, NetlinkError

from meshnode.linux.errors import RouterError
from meshnode.linux.marks import FWMARK, ownership
from meshnode.linux.netlink import FAMILY, beside_the_loop
from meshnode.linux.netlink_events import EVERYTHING, Event, read_firewall, read_routing
from meshnode.linux.netstate import AddressFact, DefaultRoute, LinkFact, NetworkState, network_state
from meshproto.addresses import IPAddress

logger = logging.getLogger(__name__)

# Multicast groups of NETLINK_ROUTE (rtnetlink.h, RTNLGRP_*): link; IPv4 address, route, rule; the same of
# IPv6; settings of either.
ROUTING_GROUPS = (1, 5, 7, 8, 9, 11, 19, 24, 25)
NETLINK_NETFILTER = 12
NFTABLES_GROUPS = (7,)
RECEIVE_BUFFER = 1 << 20
RECEIVE_SIZE = 1 << 16

CHANGE_DELAY = 1.0
"""Seconds from the first sign of a change to looking: a new lease removes an address before it adds one."""
REPAIR_DELAY = 0.25
"""Seconds from the first sign that something of ours is gone to putting it back."""
REPAIR_INTERVAL = 5.0
"""Seconds per repair in the long run, against a fight with another program."""
REPAIR_BURST = 10
"""Repairs that may follow each other faster."""

# The way to these tells whether there is a way to the internet: a name server of the root, whose address does
# not move. Nothing is sent there.
FAR_AWAY = {4: "198.41.0.4", 6: "2001:503:ba3e::2:30"}

IFF_UP, IFF_LOOPBACK, IFF_RUNNING = 0x1, 0x8, 0x40
UNUSABLE_FLAGS = 0x08 | 0x20 | 0x40
"""IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE."""
RTN_UNICAST = 1
NO_ROUTE = frozenset(
    {
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EACCES,  # a "prohibit" route
        errno.EINVAL,  # a "blackhole" route
        errno.EAFNOSUPPORT,
        errno.EOPNOTSUPP,
    }
)


class NetworkMonitor:
    """Follows the kernel's notifications. Between `start` and `close`, `state` is what the network is like.

    `on_change` is called with every new state. `on_disturbed` is awaited when rules, routes, addresses,
    settings or the firewall table of our interface's node may be gone, and returns what it had to put back
    (`LinuxRouter.repair`); at most 10 times in a row, then once in 5 s.
    """

    def __init__(
        self,
        interface: str,
        *,
        on_change: Callable[[NetworkState], object] = lambda state: None,
        on_disturbed: Callable[[], Awaitable[tuple[str, ...]]] | None = None,
    ) -> None:
        self.state = NetworkState()
        self._own = ownership(interface)
        self._on_change = on_change
        self._on_disturbed = on_disturbed
        self._look = _Soon(CHANGE_DELAY, self._look_again)
        self._repair = _Soon(REPAIR_DELAY, self._repair_now)
        self._allowance = _Allowance(REPAIR_INTERVAL, REPAIR_BURST)
        self._sockets: list[socket.socket] = []
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the state and begin to follow it. Raises OSError or NetlinkError."""
        self._listen(socket.NETLINK_ROUTE, ROUTING_GROUPS, read_routing)
        if self._on_disturbed is not None:
            try:
                self._listen(NETLINK_NETFILTER, NFTABLES_GROUPS, read_firewall)
            except OSError as error:  # a kernel without nftables has no table of ours either
                logger.info("changes of the firewall are not followed: %s", error)
        self.state = await beside_the_loop(read_state(self._own.interface))
        self._task = asyncio.create_task(self._run(), name="network monitor")

    async def close(self) -> None:
        """Stop. May be called again."""
        loop = asyncio.get_running_loop()
        while self._sockets:
            listener = self._sockets.pop()
            loop.remove_reader(listener)
            listener.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look.run())
            group.create_task(self._repair.run())

    def _listen(self, protocol: int, groups: tuple[int, ...], read: Callable[[bytes, Any], Event]) -> None:
        listener = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
        self._sockets.append(listener)  # before anything can fail, so that `close` closes it
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.bind((0, sum(1 << group - 1 for group in groups)))
        asyncio.get_running_loop().add_reader(listener, self._receive, listener, read)

    def _receive(self, listener: socket.socket, read: Callable[[bytes, Any], Event]) -> None:
        event = Event.NONE
        try:
            while True:
                event |= read(listener.recv(RECEIVE_SIZE), self._own)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            event = EVERYTHING  # more happened than the buffer holds
        if Event.CHANGED in event:
            self._look.trigger()
        if Event.DISTURBED in event:
            self._repair.trigger()

    async def _look_again(self) -> None:
        try:
            state = await beside_the_loop(read_state(self._own.interface))
        except (OSError, NetlinkError) as error:
            logger.warning("the network's state cannot be read: %s", error)
            return
        if state != self.state:
            self.state = state
            self._on_change(state)

    async def _repair_now(self) -> None:
        if self._on_disturbed is None:
            return
        await self._allowance.wait()
        try:
            repaired = await self._on_disturbed()
        except RouterError as error:
            logger.error("%s could not be repaired: %s", self._own.interface, error)
            repaired = ()
        if repaired:
            self._allowance.use()
            logger.warning(
                "another program removed or changed what belongs to %s; put back: %s",
                self._own.interface,
                "; ".join(repaired),
            )


class _Soon:
    """Runs an action a fixed time after it was asked for; what is asked for meanwhile is the same run."""

    def __init__(self, delay: float, action: Callable[[], Awaitable[None]]) -> None:
        self._delay = delay
        self._action = action
        self._asked = asyncio.Event()

    def trigger(self) -> None:
        self._asked.set()

    async def run(self) -> None:
        while True:
            await self._asked.wait()
            await asyncio.sleep(self._delay)
            self._asked.clear()
            try:
                await self._action()
            except Exception:
                logger.exception(
                    "an action of the network monitor failed"
                )  # the next event is still followed


class _Allowance:
    """A token bucket: `burst` uses at once, one more every `interval` seconds."""

    def __init__(self, interval: float, burst: int) -> None:
        self._interval = interval
        self._burst = burst
        self._full_at = 0.0
        """The time at which the bucket is full again."""

    async def wait(self) -> None:
        """Return when there is something left to use."""
        earliest = self._full_at - (self._burst - 1) * self._interval
        await asyncio.sleep(max(0.0, earliest - asyncio.get_running_loop().time()))

    def use(self) -> None:
        self._full_at = max(self._full_at, asyncio.get_running_loop().time()) + self._interval


async def read_state(interface: str) -> NetworkState:
    """The host's network as it is now, without the tunnel's interface. Raises NetlinkError.

    To be run `beside_the_loop`.
    """
    async with AsyncIPRoute(strict_check=True) as ipr:
        links = {}
        async for message in await ipr.link("dump"):
            flags = message["flags"]
            links[message["index"]] = LinkFact(
                name=message.get_attr("IFLA_IFNAME"),
                running=bool(flags & IFF_UP and flags & IFF_RUNNING),
                loopback=bool(flags & IFF_LOOPBACK),
            )
        addresses = [_address(message) async for message in await ipr.addr("dump")]
        found = {version: await _default_route(ipr, version, links) for version in FAMILY}
    default_routes = {version: route for version, route in found.items() if route is not None}
    return network_state(interface, links, addresses, default_routes)


def _address(message: Any) -> AddressFact:
    host = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    address = ip_interface(f"{host}/{message['prefixlen']}")
    return AddressFact(message["index"], address, usable=not flags & UNUSABLE_FLAGS)


async def _default_route(ipr: Any, version: int, links: dict[int, LinkFact]) -> DefaultRoute | None:
    """Where our own packets to the internet go, by the rules for our mark."""
    try:
        [message] = await ipr.route("get", family=FAMILY[version], dst=FAR_AWAY[version], mark=FWMARK)
    except NetlinkError as error:
        if error.code in NO_ROUTE:
            return None
        raise
    link = links.get(message.get_attr("RTA_OIF"))
    if message["type"] != RTN_UNICAST or link is None or link.loopback:
        return None
    return DefaultRoute(
        link.name, _optional(message.get_attr("RTA_GATEWAY")), _optional(message.get_attr("RTA_PREFSRC"))
    )


def _optional(address: str | None) -> IPAddress | None:
    return ip_address(address) if address else None
