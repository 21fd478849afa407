"""TSMP pings through the tunnel: answers those of peers, and sends our own.

An answer shows that WireGuard works from node to node, whatever the firewalls of the two hosts do to other
traffic. Packets come and go over raw sockets on the tunnel's interface; the data plane knows nothing of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Final

from meshnode.inner_socket import InnerSocket, Packet
from meshnode.tsmp_messages import DATA_SIZE, PROTOCOL, Ping, Pong, parse_untrusted
from meshproto.addresses import IPAddress

READ_BUDGET: Final = 32
"""Packets of one turn: a peer that floods us slows down nothing but its own answers."""

log = logging.getLogger(__name__)


class Tsmp:
    """One per tunnel: `Tsmp(interface, os.urandom)`, `open()` once the interface exists, `close()` before it
    goes. All methods are to be called from the loop's thread.
    """

    def __init__(self, interface: str, entropy: Callable[[int], bytes]) -> None:
        self._interface = interface
        self._entropy = entropy
        self._sockets: dict[int, InnerSocket] = {}
        self._waiting: dict[bytes, asyncio.Future[Pong]] = {}

    def open(self) -> None:
        """Answer from now on. A family that this host does not have is done without, and said in the log."""
        loop = asyncio.get_running_loop()
        for version in (4, 6):
            try:
                opened = InnerSocket(self._interface, version, PROTOCOL)
            except OSError as error:
                log.warning("no TSMP over IPv%d: %s", version, error)
                continue
            self._sockets[version] = opened
            loop.add_reader(opened.fileno(), self._on_readable, opened)

    def close(self) -> None:
        """Answer no more. Who waits for a pong waits in vain."""
        loop = asyncio.get_running_loop()
        for opened in self._sockets.values():
            loop.remove_reader(opened.fileno())
            opened.close()
        self._sockets.clear()

    async def ping(self, address: IPAddress) -> Pong:
        """Send one ping to a peer's address in the mesh, and return the answer, however long it takes.

        Raises OSError where it cannot be sent.
        """
        if address.version not in self._sockets:
            raise OSError(f"TSMP over IPv{address.version} is not available on this host")
        data = self._entropy(DATA_SIZE)
        answer: asyncio.Future[Pong] = asyncio.get_running_loop().create_future()
        self._waiting[data] = answer
        try:
            self._sockets[address.version].send(address, Ping(data).encode())
            return await answer
        finally:
            del self._waiting[data]

    def _on_readable(self, readable: InnerSocket) -> None:
        for _ in range(READ_BUDGET):
            packet = readable.receive()
            if packet is None:
                return
            self._handle(readable, packet)

    def _handle(self, readable: InnerSocket, packet: Packet) -> None:
        message = parse_untrusted(packet.payload)
        if isinstance(message, Ping):
            with contextlib.suppress(OSError):
                readable.send(packet.source, Pong(message.data).encode(), packet.destination)
        elif isinstance(message, Pong):
            answer = self._waiting.get(message.data)
            if answer is not None and not answer.done():
                answer.set_result(message)
