"""Host names to addresses, each looked up once.

The system's resolver takes a thread and cannot be called off: where the DNS server is silent, it takes tens
of seconds. So the threads are daemons of their own: they neither hold up the end of a program nor what else
the event loop's executor is for.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import NamedTuple

from meshnode.netcheck.report import Family

__all__ = ["Addresses", "Names"]


class Addresses(NamedTuple):
    """The first address of each family, or empty."""

    ipv4: str = ""
    ipv6: str = ""

    def of(self, family: Family) -> str:
        """The one of that family."""
        return self.ipv4 if family is Family.IPV4 else self.ipv6


class Names:
    """What was found stays for the life of the object, of which a check has one."""

    def __init__(self) -> None:
        self._found: dict[str, asyncio.Future[Addresses]] = {}

    async def resolve(self, host: str) -> Addresses:
        """Empty where there is nothing, or no answer."""
        if host not in self._found:
            self._found[host] = _look_up(host, asyncio.get_running_loop())
        return await asyncio.shield(self._found[host])


def _look_up(host: str, loop: asyncio.AbstractEventLoop) -> asyncio.Future[Addresses]:
    future: asyncio.Future[Addresses] = loop.create_future()

    def give(found: Addresses) -> None:
        if not future.done():
            future.set_result(found)

    def work() -> None:
        found = _addresses(host)
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(give, found)

    threading.Thread(target=work, name=f"resolve {host}", daemon=True).start()
    return future


def _addresses(host: str) -> Addresses:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, ValueError):  # no such name; no name at all
        return Addresses()
    by_family = {family: str(address[0]) for family, _, _, _, address in reversed(found)}
    return Addresses(by_family.get(socket.AF_INET, ""), by_family.get(socket.AF_INET6, ""))
