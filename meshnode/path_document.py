"""The paths to a peer, as JSON: what `debug paths` prints and shows."""

from __future__ import annotations

from typing import Any

from meshnode.disco.candidates import Origin
from meshnode.disco.destinations import AuxPath, DerpDestination, Destination, RelayPath
from meshnode.disco.status import CandidateStatus, PathStatus
from meshnode.netmap.lookup import node_name, region_code
from meshproto.messages import DERPMap, Node

_DIGITS = 3
"""Of seconds: nothing here is known better than a millisecond, apart from latencies."""


def path_document(peer: Node, status: PathStatus | None, derp_map: DERPMap | None) -> dict[str, Any]:
    """All there is to know. Without a status the peer does not speak disco, or is not configured."""
    document = {
        "Name": node_name(peer),
        "PublicKey": str(peer.key),
        "TailscaleIPs": [str(own.network_address) for own in peer.addresses],
        "Online": bool(peer.online),
        "HomeRelay": region_code(derp_map, peer.effective_home_derp),
        "SpeaksDisco": status is not None,
    }
    if status is None:
        return document
    return document | {
        "Active": status.is_active,
        "Direct": status.is_direct,
        "Destinations": [describe_destination(one, derp_map) for one in status.destinations],
        "RelayReason": status.relay_reason.value if status.relay_reason is not None else "",
        "Candidates": [_candidate(one) for one in status.candidates],
        "CallMeMaybeSentAgo": _seconds(status.last_call_sent_age),
        "CallMeMaybeReceivedAgo": _seconds(status.last_call_received_age),
    }


def describe_destination(destination: Destination, derp_map: DERPMap | None) -> str:
    """As people know it: `203.0.113.7:41641`, `DERP(fra)`, `peer-relay(198.51.100.4:40001:vni:7)`."""
    if isinstance(destination, DerpDestination):
        return f"DERP({region_code(derp_map, destination.region_id)})"
    return f"peer-relay({destination})" if isinstance(destination, RelayPath) else str(destination)


def _candidate(candidate: CandidateStatus) -> dict[str, Any]:
    path = candidate.path
    return {
        "Path": describe_destination(path, None),
        "Kind": _KINDS.get(type(path), "udp"),
        "Origins": [_ORIGINS[origin] for origin in candidate.origin],
        "InUse": candidate.is_best,
        "LatencySeconds": candidate.latency,
        "LastPingAgo": _seconds(candidate.last_ping_age),
        "LastPongAgo": _seconds(candidate.last_pong_age),
        "WireMTU": candidate.wire_mtu,
    }


_KINDS: dict[type, str] = {RelayPath: "peer-relay", AuxPath: "spray"}
_ORIGINS = {
    Origin.NETMAP: "map",
    Origin.CALL_ME_MAYBE: "call",
    Origin.PING: "ping",
    Origin.RELAY: "relay",
}


def _seconds(age: float | None) -> float | None:
    return None if age is None else round(age, _DIGITS)
