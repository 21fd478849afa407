"""What a scraper reads, to the letter."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from meshnode.dataplane import DropReason
from meshnode.disco.events import DiscoDrop
from meshnode.metrics import OUTBOUND_DROPS, MetricFacts, node_metrics
from meshnode.netmap.session import NetworkMap
from meshnode.prefs import Prefs
from meshnode.status import Counters, Flow, Traffic, Way
from meshproto.addresses import AddrPort
from meshproto.exposition import Sample, exposition
from tests.meshnode.netmap.nodes import key, with_routes

ROUTES = tuple(ip_network(route) for route in ("192.168.5.0/24", "10.1.0.0/16"))
FACTS = MetricFacts(
    counters=Counters(
        inbound={Way.DIRECT_IPV4: Flow(10, 1480), Way.DERP: Flow(2, 248)},
        outbound={Way.PEER_RELAY_IPV6: Flow(1, 148)},
        drops={DropReason.REPLAYED_COUNTER: 3, DropReason.NO_DESTINATION: 1, DropReason.INVALID_TAG: 2},
        disco_drops={DiscoDrop.UNKNOWN_SENDER: 4},
        receive_overflow=5,
        handshakes=6,
        path_changes=7,
    ),
    prefs=Prefs(advertise_routes=ROUTES),
    network_map=NetworkMap(self_node=with_routes(1, "192.168.5.0/24")),
    traffic={
        key(2): Traffic(sent_ago_s=1.0, address=AddrPort("203.0.113.7", 41641)),
        key(3): Traffic(sent_ago_s=1.0, relay=4),
        key(4): Traffic(sent_ago_s=1.0, relay=4),
        key(5): Traffic(sent_ago_s=300.0, address=AddrPort("203.0.113.9", 41641)),
    },
    health=("one", "two"),
    home_region=4,
)
TEXT = """\
# HELP tailscaled_inbound_packets_total WireGuard datagrams received from peers.
# TYPE tailscaled_inbound_packets_total counter
tailscaled_inbound_packets_total{path="direct_ipv4"} 10
tailscaled_inbound_packets_total{path="direct_ipv6"} 0
tailscaled_inbound_packets_total{path="derp"} 2
tailscaled_inbound_packets_total{path="peer_relay_ipv4"} 0
tailscaled_inbound_packets_total{path="peer_relay_ipv6"} 0
# HELP tailscaled_inbound_bytes_total Bytes of WireGuard datagrams received from peers.
# TYPE tailscaled_inbound_bytes_total counter
tailscaled_inbound_bytes_total{path="direct_ipv4"} 1480
tailscaled_inbound_bytes_total{path="direct_ipv6"} 0
tailscaled_inbound_bytes_total{path="derp"} 248
tailscaled_inbound_bytes_total{path="peer_relay_ipv4"} 0
tailscaled_inbound_bytes_total{path="peer_relay_ipv6"} 0
# HELP tailscaled_outbound_packets_total WireGuard datagrams sent to peers.
# TYPE tailscaled_outbound_packets_total counter
tailscaled_outbound_packets_total{path="direct_ipv4"} 0
tailscaled_outbound_packets_total{path="direct_ipv6"} 0
tailscaled_outbound_packets_total{path="derp"} 0
tailscaled_outbound_packets_total{path="peer_relay_ipv4"} 0
tailscaled_outbound_packets_total{path="peer_relay_ipv6"} 1
# HELP tailscaled_outbound_bytes_total Bytes of WireGuard datagrams sent to peers.
# TYPE tailscaled_outbound_bytes_total counter
tailscaled_outbound_bytes_total{path="direct_ipv4"} 0
tailscaled_outbound_bytes_total{path="direct_ipv6"} 0
tailscaled_outbound_bytes_total{path="derp"} 0
tailscaled_outbound_bytes_total{path="peer_relay_ipv4"} 0
tailscaled_outbound_bytes_total{path="peer_relay_ipv6"} 148
# HELP tailscaled_inbound_dropped_packets_total What went no further, by reason.
# TYPE tailscaled_inbound_dropped_packets_total counter
tailscaled_inbound_dropped_packets_total{reason="invalid_tag"} 2
tailscaled_inbound_dropped_packets_total{reason="replayed_counter"} 3
# HELP tailscaled_outbound_dropped_packets_total What went no further, by reason.
# TYPE tailscaled_outbound_dropped_packets_total counter
tailscaled_outbound_dropped_packets_total{reason="no_destination"} 1
# HELP tailscaled_advertised_routes Routes that we offer.
# TYPE tailscaled_advertised_routes gauge
tailscaled_advertised_routes 2
# HELP tailscaled_approved_routes Of them, those that the coordinator approved.
# TYPE tailscaled_approved_routes gauge
tailscaled_approved_routes 1
# HELP tailscaled_health_messages Lines of the health list.
# TYPE tailscaled_health_messages gauge
tailscaled_health_messages{type="warning"} 2
# HELP tailscaled_home_derp_region_id Our home DERP region, 0 for none.
# TYPE tailscaled_home_derp_region_id gauge
tailscaled_home_derp_region_id 4
# HELP meshnode_peers Peers by the way that data for them takes now.
# TYPE meshnode_peers gauge
meshnode_peers{path="derp"} 2
meshnode_peers{path="direct"} 1
meshnode_peers{path="idle"} 1
meshnode_peers{path="none"} 0
meshnode_peers{path="peer_relay"} 0
# HELP meshnode_disco_dropped_messages_total Disco messages that went no further, by reason.
# TYPE meshnode_disco_dropped_messages_total counter
meshnode_disco_dropped_messages_total{reason="unknown_sender"} 4
# HELP meshnode_receive_overflow_total Datagrams that came faster than we read.
# TYPE meshnode_receive_overflow_total counter
meshnode_receive_overflow_total 5
# HELP meshnode_handshakes_total Completed WireGuard handshakes.
# TYPE meshnode_handshakes_total counter
meshnode_handshakes_total 6
# HELP meshnode_path_changes_total Times that data for a peer took another way.
# TYPE meshnode_path_changes_total counter
meshnode_path_changes_total 7
"""


def test_the_whole_text() -> None:
    assert node_metrics(FACTS) == TEXT


def test_a_node_that_is_not_connected_has_figures_too() -> None:
    text = node_metrics(MetricFacts(counters=Counters(), prefs=Prefs()))
    assert "tailscaled_approved_routes 0\n" in text
    assert 'tailscaled_inbound_bytes_total{path="derp"} 0\n' in text


def test_every_reason_has_one_direction() -> None:
    counters = Counters(drops=dict.fromkeys(DropReason, 1))
    text = node_metrics(MetricFacts(counters=counters, prefs=Prefs()))
    for reason in DropReason:
        assert text.count(f'{{reason="{reason.value}"}} 1\n') == 1
    assert 0 < text.count("outbound_dropped_packets_total{") == len(OUTBOUND_DROPS) < len(DropReason)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain", '{a="plain"}'),
        ('say "x"', r'{a="say \"x\""}'),
        ("a\\b", r'{a="a\\b"}'),
        ("1\n2", r'{a="1\n2"}'),
    ],
)
def test_labels_are_escaped(value: str, written: str) -> None:
    assert exposition([Sample("x", "gauge", "X.", {"a": value}, 1)]).splitlines()[2] == f"x{written} 1"
