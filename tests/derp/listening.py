"""Ports of 127.0.0.1 for programs that cannot choose one themselves."""

from __future__ import annotations

import asyncio
import socket

PATIENCE_S = 10.0


def free_port() -> int:
    """A TCP port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def until_it_listens(port: int) -> None:
    """Raises TimeoutError."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
