"""A real HTTP proxy, tinyproxy, on a port of 127.0.0.1."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.derp.listening import free_port, until_it_listens
from tests.lacking import lacking

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
    port = free_port()
    log = directory / "tinyproxy.log"
    settings = directory / "tinyproxy.conf"
    settings.write_text(
        f'Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nLogFile "{log}"\nLogLevel Info\n'
        f"BasicAuth {USER} {PASSWORD}\n"
    )
    process = await asyncio.create_subprocess_exec(program, "-d", "-c", str(settings))
    try:
        await until_it_listens(port)
        yield RunningProxy(port, log)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()
