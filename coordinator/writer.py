"""The one writer: decides, stores and publishes, many writes per commit.

A write is a function that looks at the state and returns updates and a result. Whatever writes have gathered
while the last commit was under way are decided one after the other on one draft, stored in one transaction,
and published as one snapshot; only then do their callers go on. So a decision such as "this key is unused" is
never stale, a batch costs one fsync, and what a caller was told survives any crash.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeAlias, TypeVar

from coordinator.changes import Change
from coordinator.errors import CoordinatorError, Unavailable
from coordinator.store import Draft, Snapshot, Update, View

MAX_BATCH = 256  # writes per commit: bounds how long the event loop is busy with one
MAX_QUEUED = 20_000  # writes waiting; more than the connections that may be open at once

Result = TypeVar("Result")
Decide: TypeAlias = Callable[[View], tuple[Sequence[Update], Result]]

logger = logging.getLogger(__name__)


class Storage(Protocol):
    """Where batches are made durable (db.py)."""

    async def write(self, draft: Draft) -> None:
        """Store what the draft touched, all or nothing; durable on return."""


class _Write:
    __slots__ = ("decide", "done", "result")

    def __init__(self, decide: Decide[Any], done: asyncio.Future[Any]) -> None:
        self.decide = decide
        self.done = done
        self.result: Any = None


class Writer:
    """Owns the current snapshot. `run` is its task; `submit` is how everything else changes the state."""

    def __init__(
        self,
        snapshot: Snapshot,
        storage: Storage,
        wall: Callable[[], datetime],
        publish: Callable[[Snapshot, Change], None],
    ) -> None:
        """`publish` is called with each new snapshot and where it may differ, before any caller goes on."""
        self.snapshot = snapshot
        self._storage = storage
        self._wall = wall
        self._publish = publish
        self._queue: deque[_Write] = deque()
        self._queued = asyncio.Event()
        self._idle = asyncio.Event()
        self._busy = False
        self._closed = False

    async def submit(self, decide: Decide[Result]) -> Result:
        """Run `decide` in its turn, make its updates durable, and return its result.

        Raises what `decide` raises, with nothing changed; Unavailable when the store refuses or too much
        waits. A caller that is cancelled leaves its write in the queue: it happens, or not, as a whole.
        """
        if self._closed:
            raise Unavailable("the coordinator is shutting down")
        if len(self._queue) >= MAX_QUEUED:
            raise Unavailable("the coordinator is overloaded; try again in a moment")
        write = _Write(decide, asyncio.get_running_loop().create_future())
        self._queue.append(write)
        self._queued.set()
        result: Result = await write.done
        return result

    async def close(self) -> None:
        """Take no more writes and commit those that wait."""
        self._closed = True
        while self._queue or self._busy:
            self._idle.clear()
            await self._idle.wait()

    async def run(self) -> None:
        """Commit batches until cancelled. Cancel only after `close`."""
        try:
            while True:
                await self._queued.wait()
                self._queued.clear()
                self._busy = True
                while self._queue:
                    await self._commit(self._next_batch())
                self._busy = False
                self._idle.set()
        finally:
            self._stop()

    def _next_batch(self) -> list[_Write]:
        return [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH))]

    def _stop(self) -> None:
        """Nobody commits any more: whoever waits has to hear of it."""
        self._closed = True
        self._busy = False
        self._idle.set()
        for write in self._queue:
            if not write.done.done():
                write.done.set_exception(Unavailable("the coordinator is shutting down"))
        self._queue.clear()

    async def _commit(self, batch: list[_Write]) -> None:
        draft = Draft(self.snapshot, self._wall())
        decided = batch
        try:
            decided = [write for write in batch if _decide(write, draft)]
            if draft.is_stored:
                await self._storage.write(draft)
        except Exception as error:
            await self._commit_apart(decided, error)
            return
        change = draft.change()
        self.snapshot = draft.snapshot()
        if change:
            self._publish(self.snapshot, change)
        for write in decided:
            if not write.done.done():
                write.done.set_result(write.result)

    async def _commit_apart(self, batch: list[_Write], error: Exception) -> None:
        """Something in the batch failed: the guilty write must not take the others with it."""
        if len(batch) > 1:
            for write in batch:
                await self._commit([write])
            return
        logger.error("write failed", exc_info=error)
        for write in batch:
            if not write.done.done():
                write.done.set_exception(Unavailable(f"the write failed: {_reason(error)}"))


def _decide(write: _Write, draft: Draft) -> bool:
    """Whether the write was decided and its updates are in the draft; if not, its caller knows why."""
    try:
        updates, write.result = write.decide(draft)
    except CoordinatorError as refusal:
        if not write.done.done():
            write.done.set_exception(refusal)
        return False
    draft.apply(updates)
    return True


def _reason(error: Exception) -> str:
    text = str(getattr(error, "orig", None) or error) or type(error).__name__
    return text.splitlines()[0]
