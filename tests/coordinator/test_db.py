"""The database: what goes in comes out, and what is not ours is left alone."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest
import sqlalchemy as sa

from coordinator import schema
from coordinator.administration import delete_user
from coordinator.db import check_sqlite, open_sqlite
from coordinator.errors import StartupError
from coordinator.model import PreAuthKey, RegisterMethod
from coordinator.settings import NetworkSettings
from coordinator.state import State
from coordinator.store import (
    Counters,
    Draft,
    PutNode,
    PutPreAuthKey,
    PutUser,
    RemoveNode,
    RemovePreAuthKey,
    RemoveUser,
    Snapshot,
    Update,
)
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic
from meshproto.messages import Hostinfo, NetInfo, Service
from tests.coordinator.records import WALL, node, user

SETTINGS = NetworkSettings()
MOMENT = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)

EVERYTHING: list[Update] = [
    PutUser(replace(user(1, "ana"), display_name="Ana", email="ana@example.org", profile_pic_url="x")),
    PutPreAuthKey(
        PreAuthKey(1, "p" * 12, "h" * 64, 1, MOMENT, True, True, True, ("tag:a", "tag:b"), MOMENT, MOMENT)
    ),
    PutNode(
        node(
            1,
            disco_key=DiscoPublic(b"d" * 32),
            endpoints=(AddrPort("192.0.2.1", 1), AddrPort("2001:db8::1", 2)),
            hostinfo=Hostinfo(
                hostname="Ärger's PC",
                routable_ips=(ip_network("10.0.0.0/8"), ip_network("::/0")),
                services=(Service(proto="peerapi4", port=1),),
                net_info=NetInfo(preferred_derp=3),
            ),
            capability_version=130,
            register_method=RegisterMethod.AUTH_KEY,
            auth_key_id=1,
            ephemeral=True,
            last_seen=MOMENT,
            expiry=MOMENT,
            approved_routes=(ip_network("10.0.0.0/8"),),
        )
    ),
    PutNode(node(2, tags=("tag:a",), ipv4=None, last_seen=None)),
]


async def write(path: Path, base: Snapshot, updates: list[Update]) -> Snapshot:
    """Store `updates` on `base`; returns what is read back."""
    database = await open_sqlite(path)
    draft = Draft(base, WALL)
    draft.apply(updates)
    await database.write(draft)
    loaded = await database.load(SETTINGS, WALL)
    await database.close()
    assert (loaded.users, loaded.nodes, loaded.pre_auth_keys, loaded.counters) == (
        draft.users,
        draft.nodes,
        draft.pre_auth_keys,
        draft.counters,
    )
    return loaded


async def test_everything_survives(tmp_path: Path) -> None:
    loaded = await write(tmp_path / "db", Snapshot(), EVERYTHING)
    assert loaded.expired == {1}
    assert not loaded.online


async def test_updates_and_removals(tmp_path: Path) -> None:
    path = tmp_path / "db"
    loaded = await write(path, Snapshot(), EVERYTHING)
    loaded = await write(
        path,
        loaded,
        [
            PutNode(replace(loaded.nodes[1], auth_key_id=None, expiry=None)),
            RemovePreAuthKey(1),
            RemoveNode(2),
            PutUser(user(2)),
        ],
    )
    loaded = await write(path, loaded, [RemoveNode(1), RemoveUser(1), RemoveUser(2)])
    assert not loaded.nodes
    assert loaded.counters == Counters(user=2, node=2, pre_auth_key=1)


async def test_a_freed_address_can_be_used_in_the_same_batch(tmp_path: Path) -> None:
    path = tmp_path / "db"
    loaded = await write(path, Snapshot(), [PutUser(user(1)), PutNode(node(1))])
    await write(path, loaded, [RemoveNode(1), PutNode(node(2, ipv4=node(1).ipv4, ipv6=node(1).ipv6))])


async def test_deleting_a_user_keeps_the_tagged_nodes_of_their_key(tmp_path: Path) -> None:
    key = PreAuthKey(1, "p" * 12, "h" * 64, 1, MOMENT, tags=("tag:a",))
    updates = [PutUser(user(1)), PutPreAuthKey(key), PutNode(node(1, tags=("tag:a",), auth_key_id=1))]
    loaded = await write(tmp_path / "db", Snapshot(), updates)
    removal, _ = delete_user(loaded, 1)
    after = await write(tmp_path / "db", loaded, list(removal))
    assert after.nodes[1].auth_key_id is None


async def test_ids_are_not_reused_after_a_restart(tmp_path: Path) -> None:
    for expected in (1, 2):
        database = await open_sqlite(tmp_path / "db")
        async with State.open(database, SETTINGS) as state:
            made = await state.create_user("ana")
            assert made.id == expected
            await state.delete_user(made.id)
        await database.close()


async def test_the_migrations_make_the_tables_that_the_code_knows(tmp_path: Path) -> None:
    await (await open_sqlite(tmp_path / "db")).close()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'db'}")
    inspector = sa.inspect(engine)
    for table in schema.metadata.sorted_tables:
        columns = {column["name"]: column["nullable"] for column in inspector.get_columns(table.name)}
        expected = {column.name: bool(column.nullable) for column in table.columns}
        assert columns == expected, table.name
    engine.dispose()


async def test_pragmas(tmp_path: Path) -> None:
    database = await open_sqlite(tmp_path / "db")
    async with database._engine.connect() as connection:
        values = {
            name: (await connection.exec_driver_sql(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    await database.close()
    assert values == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}


async def test_a_newer_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "db"
    await (await open_sqlite(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StartupError, match=r"newer coordinator \(schema 9999") as refused:
        await open_sqlite(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]  # noqa: ASYNC240


async def test_somebody_elses_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE machines (id)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StartupError, match=r"not a coordinator's"):
        await open_sqlite(path)
    assert path.read_bytes() == before


async def test_what_is_no_database_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "db"
    path.write_text("precious notes, certainly no database\n" * 100)
    with pytest.raises(StartupError, match=r"set database\.sqlite\.path"):
        await open_sqlite(path)
    with pytest.raises(StartupError):
        check_sqlite(path)
    assert path.read_text().startswith("precious")


async def test_a_missing_directory_is_a_clear_line(tmp_path: Path) -> None:
    check_sqlite(tmp_path / "no" / "db")
    with pytest.raises(StartupError, match="unable to open database file"):
        await open_sqlite(tmp_path / "no" / "db")
