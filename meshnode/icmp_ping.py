"""ICMP pings through the tunnel: the host of the peer answers, if its firewall lets it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from meshnode.inner_socket import InnerSocket
from meshnode.netcheck.echo import echo_request, is_reply_untrusted
from meshproto.addresses import IPAddress

_DATA_SIZE: Final = 16
_SEQUENCE: Final = 1
_PROTOCOLS: Final = {4: 1, 6: 58}
"""ICMP's number, by IP version."""


async def icmp_ping(interface: str, address: IPAddress, entropy: Callable[[int], bytes]) -> None:
    """Send one echo request through `interface`, and return when the reply is here, however long it takes.

    Raises OSError where it cannot be sent.
    """
    loop = asyncio.get_running_loop()
    version = address.version
    opened = InnerSocket(interface, version, _PROTOCOLS[version])
    identifier, data = int.from_bytes(entropy(2), "big"), entropy(_DATA_SIZE)
    answered = asyncio.Event()

    def on_readable() -> None:
        while (packet := opened.receive()) is not None:
            if packet.source == address and is_reply_untrusted(
                packet.payload, version, _SEQUENCE, data, identifier=identifier
            ):
                answered.set()

    try:
        loop.add_reader(opened.fileno(), on_readable)
        opened.send(address, echo_request(version, identifier, _SEQUENCE, data))
        await answered.wait()
    finally:
        loop.remove_reader(opened.fileno())
        opened.close()
