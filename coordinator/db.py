"""Persistence: opens the database, brings its schema up to date, loads it, and writes batches durably.

SQLite through aiosqlite, in WAL mode with `synchronous=FULL`: a committed batch survives `kill -9` and power
loss. Statements are SQLAlchemy Core and say nothing that PostgreSQL would not understand; what is SQLite's
own (pragmas, the file, the look before opening) stays in `open_sqlite` and the functions below it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from coordinator import schema
from coordinator.errors import StartupError
from coordinator.schema import Row
from coordinator.settings import NetworkSettings
from coordinator.store import Counters, Draft, PutApiKey, PutNode, PutPreAuthKey, PutUser, Snapshot

BUSY_TIMEOUT_S = 10.0

Statement: TypeAlias = tuple[sa.Executable, list[Row]]
Record = TypeVar("Record")


class Database:
    """An open database with the current schema. Only the state's writer may write to it."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def load(self, settings: NetworkSettings, wall: datetime) -> Snapshot:
        """The stored state as a snapshot in which nobody is online."""
        async with self._engine.connect() as connection:

            async def rows(table: sa.Table) -> list[Row]:
                result = await connection.execute(sa.select(table))
                return [dict(row) for row in result.mappings()]

            users = [schema.user_from_row(row) for row in await rows(schema.users)]
            keys = [schema.key_from_row(row) for row in await rows(schema.pre_auth_keys)]
            api_keys = [schema.api_key_from_row(row) for row in await rows(schema.api_keys)]
            nodes = [schema.node_from_row(row) for row in await rows(schema.nodes)]
            counters = schema.counters_from_rows(await rows(schema.id_counters))
        draft = Draft(Snapshot(counters=counters, settings=settings), wall)
        draft.apply(PutUser(user) for user in users)
        draft.apply(PutPreAuthKey(key) for key in keys)
        draft.apply(PutApiKey(key) for key in api_keys)
        # In the order of addresses, so that sequential allocation goes on after the highest one.
        draft.apply(PutNode(node) for node in sorted(nodes, key=lambda node: tuple(map(int, node.addresses))))
        return draft.snapshot()

    async def write(self, draft: Draft) -> None:
        """Store what `draft` touched, in one transaction that is durable on return.

        Raises SQLAlchemyError, and then nothing is stored.
        """
        async with self._engine.begin() as connection:
            for statement, rows in _statements(draft):
                await connection.execute(statement, rows)

    async def ping(self) -> None:
        """One round trip. Raises SQLAlchemyError."""
        async with self._engine.connect() as connection:
            await connection.execute(sa.select(sa.literal(1)))

    async def close(self) -> None:
        await self._engine.dispose()


def _statements(draft: Draft) -> Iterable[Statement]:
    """The fewest statements that bring the tables from the draft's base to the draft.

    Parents are inserted before children and removed after them, so that foreign keys hold at every step;
    removals of a table come before its insertions, so that a freed address can be used again in the same
    batch.
    """
    base = draft.base
    user_steps = _steps(schema.users, draft.touched_users, base.users, draft.users, schema.user_row)
    key_steps = _steps(
        schema.pre_auth_keys, draft.touched_keys, base.pre_auth_keys, draft.pre_auth_keys, schema.key_row
    )
    node_steps = _steps(schema.nodes, draft.touched_nodes, base.nodes, draft.nodes, schema.node_row)
    api_key_steps = _steps(
        schema.api_keys, draft.touched_api_keys, base.api_keys, draft.api_keys, schema.api_key_row
    )
    steps = [node_steps[0], *user_steps[1:], *key_steps[1:], *node_steps[1:], key_steps[0], user_steps[0]]
    steps += api_key_steps
    if draft.counters != base.counters:
        steps += _counter_steps(base.counters, draft.counters)
    return [(statement, rows) for statement, rows in steps if rows]


def _steps(
    table: sa.Table,
    touched: Iterable[int],
    before: Mapping[int, Record],
    after: Mapping[int, Record],
    to_row: Callable[[Record], Row],
) -> list[Statement]:
    """Deletions, updates and insertions of one table, in this order."""
    removed: list[Row] = []
    updated: list[Row] = []
    inserted: list[Row] = []
    for record_id in sorted(touched):
        old, new = before.get(record_id), after.get(record_id)
        if new is None:
            if old is not None:
                removed.append({"row_id": record_id})
        elif old is None:
            inserted.append(to_row(new))
        elif old != new:
            updated.append(to_row(new) | {"row_id": record_id})
    this_row = table.c.id == sa.bindparam("row_id")
    return [
        (table.delete().where(this_row), removed),
        (table.update().where(this_row).values(_placeholders(table)), updated),
        (table.insert(), inserted),
    ]


def _placeholders(table: sa.Table) -> dict[str, Any]:
    return {column.name: sa.bindparam(column.name) for column in table.columns if column.name != "id"}


def _counter_steps(before: Counters, after: Counters) -> list[Statement]:
    counters = schema.id_counters
    if before == Counters():
        # Only a database that never held a record has no counter rows.
        return [(counters.insert(), schema.counter_rows(after))]
    rows = [{"row_name": row["name"], "value": row["value"]} for row in schema.counter_rows(after)]
    update = counters.update().where(counters.c.name == sa.bindparam("row_name"))
    return [(update.values(value=sa.bindparam("value")), rows)]


async def open_sqlite(path: Path) -> Database:
    """Open or create the database at `path` and run the migrations that it lacks.

    Raises StartupError, with the file unchanged, when it is not ours, from a newer version, or not
    accessible.
    """
    check_sqlite(path)
    _check_writable(path)
    engine = _sqlite_engine(path)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade)
    except sa.exc.SQLAlchemyError as error:
        await engine.dispose()
        raise _unusable(path, getattr(error, "orig", None) or error) from error
    return Database(engine)


def check_sqlite(path: Path) -> None:
    """Look at `path` without writing to it: it may be missing, or be ours. Raises StartupError."""
    if not path.exists() or path.stat().st_size == 0:
        return
    try:
        # Even a reader leaves -wal and -shm files of its own user behind, unless told that nobody writes.
        unused = "" if path.with_name(f"{path.name}-wal").exists() else "&immutable=1"
        uri = f"{path.resolve().as_uri()}?mode=ro{unused}"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            select = "SELECT name FROM sqlite_master WHERE type = 'table'"
            tables = {name for (name,) in connection.execute(select)}
            revision = _revision(connection) if "alembic_version" in tables else None
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    if tables and revision is None:
        raise StartupError(
            f"database {path} is not a coordinator's (it has no alembic_version table); "
            "set database.sqlite.path to another file"
        )
    scripts = ScriptDirectory.from_config(_alembic())
    if tables and revision not in {script.revision for script in scripts.walk_revisions()}:
        raise StartupError(
            f"database {path} was written by a newer coordinator (schema {revision}, this one knows up to "
            f"{scripts.get_current_head()}); install that version again, or restore a backup from before it"
        )


def _revision(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def _check_writable(path: Path) -> None:
    """Fail here, in one line, rather than inside the asynchronous driver and its thread."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: BaseException) -> StartupError:
    return StartupError(
        f"database {path} cannot be used: {str(error).splitlines()[0]}; check the file and its directory, "
        "restore a backup, or set database.sqlite.path to another file"
    )


def _sqlite_engine(path: Path) -> AsyncEngine:
    engine = create_async_engine(sa.URL.create("sqlite+aiosqlite", database=str(path)))

    @sa.event.listens_for(engine.sync_engine, "connect")
    def set_up(connection: Any, _record: object) -> None:
        # The driver must not open transactions by itself: it would leave DDL outside of them.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={int(BUSY_TIMEOUT_S * 1000)}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @sa.event.listens_for(engine.sync_engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", "coordinator:migrations")
    return config


def _upgrade(connection: sa.Connection) -> None:
    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
