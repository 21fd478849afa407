"""Records for tests of the pure modules: nodes and users made from numbers, so that failures read well."""

from __future__ import annotations

from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from coordinator.model import IPNetwork, NodeRecord, User
from meshproto.keys import MachinePublic, NodePublic
from meshproto.messages import Hostinfo

WALL = datetime(2026, 9, 1, 12, 0, tzinfo=UTC)


def machine_key(number: int) -> MachinePublic:
    return MachinePublic(number.to_bytes(32, "big"))


def node_key(number: int) -> NodePublic:
    return NodePublic(number.to_bytes(32, "big"))


def user(number: int, name: str = "") -> User:
    return User(id=number, name=name or f"user{number}", created_at=WALL)


def node(number: int, *, routes: tuple[IPNetwork, ...] = (), **fields: Any) -> NodeRecord:
    """Node `number` of user 1, online state aside."""
    name = f"node{number}"
    defaults: dict[str, Any] = {
        "id": number,
        "machine_key": machine_key(number),
        "node_key": node_key(number),
        "hostname": name,
        "given_name": name,
        "created_at": WALL,
        "user_id": None if fields.get("tags") else 1,
        "ipv4": IPv4Address("100.64.0.0") + number,
        "ipv6": IPv6Address("fd7a:115c:a1e0::") + number,
        "hostinfo": Hostinfo(hostname=name, routable_ips=routes),
        "last_seen": WALL,
    }
    return NodeRecord(**defaults | fields)
