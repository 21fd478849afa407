"""The DERP map: the region of the relay inside, and the maps of others (control-protocol §8.5).

The embedded region wins over one with its id. Where the coordinator has no fixed URL, each node is told of
the relay at the address at which it reached the coordinator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from coordinator.relay_certificate import CertificateMaker
from meshproto.messages import DERPHomeParams, DERPMap, DERPNode, DERPRegion

NO_ADDRESS = "none"  # in place of an address: this family is not to be used
DEFAULT_STUN_PORT = 3478
NO_STUN = -1
HTTP_PORT, HTTPS_PORT = 80, 443


Converted = TypeVar("Converted", DERPNode, DERPRegion)
NOTHING = DERPMap(regions={})


class MalformedMap(Exception):
    """A document is no DERP map; `str()` says what is wrong."""


@dataclass(frozen=True, slots=True)
class Place:
    """A host name or address, and the port there."""

    host: str
    port: int
    is_tls: bool = False
    """Whether TLS with a public certificate is spoken there: by a proxy in front of the coordinator."""

    @classmethod
    def parse(cls, url: str) -> Place | None:
        """That of an `http` or `https` URL; None when it has none."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            return None
        if not parts.hostname:
            return None
        is_tls = parts.scheme == "https"
        return cls(parts.hostname, port or (HTTPS_PORT if is_tls else HTTP_PORT), is_tls)


@dataclass(frozen=True, slots=True)
class EmbeddedRegion:
    """The region of the relay inside. Its certificates are for where no proxy has a public one."""

    region_id: int
    code: str
    name: str
    certificates: CertificateMaker
    ipv4: str = ""
    ipv6: str = ""
    stun_port: int = DEFAULT_STUN_PORT
    alternate_stun: Place | None = None
    """A second STUN server; without a host, that of the relay."""

    def at(self, place: Place) -> DERPRegion:
        """The region of a relay that is reached there."""
        relay = self._node("a", place.host, self.ipv4, self.ipv6, self.stun_port)
        relay = msgspec.structs.replace(
            relay,
            cert_name="" if place.is_tls else self.certificates.pin(place.host),
            derp_port=place.port,
            can_port80=not place.is_tls and place.port == HTTP_PORT,
        )
        nodes = [relay]
        other = self.alternate_stun
        if other is not None:
            at = (other.host, "", "") if other.host else (place.host, self.ipv4, self.ipv6)
            nodes.append(msgspec.structs.replace(self._node("b", *at, other.port), stun_only=True))
        return DERPRegion(
            region_id=self.region_id, region_code=self.code, region_name=self.name, nodes=tuple(nodes)
        )

    def _node(self, letter: str, host: str, ipv4: str, ipv6: str, stun_port: int) -> DERPNode:
        # Who is given an address looks no name up, and needs to be told of both families.
        try:
            address = ip_address(host)
        except ValueError:
            pass
        else:
            is_ipv6 = isinstance(address, IPv6Address)
            ipv4 = ipv4 or (NO_ADDRESS if is_ipv6 else str(address))
            ipv6 = ipv6 or (str(address) if is_ipv6 else NO_ADDRESS)
        return DERPNode(
            name=f"{self.region_id}{letter}",
            region_id=self.region_id,
            host_name=host,
            ipv4=ipv4,
            ipv6=ipv6,
            stun_port=0 if stun_port == DEFAULT_STUN_PORT else stun_port,
        )


@dataclass(frozen=True, slots=True)
class Relays:
    """All relays of the network: `others` from files and URLs, and the one inside, if any.

    `place` is where the one inside is reached; None: where each node reached us.
    """

    others: DERPMap = NOTHING
    embedded: EmbeddedRegion | None = None
    place: Place | None = None

    def map_for(self, reached_at: str) -> DERPMap:
        """The map of a node that reached us at this URL."""
        place = self.place or Place.parse(reached_at)
        if self.embedded is None or place is None:
            return self.others
        regions = {**(self.others.regions or {}), self.embedded.region_id: self.embedded.at(place)}
        return msgspec.structs.replace(self.others, regions=dict(sorted(regions.items())))


def parse(document: object) -> DERPMap:
    """A map that JSON or YAML gave. Names are taken without regard to case, as Headscale's files have them.

    A region may be null; it takes that of an earlier map away (`merge`). Raises MalformedMap.
    """
    if not isinstance(document, dict):
        raise MalformedMap("expected a map with `regions`")
    members = _lowered(document)
    regions = members.get("regions") or {}
    if not isinstance(regions, dict):
        raise MalformedMap("regions: expected a map of regions by id")
    scores = (_lowered(members.get("homeparams") or {})).get("regionscore") or {}
    return DERPMap(
        regions={_region_id(key): _region(_region_id(key), value) for key, value in regions.items()},
        home_params=DERPHomeParams(region_score=_scores(scores)) if scores else None,
    )


def merge(maps: Iterable[DERPMap]) -> DERPMap:
    """All regions, those of later maps in place of earlier ones. Regions without nodes are left out."""
    regions: dict[int, DERPRegion] = {}
    scores: dict[int, float] = {}
    for one in maps:
        regions |= one.regions or {}
        if one.home_params is not None:
            scores |= one.home_params.region_score
    return DERPMap(
        regions={number: region for number, region in sorted(regions.items()) if region.nodes},
        home_params=DERPHomeParams(region_score=scores) if scores else None,
    )


def _region(region_id: int, value: object) -> DERPRegion:
    if value is None:
        return DERPRegion(region_id=region_id)
    if not isinstance(value, dict):
        raise MalformedMap(f"region {region_id}: expected its members")
    members = _lowered(value)
    nodes = members.pop("nodes", None) or []
    if not isinstance(nodes, list):
        raise MalformedMap(f"region {region_id}: nodes: expected a list")
    made = [_node(region_id, number, node) for number, node in enumerate(nodes)]
    members |= {"regionid": region_id}
    members.setdefault("regioncode", str(region_id))
    members.setdefault("regionname", members["regioncode"])
    region = _converted(members, DERPRegion, f"region {region_id}")
    return msgspec.structs.replace(region, nodes=tuple(made))


def _node(region_id: int, number: int, value: object) -> DERPNode:
    where = f"region {region_id}: node {number + 1}"
    if not isinstance(value, dict):
        raise MalformedMap(f"{where}: expected its members")
    members = _lowered(value) | {"regionid": region_id}
    members["name"] = str(members.get("name") or f"{region_id}-{number + 1}")
    node = _converted(members, DERPNode, where)
    if not node.host_name and not (node.ipv4 or node.ipv6):
        raise MalformedMap(f"{where}: no hostname")
    return node


def _converted(members: dict[str, Any], kind: type[Converted], where: str) -> Converted:
    """`members`, whose names are in lower case, as a message; those it does not have are passed over."""
    names = {field.encode_name.lower(): field.encode_name for field in msgspec.structs.fields(kind)}
    known = {names[name]: value for name, value in members.items() if name in names and value is not None}
    try:
        return msgspec.convert(known, kind)
    except msgspec.ValidationError as error:
        raise MalformedMap(f"{where}: {error}") from error


def _lowered(members: object) -> dict[str, Any]:
    if not isinstance(members, dict):
        raise MalformedMap("expected members with names")
    return {str(name).lower().replace("_", ""): value for name, value in members.items()}


def _region_id(key: object) -> int:
    text = str(key)
    if not (text.isascii() and text.isdecimal() and len(text) < 17 and 0 < int(text) < 2**53):
        raise MalformedMap(f"{key!r} is no region id")
    return int(text)


def _scores(scores: object) -> dict[int, float]:
    if not isinstance(scores, dict):
        raise MalformedMap("homeparams: regionscore: expected a map of numbers by region id")
    try:
        return {_region_id(key): float(value) for key, value in scores.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedMap(f"homeparams: regionscore: {error}") from error
