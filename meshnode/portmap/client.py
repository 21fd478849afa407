"""What the node has of port mapping: its UDP port on the gateway of the network that it is in."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from ipaddress import IPv4Address

from meshnode.control.dial import MarkSocket
from meshnode.portmap.mapping import Lan, Probed, is_behind_nat
from meshnode.portmap.pcp import NONCE_SIZE
from meshnode.portmap.session import Session, probe
from meshnode.portmap.timing import DEFAULT, Timings
from meshproto.addresses import AddrPort

__all__ = ["PortMapper"]

SECRET_SIZE = 16


class PortMapper:
    """Has the gateway send on to us what comes for one of its UDP ports.

    `mark` is applied to every socket, so that nothing of this goes into a tunnel. `entropy` gives random
    bytes. `on_change` is called when `external` has changed: by the event loop, never from within a method.
    Nothing that a gateway or the network does makes a method raise.
    """

    def __init__(
        self,
        *,
        mark: MarkSocket,
        entropy: Callable[[int], bytes],
        on_change: Callable[[], None],
        timings: Timings = DEFAULT,
    ) -> None:
        self._mark = mark
        self._entropy = entropy
        self._on_change = on_change
        self._timings = timings
        self._secret = entropy(SECRET_SIZE)
        self._lan: Lan | None = None
        self._session: Session | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def external(self) -> AddrPort | None:
        """The address and port at which others reach our port now. None while nothing is mapped."""
        return self._session.external if self._session else None

    @property
    def service(self) -> str:
        """The protocol that it is mapped by: `PCP`, `NAT-PMP` or `UPnP`; empty while nothing is mapped."""
        return self._session.service if self._session else ""

    @property
    def problem(self) -> str:
        """Why nothing is mapped, for a person; empty while there is a mapping, or nothing to map."""
        return self._session.problem if self._session else ""

    def configure(self, *, gateway: IPv4Address | None, self_ip: IPv4Address | None, local_port: int) -> None:
        """Say where we are: at the start, and whenever the network may have changed.

        `gateway` is the default gateway and `self_ip` our address towards it, None without one. A port of 0
        maps nothing, and leaves only `probe`. A mapping of another network, or of another port, is forgotten
        at once, and given back in the background unless there is no network any more.
        """
        lan = Lan(gateway, self_ip) if gateway and self_ip and is_behind_nat(gateway) else None
        self._lan = lan
        wanted = (lan, local_port) if lan and local_port else None
        if wanted == ((self._session.lan, self._session.local_port) if self._session else None):
            return
        self._end_session(release=lan is not None)
        if wanted:
            self._session = Session(
                *wanted,
                mark=self._mark,
                entropy=self._entropy,
                nonce=self._nonce(*wanted),
                timings=self._timings,
                on_change=self._on_change,
            )
            self._session.start()

    def _nonce(self, lan: Lan, local_port: int) -> bytes:
        """The same whenever we come back to a network, so that a mapping that we left there is still ours."""
        place = f"{lan.gateway} {lan.self_ip} {local_port}".encode()
        return hashlib.blake2b(place, key=self._secret, digest_size=NONCE_SIZE).digest()

    def _end_session(self, *, release: bool) -> None:
        if self._session is None:
            return
        if self._session.external:
            asyncio.get_running_loop().call_soon(self._on_change)
        task = asyncio.create_task(self._session.close(release=release), name="port mapping's end")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        self._session = None

    async def probe(self) -> Probed:
        """Which protocols the gateway speaks: asked now, in 5 s at most, mostly 2.

        Not known where there is no gateway with a private address.
        """
        if self._lan is None:
            return Probed()
        return await probe(self._lan, mark=self._mark, entropy=self._entropy, timings=self._timings)

    async def close(self) -> None:
        """Give the mapping back and stop. `on_change` is not called any more. Safe to call again."""
        session, self._session = self._session, None
        if session:
            await session.close()
        if self._ending:
            await asyncio.wait(self._ending)
