"""`dns.extra_records_path`: a JSON file of DNS records, read again whenever it changes.

Whoever writes it may replace it, rewrite it in place, or remove it and make it anew. A file that is empty or
wrong is one being written: the records stay as they were, and if it stays wrong the log says what is.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from coordinator.config_values import WrongValue
from coordinator.dns_config import read_records
from coordinator.errors import CoordinatorError, StartupError
from meshproto.messages import DNSRecord

LOOK_S = 1.0  # between two looks at the file; looking works on every file system, notifications do not
MAX_SIZE = 4 * 1024 * 1024  # bytes; every map holds all records

Publish = Callable[[tuple[DNSRecord, ...]], Awaitable[None]]

logger = logging.getLogger(__name__)


class ExtraRecords:
    """The records in the file at `path`."""

    def __init__(self, path: Path) -> None:
        """Raises StartupError for a file that cannot be used. An empty one holds no records."""
        self._path = path
        self._seen = _stamp(path)
        try:
            self.records = read_file(path) or ()
        except WrongValue as wrong:
            raise StartupError(f"dns.extra_records_path: {wrong}") from wrong

    @asynccontextmanager
    async def kept_up_to_date(self, publish: Publish) -> AsyncIterator[None]:
        """Inside the block, `publish` is called with the records each time they have become others."""
        task = asyncio.create_task(self._follow(publish), name="extra DNS records")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _follow(self, publish: Publish) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            stamp = await asyncio.to_thread(_stamp, self._path)
            if stamp is None or stamp == self._seen:
                continue
            try:
                records = await asyncio.to_thread(read_file, self._path)
                if records is not None and records != self.records:
                    await publish(records)
                    self.records = records
                    logger.info("extra DNS records changed", extra={"records": len(records)})
            except WrongValue as wrong:
                logger.warning(
                    "extra DNS records not read; they stay as they were", extra={"error": str(wrong)}
                )
            except CoordinatorError as error:
                logger.warning("extra DNS records not changed", extra={"error": str(error)})
                continue
            self._seen = stamp


def read_file(path: Path) -> tuple[DNSRecord, ...] | None:
    """The records; None while the file is empty. Raises WrongValue."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise WrongValue(f"{path}: {error.strerror}") from error
    if not content:
        return None
    if len(content) > MAX_SIZE:
        raise WrongValue(f"{path} is larger than {MAX_SIZE >> 20} MiB")
    try:
        document = json.loads(content)
    except json.JSONDecodeError as error:
        raise WrongValue(f"{path}, line {error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise WrongValue(f"{path} is not JSON") from error
    try:
        return read_records(document)
    except WrongValue as wrong:
        raise WrongValue(f"{path}: {wrong}") from None


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What a changed file differs in; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
