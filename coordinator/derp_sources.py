"""The relays of others: DERP maps in files (YAML, as Headscale's) and at URLs (JSON, as Tailscale's).

The last good copy of each URL's map is kept in the state directory: a coordinator that starts without a
network still tells nodes of the relays that it told them of before.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import yaml

from coordinator import derp_map
from coordinator.derp_map import MalformedMap
from coordinator.errors import CoordinatorError, StartupError
from coordinator.relay_config import RelayConfig
from derp.files import write_atomically
from meshproto.messages import DERPMap

FETCH_TIMEOUT_S = 10.0
MAX_SIZE = 4 * 1024 * 1024  # bytes of a map
FIRST_RETRY_S = 5.0
LAST_RETRY_S = 300.0

Publish = Callable[[DERPMap], Awaitable[None]]

logger = logging.getLogger(__name__)


class _NotThere(Exception):
    """A source could not be read; `str()` says why."""


class DerpSources:
    """Knows the last good map of each source, and reads them again from time to time."""

    def __init__(self, config: RelayConfig, state_dir: Path) -> None:
        """Takes files as they are, and of URLs what is kept. Raises StartupError for a file."""
        self._config = config
        self._state_dir = state_dir
        self._from_urls = {url: kept for url in config.urls if (kept := self._kept(url)) is not None}
        try:
            self._from_files = [read_file(path) for path in config.paths]
        except _NotThere as error:
            raise StartupError(f"derp.paths: {error}") from error

    @property
    def derp_map(self) -> DERPMap:
        """All relays of all sources: those of URLs, and over them those of files."""
        urls = [self._from_urls[url] for url in self._config.urls if url in self._from_urls]
        return derp_map.merge([*urls, *self._from_files])

    @asynccontextmanager
    async def kept_up_to_date(self, publish: Publish) -> AsyncIterator[None]:
        """Inside the block, `publish` is called with each new map."""
        task = asyncio.create_task(self._keep_up_to_date(publish))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_up_to_date(self, publish: Publish) -> None:
        if not self._config.urls and not self._config.paths:
            return
        retry_s = FIRST_RETRY_S
        published = self.derp_map
        while True:
            is_complete = await self._fetch_all()
            self._read_files()
            if self.derp_map != published:
                try:
                    await publish(self.derp_map)
                    published = self.derp_map
                    logger.info("relays changed", extra={"regions": len(published.regions or {})})
                except CoordinatorError as error:
                    logger.warning("relays not changed", extra={"error": str(error)})
                    is_complete = False
            if is_complete:
                retry_s = FIRST_RETRY_S
                if not self._config.updates:
                    return
                await asyncio.sleep(self._config.update_frequency.total_seconds())
            else:
                await asyncio.sleep(min(retry_s, self._config.update_frequency.total_seconds()))
                retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def _fetch_all(self) -> bool:
        """Whether every URL gave a map."""
        if not self._config.urls:
            return True
        timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=True) as session:
            fetched = await asyncio.gather(*(self._fetch(session, url) for url in self._config.urls))
        return all(fetched)

    async def _fetch(self, session: aiohttp.ClientSession, url: str) -> bool:
        try:
            content = await _get(session, url)
            self._from_urls[url] = parse_json(content)
        except _NotThere as error:
            stays = "its relays stay as they were" if url in self._from_urls else "its relays are missing"
            logger.warning("DERP map not read; %s", stays, extra={"url": url, "error": str(error)})
            return False
        try:
            await asyncio.to_thread(write_atomically, self._copy_of(url), content)
        except OSError as error:
            logger.warning("DERP map not kept", extra={"url": url, "error": error.strerror})
        return True

    def _read_files(self) -> None:
        for number, path in enumerate(self._config.paths):
            try:
                self._from_files[number] = read_file(path)
            except _NotThere as error:
                logger.warning("DERP map not read; its relays stay as they were", extra={"error": str(error)})

    def _kept(self, url: str) -> DERPMap | None:
        try:
            return parse_json(self._copy_of(url).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, _NotThere) as error:
            logger.warning("kept DERP map not read", extra={"url": url, "error": str(error)})
            return None

    def _copy_of(self, url: str) -> Path:
        return self._state_dir / f"derp-map-{hashlib.sha256(url.encode()).hexdigest()[:16]}.json"


def read_file(path: Path) -> DERPMap:
    """Raises _NotThere."""
    try:
        return derp_map.parse(yaml.safe_load(path.read_text()))
    except OSError as error:
        raise _NotThere(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _NotThere(f"{path} is not text") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise _NotThere(f"{path}{where} is not YAML") from error
    except MalformedMap as error:
        raise _NotThere(f"{path} is not a DERP map: {error}") from error


def parse_json(content: bytes) -> DERPMap:
    """Raises _NotThere."""
    try:
        return derp_map.parse(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise _NotThere("not JSON") from error
    except MalformedMap as error:
        raise _NotThere(f"not a DERP map: {error}") from error


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    """Raises _NotThere."""
    try:
        async with session.get(url) as response:
            if response.status != 200:
                raise _NotThere(f"HTTP status {response.status}")
            content = b""
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > MAX_SIZE:
                    raise _NotThere("too large")
            return content
    except TimeoutError as error:
        raise _NotThere("no answer") from error
    except (aiohttp.ClientError, ValueError, OSError) as error:
        raise _NotThere(str(error) or type(error).__name__) from error
