"""The tables as SQLAlchemy Core sees them, and the way from records to rows and back.

The migrations create them; a test keeps both in agreement. Lists and hostinfo are JSON text, keys and
addresses their text forms, times UTC. Nothing here depends on the engine.
"""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

from coordinator.model import ApiKey, NodeRecord, PreAuthKey, RegisterMethod, User
from coordinator.store import Counters
from meshproto import codec
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic, MachinePublic, NodePublic
from meshproto.messages import Hostinfo

Row: TypeAlias = dict[str, Any]


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime; engines without time zones (SQLite) keep it as naive UTC."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = sa.MetaData()

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("provider_identifier", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("profile_pic_url", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

pre_auth_keys = sa.Table(
    "pre_auth_keys",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id")),
    sa.Column("reusable", sa.Boolean, nullable=False),
    sa.Column("ephemeral", sa.Boolean, nullable=False),
    sa.Column("used", sa.Boolean, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("expiration", UtcDateTime),
    sa.Column("revoked", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("expiration", UtcDateTime),
    sa.Column("last_seen", UtcDateTime),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("machine_key", sa.Text, nullable=False),
    sa.Column("node_key", sa.Text, nullable=False),
    sa.Column("disco_key", sa.Text),
    sa.Column("endpoints", sa.Text, nullable=False),
    sa.Column("host_info", sa.Text, nullable=False),
    sa.Column("capability_version", sa.BigInteger, nullable=False),
    sa.Column("ipv4", sa.Text),
    sa.Column("ipv6", sa.Text),
    sa.Column("hostname", sa.Text, nullable=False),
    sa.Column("given_name", sa.String(63), nullable=False),
    sa.Column("user_id", sa.BigInteger, sa.ForeignKey("users.id")),
    sa.Column("register_method", sa.Text, nullable=False),
    sa.Column("tags", sa.Text, nullable=False),
    sa.Column("auth_key_id", sa.BigInteger, sa.ForeignKey("pre_auth_keys.id")),
    sa.Column("ephemeral", sa.Boolean, nullable=False),
    sa.Column("last_seen", UtcDateTime),
    sa.Column("expiry", UtcDateTime),
    sa.Column("approved_routes", sa.Text, nullable=False),
    sa.Column("created_at", UtcDateTime, nullable=False),
)

id_counters = sa.Table(
    "id_counters",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)


def user_row(user: User) -> Row:
    return {column.name: getattr(user, column.name) for column in users.columns}


def user_from_row(row: Row) -> User:
    return User(**row)


def key_row(key: PreAuthKey) -> Row:
    row = {column.name: getattr(key, column.name) for column in pre_auth_keys.columns}
    return row | {"tags": _list(key.tags)}


def key_from_row(row: Row) -> PreAuthKey:
    return PreAuthKey(**row | {"tags": _strings(row["tags"])})


def api_key_row(key: ApiKey) -> Row:
    return {column.name: getattr(key, column.name) for column in api_keys.columns}


def api_key_from_row(row: Row) -> ApiKey:
    return ApiKey(**row)


def node_row(node: NodeRecord) -> Row:
    return {
        "id": node.id,
        "machine_key": str(node.machine_key),
        "node_key": str(node.node_key),
        "disco_key": None if node.disco_key is None else str(node.disco_key),
        "endpoints": _list(node.endpoints),
        "host_info": codec.encode(node.hostinfo).decode(),
        "capability_version": node.capability_version,
        "ipv4": None if node.ipv4 is None else str(node.ipv4),
        "ipv6": None if node.ipv6 is None else str(node.ipv6),
        "hostname": node.hostname,
        "given_name": node.given_name,
        "user_id": node.user_id,
        "register_method": node.register_method.value,
        "tags": _list(node.tags),
        "auth_key_id": node.auth_key_id,
        "ephemeral": node.ephemeral,
        "last_seen": node.last_seen,
        "expiry": node.expiry,
        "approved_routes": _list(node.approved_routes),
        "created_at": node.created_at,
    }


def node_from_row(row: Row) -> NodeRecord:
    return NodeRecord(
        id=row["id"],
        machine_key=MachinePublic.parse(row["machine_key"]),
        node_key=NodePublic.parse(row["node_key"]),
        disco_key=None if row["disco_key"] is None else DiscoPublic.parse(row["disco_key"]),
        endpoints=tuple(AddrPort.parse(text) for text in _strings(row["endpoints"])),
        hostinfo=codec.decode(row["host_info"].encode(), Hostinfo),
        capability_version=row["capability_version"],
        ipv4=None if row["ipv4"] is None else IPv4Address(row["ipv4"]),
        ipv6=None if row["ipv6"] is None else IPv6Address(row["ipv6"]),
        hostname=row["hostname"],
        given_name=row["given_name"],
        user_id=row["user_id"],
        register_method=RegisterMethod(row["register_method"]),
        tags=_strings(row["tags"]),
        auth_key_id=row["auth_key_id"],
        ephemeral=row["ephemeral"],
        last_seen=row["last_seen"],
        expiry=row["expiry"],
        approved_routes=tuple(ip_network(text) for text in _strings(row["approved_routes"])),
        created_at=row["created_at"],
    )


def counter_rows(counters: Counters) -> list[Row]:
    return [
        {"name": "user", "value": counters.user},
        {"name": "node", "value": counters.node},
        {"name": "pre_auth_key", "value": counters.pre_auth_key},
        {"name": "api_key", "value": counters.api_key},
    ]


def counters_from_rows(rows: list[Row]) -> Counters:
    return Counters(**{row["name"]: row["value"] for row in rows})


def _list(values: tuple[object, ...]) -> str:
    return msgspec.json.encode([str(value) for value in values]).decode()


def _strings(text: str) -> tuple[str, ...]:
    return tuple(msgspec.json.decode(text, type=list[str]))
