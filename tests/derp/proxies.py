"""A real HTTP proxy, tinyproxy, on a port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lacking import lacking

PATIENCE_S = 10.0
USER, PASSWORD = "ana", "s3cret"


@dataclass(frozen=True)
class RunningProxy:
    """Where it is, and its log."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        """As it stands in HTTPS_PROXY."""
        return f"http://{USER}:{PASSWORD}@127.0.0.1:{self.port}"

    def connections_to(self, authority: str) -> int:
        """How often it was asked for a connection to `host:port`."""
        return self.log.read_text().count(f"CONNECT {authority} HTTP/1.1")


@asynccontextmanager
async def running_proxy(directory: Path) -> AsyncIterator[RunningProxy]:
    """tinyproxy, which wants USER and PASSWORD."""
    program = shutil.which("tinyproxy")
    if program is None:
        lacking("tinyproxy is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    log = directory / "tinyproxy.log"
    settings = directory / "tinyproxy.conf"
    settings.write_text(
        f'Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogFile "{log}"\nLogLevel Info\n'
        f"BasicAuth {USER} {PASSWORD}\n"
    )
    process = await asyncio.create_subprocess_exec(program, "-d", "-c", str(settings))
    try:
        await _until_it_listens(port)
        yield RunningProxy(port, log)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _until_it_listens(port: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
