"""The node's figures in Prometheus's text format. Names are Tailscale's where it has them (node behaviour
§8.7); ours begin with `meshnode_`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from meshnode.dataplane import DropReason
from meshnode.netmap.derive import served_routes
from meshnode.netmap.session import NetworkMap
from meshnode.prefs import Prefs
from meshnode.status import Counters, Flow, Traffic, Way
from meshproto.exposition import CONTENT_TYPE, Sample, exposition
from meshproto.keys import NodePublic

__all__ = ["CONTENT_TYPE", "OUTBOUND_DROPS", "MetricFacts", "node_metrics"]

OUTBOUND_DROPS: Final = frozenset(
    {
        DropReason.MALFORMED_OUTBOUND_PACKET,
        DropReason.NO_PEER_FOR_DESTINATION,
        DropReason.STAGED_QUEUE_FULL,
        DropReason.HANDSHAKE_GIVEN_UP,
        DropReason.PEER_REMOVED,
        DropReason.NO_DESTINATION,
        DropReason.SEND_FAILED,
        DropReason.SEND_QUEUE_FULL,
    }
)
"""What was on its way to a peer; everything else came from one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricFacts:
    """All that the text is made from."""

    counters: Counters
    prefs: Prefs
    network_map: NetworkMap | None = None
    traffic: Mapping[NodePublic, Traffic] = field(default_factory=dict)
    health: tuple[str, ...] = ()
    home_region: int = 0


def node_metrics(facts: MetricFacts) -> str:
    """The text that a scraper reads."""
    return exposition(_samples(facts))


def _samples(facts: MetricFacts) -> Iterator[Sample]:
    counters = facts.counters
    yield from _flows("inbound", "WireGuard datagrams received from peers.", counters.inbound)
    yield from _flows("outbound", "WireGuard datagrams sent to peers.", counters.outbound)
    yield from _drops(counters.drops)
    yield from _routes(facts.network_map, facts.prefs)
    yield _gauge("tailscaled_health_messages", "Lines of the health list.", len(facts.health), type="warning")
    yield _gauge("tailscaled_home_derp_region_id", "Our home DERP region, 0 for none.", facts.home_region)
    for way, count in sorted(_peers_by_way(facts.traffic).items()):
        yield _gauge("meshnode_peers", "Peers by the way that data for them takes now.", count, path=way)
    for reason, value in sorted(counters.disco_drops.items(), key=lambda item: item[0].value):
        name = reason.value.removeprefix("disco_")
        help_text = "Disco messages that went no further, by reason."
        yield _counter("meshnode_disco_dropped_messages_total", help_text, value, reason=name)
    for name, help_text, value in (
        ("receive_overflow", "Datagrams that came faster than we read.", counters.receive_overflow),
        ("handshakes", "Completed WireGuard handshakes.", counters.handshakes),
        ("path_changes", "Times that data for a peer took another way.", counters.path_changes),
    ):
        yield _counter(f"meshnode_{name}_total", help_text, value)


def _flows(direction: str, what: str, flows: Mapping[Way, Flow]) -> Iterator[Sample]:
    """Every way has its line, also before anything went over it."""
    for unit, help_text in (("packets", what), ("bytes", f"Bytes of {what}")):
        for way in Way:
            value = getattr(flows.get(way, Flow()), unit)
            yield _counter(f"tailscaled_{direction}_{unit}_total", help_text, value, path=way.value)


def _drops(drops: Mapping[DropReason, int]) -> Iterator[Sample]:
    in_order = sorted(drops.items(), key=lambda item: item[0].value)
    for direction, is_outbound in (("inbound", False), ("outbound", True)):
        for reason, value in in_order:
            if (reason in OUTBOUND_DROPS) is is_outbound:
                name = f"tailscaled_{direction}_dropped_packets_total"
                yield _counter(name, "What went no further, by reason.", value, reason=reason.value)


def _routes(network_map: NetworkMap | None, prefs: Prefs) -> Iterator[Sample]:
    approved = served_routes(network_map.self_node, prefs) if network_map is not None else ()
    yield _gauge("tailscaled_advertised_routes", "Routes that we offer.", len(prefs.advertised))
    yield _gauge("tailscaled_approved_routes", "Of them, those that the coordinator approved.", len(approved))


def _peers_by_way(traffic: Mapping[NodePublic, Traffic]) -> Counter[str]:
    ways = Counter(dict.fromkeys(("direct", "derp", "peer_relay", "none", "idle"), 0))
    ways.update(_way_of(one) for one in traffic.values())
    return ways


def _way_of(traffic: Traffic) -> str:
    if not traffic.is_active:
        return "idle"
    if traffic.peer_relay:
        return "peer_relay"
    if traffic.address is not None:
        return "direct"
    return "derp" if traffic.relay else "none"


def _counter(name: str, help_text: str, value: int, **labels: str) -> Sample:
    return Sample(name, "counter", help_text, labels, value)


def _gauge(name: str, help_text: str, value: int, **labels: str) -> Sample:
    return Sample(name, "gauge", help_text, labels, value)
