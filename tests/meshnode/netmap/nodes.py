"""Nodes for tests of the network map: every field that matters, from a number."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from meshproto.keys import DiscoPublic, NodePublic
from meshproto.messages import Hostinfo, Node


def key(number: int) -> NodePublic:
    """A node key that no other number has."""
    return NodePublic(bytes([1]) + number.to_bytes(31, "big"))


def node(number: int, **fields: Any) -> Node:
    """The node with this number as its ID and in its addresses; `fields` replace what is usual."""
    addresses = (ip_network(f"100.64.0.{number}/32"), ip_network(f"fd7a:115c:a1e0::{number:x}/128"))
    usual: dict[str, Any] = {
        "id": number,
        "stable_id": f"n{number}",
        "name": f"node{number}.mesh.example.",
        "user": 1,
        "key": key(number),
        "disco_key": DiscoPublic(bytes([2]) + number.to_bytes(31, "big")),
        "addresses": addresses,
        "allowed_ips": addresses,
        "endpoints": (),
        "hostinfo": Hostinfo(hostname=f"node{number}", os="linux"),
        "cap": 130,
        "online": True,
        "machine_authorized": True,
    }
    return Node(**usual | fields)


def with_routes(number: int, *routes: str, **fields: Any) -> Node:
    """A node that is granted routes besides its addresses."""
    plain = node(number)
    granted = (*plain.addresses, *(ip_network(route) for route in routes))
    return node(number, allowed_ips=granted, **fields)
