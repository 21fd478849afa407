"""The writer: batches, order, and one failure that does not take the others with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from coordinator.changes import Change
from coordinator.errors import Conflict, Unavailable
from coordinator.model import User
from coordinator.store import Draft, PutUser, Snapshot, Update, View
from coordinator.writer import MAX_BATCH, Decide, Writer
from tests.coordinator.records import WALL, user


class Storage:
    """Stores in memory; refuses batches that hold a user called `poison`."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    async def write(self, draft: Draft) -> None:
        await asyncio.sleep(0.001)
        if "poison" in draft.user_ids_by_name:
            raise OSError("disk full")
        self.batches.append(len(draft.touched_users))


@asynccontextmanager
async def running(storage: Storage, published: list[Change] | None = None) -> AsyncIterator[Writer]:
    def publish(_snapshot: Snapshot, change: Change) -> None:
        if published is not None:
            published.append(change)

    writer = Writer(Snapshot(), storage, lambda: WALL, publish)
    task = asyncio.create_task(writer.run())
    yield writer
    await writer.close()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def create(name: str) -> Decide[User]:
    def decide(view: View) -> tuple[list[Update], User]:
        if name in view.user_ids_by_name:
            raise Conflict("taken")
        made = user(view.counters.user + 1, name)
        return [PutUser(made)], made

    return decide


async def test_concurrent_writes_share_commits_and_see_each_other() -> None:
    storage = Storage()
    async with running(storage) as writer:
        users = await asyncio.gather(*(writer.submit(create(f"u{number}")) for number in range(1000)))
        assert [made.id for made in users] == list(range(1, 1001))
        assert len(writer.snapshot.users) == 1000
    assert sum(storage.batches) == 1000
    assert len(storage.batches) <= 1000 // MAX_BATCH + 2


async def test_only_one_of_many_gets_the_name() -> None:
    async with running(Storage()) as writer:
        results = await asyncio.gather(
            *(writer.submit(create("ana")) for _ in range(50)),
            return_exceptions=True,
        )
    assert sum(isinstance(result, Conflict) for result in results) == 49


async def test_a_write_that_the_store_refuses_fails_alone() -> None:
    published: list[Change] = []
    async with running(Storage(), published) as writer:
        results = await asyncio.gather(
            *(writer.submit(create(name)) for name in ("ana", "poison", "ben")),
            return_exceptions=True,
        )
        assert isinstance(results[1], Unavailable)
        assert "disk full" in str(results[1])
        assert set(writer.snapshot.user_ids_by_name) == {"ana", "ben"}
    assert sum(len(change.users) for change in published) == 2


async def test_a_decision_that_breaks_fails_alone() -> None:
    def broken(_view: View) -> tuple[list[Update], None]:
        raise ZeroDivisionError

    async with running(Storage()) as writer:
        results = await asyncio.gather(
            writer.submit(broken),
            writer.submit(create("ana")),
            return_exceptions=True,
        )
        assert isinstance(results[0], Unavailable)
        assert set(writer.snapshot.user_ids_by_name) == {"ana"}


async def test_what_waits_at_the_end_is_still_written_and_then_nothing() -> None:
    storage = Storage()
    async with running(storage) as writer:
        waiting = asyncio.create_task(writer.submit(create("ana")))
        await asyncio.sleep(0)
        await writer.close()
        await waiting
        with pytest.raises(Unavailable):
            await writer.submit(create("ben"))
    assert storage.batches == [1]


async def test_a_caller_that_gives_up_does_not_stop_the_write() -> None:
    async with running(Storage()) as writer:
        caller = asyncio.create_task(writer.submit(create("ana")))
        await asyncio.sleep(0)
        caller.cancel()
        await writer.submit(create("ben"))
        assert set(writer.snapshot.user_ids_by_name) == {"ana", "ben"}
