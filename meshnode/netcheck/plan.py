"""Which STUN servers are asked, when, and how often (reference §5.2).

A full plan asks every region. An incremental one asks the few that matter: the fastest of last time, and the
home region harder than others, because losing its answer would move the home.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from meshnode.netcheck.report import Family, Report
from meshnode.relay_nodes import is_relay
from meshproto.addresses import MAX_PORT
from meshproto.messages import DERPNode, DERPRegion

__all__ = [
    "FULL_INTERVAL",
    "Plan",
    "ProbeSet",
    "Try",
    "fallback_relays",
    "full_plan",
    "incremental_plan",
    "stun_port",
]

FULL_INTERVAL: Final = 300.0
"""Seconds after which a check is to be a full one again."""

FULL_TRIES: Final = 3
FULL_SPACING: Final = 0.1
FASTEST: Final = 2
"""Regions that an incremental plan asks twice."""
CHOSEN: Final = 3
"""Regions that it asks at all, besides the home."""
HOME_TRIES: Final = 4
FAST_TRIES: Final = 2
DEFAULT_SPACING: Final = 0.2
"""Between tries at a region whose latency is not known; else 120 % of it."""
SPACING_FACTOR: Final = 1.2
LATER_SPACING: Final = 0.05
"""More for each try beyond the second."""

NO_ADDRESS: Final = "none"
DEFAULT_STUN_PORT: Final = 3478


@dataclass(frozen=True, slots=True)
class Try:
    """One question to a server, `delay` seconds after the start."""

    delay: float
    node: DERPNode


@dataclass(frozen=True, slots=True)
class ProbeSet:
    """The tries at one region over one family. An answer to one makes the others needless."""

    region_id: int
    family: Family
    tries: tuple[Try, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a check asks."""

    sets: tuple[ProbeSet, ...]
    is_full: bool


Regions = Mapping[int, DERPRegion]


def stun_port(node: DERPNode) -> int:
    """Where a node answers STUN; 0 for one that does not, which -1 says."""
    return (node.stun_port or DEFAULT_STUN_PORT) if 0 <= node.stun_port <= MAX_PORT else 0


def answers_over(node: DERPNode, family: Family) -> bool:
    """Whether a node can be asked over `family`: by its address there, or by one that its name may have."""
    address = node.ipv4 if family is Family.IPV4 else node.ipv6
    return address != NO_ADDRESS and bool(address or node.host_name) and stun_port(node) > 0


def full_plan(regions: Regions, families: Iterable[Family]) -> Plan:
    """Ask every region that may be measured, three times, over each of `families`."""
    families = tuple(families)
    delays = [number * FULL_SPACING for number in range(FULL_TRIES)]
    sets = [
        _probe_set(region, family, delays) for region in _measurable(regions, home=0) for family in families
    ]
    return Plan(tuple(one for one in sets if one is not None), is_full=True)


def incremental_plan(regions: Regions, families: Iterable[Family], last: Report, home: int) -> Plan:
    """Ask the regions that were fastest in `last`, and `home`. Full if `last` knows no latency."""
    families = tuple(families)
    if not last.region_latency:
        return full_plan(regions, families)
    measurable = [
        region for region in _measurable(regions, home) if not region.avoid or region.region_id == home
    ]
    ranked = sorted(measurable, key=lambda region: (_latency(last, region), region.region_id))
    sets: list[ProbeSet | None] = []
    for rank, region in enumerate(ranked):
        is_home = region.region_id == home
        if rank >= CHOSEN and not is_home:
            continue
        tries = HOME_TRIES if is_home else FAST_TRIES if rank < FASTEST else 1
        delays = _delays(tries, last.region_latency.get(region.region_id))
        sets += [_probe_set(region, family, delays) for family in _families(families, rank, is_home, last)]
    return Plan(tuple(one for one in sets if one is not None), is_full=False)


def fallback_relays(regions: Regions) -> dict[int, DERPNode]:
    """Whom to measure otherwise where UDP is blocked: the first relay of each region that may be a home."""
    relays = {
        region.region_id: next((node for node in region.nodes if is_relay(node)), None)
        for region in _measurable(regions, home=0)
        if not region.avoid
    }
    return {region_id: node for region_id, node in relays.items() if node is not None}


def _families(families: tuple[Family, ...], rank: int, is_home: bool, last: Report) -> tuple[Family, ...]:
    """Slow regions are not worth IPv6 where it never worked; with both, the third is asked over one."""
    if rank < FASTEST or is_home:
        return families
    if not last.ipv6:
        return tuple(family for family in families if family is Family.IPV4)
    return families if len(families) < 2 else (families[rank % 2],)


def _latency(last: Report, region: DERPRegion) -> float:
    return last.region_latency.get(region.region_id, float("inf"))


def _delays(tries: int, latency: float | None) -> list[float]:
    spacing = DEFAULT_SPACING if latency is None else SPACING_FACTOR * latency
    delays = [0.0]
    for number in range(1, tries):
        delays.append(delays[-1] + spacing + LATER_SPACING * max(0, number - 1))
    return delays


def _measurable(regions: Regions, home: int) -> list[DERPRegion]:
    return [
        region
        for region_id, region in sorted(regions.items())
        if region.nodes and (not region.no_measure_no_home or region_id == home)
    ]


def _probe_set(region: DERPRegion, family: Family, delays: Iterable[float]) -> ProbeSet | None:
    """Tries go round the nodes of the region that answer over the family."""
    nodes = [node for node in region.nodes if answers_over(node, family)]
    if not nodes:
        return None
    tries = tuple(Try(delay, nodes[number % len(nodes)]) for number, delay in enumerate(delays))
    return ProbeSet(region.region_id, family, tries)
