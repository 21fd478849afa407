"""DERP maps for the tests."""

from __future__ import annotations

from meshproto.addresses import AddrPort
from meshproto.messages import DERPNode, DERPRegion

OWN = AddrPort("203.0.113.10", 41641)
OTHER = AddrPort("203.0.113.10", 50000)
OWN_IPV6 = AddrPort("2001:db8::1", 41641)


def node(name: str, region_id: int, **changes: object) -> DERPNode:
    settings: dict[str, object] = {"host_name": f"{name}.example.org", **changes}
    return DERPNode(name=name, region_id=region_id, **settings)  # type: ignore[arg-type]


def region(region_id: int, code: str, name: str, nodes: int = 1, **changes: object) -> DERPRegion:
    made = tuple(node(f"{region_id}{'abcdef'[number]}", region_id) for number in range(nodes))
    settings: dict[str, object] = {"nodes": made, **changes}
    return DERPRegion(region_id=region_id, region_code=code, region_name=name, **settings)  # type: ignore[arg-type]


WORLD = {
    1: region(1, "lhr", "London", 3),
    2: region(2, "fr", "Frankfurt"),
    3: region(3, "nyc", "New York", 2),
    4: region(4, "syd", "Sydney"),
    5: region(5, "sin", "Singapore"),
}
