"""Requests that the coordinator makes of a node inside a map response, and their answer (reference §9)."""

from __future__ import annotations

from meshproto.addresses import OptionalIPAddress
from meshproto.messages.base import Int64, Message, Uint16, always


class PingRequest(Message, frozen=True, kw_only=True):
    """Asks for a HEAD of `url`, for pings of a peer, or (type `c2n`) for an HTTP request to be served."""

    url: str = always("")
    """Unique each time: a node ignores a URL it has seen."""
    url_is_noise: bool = False
    log: bool = False
    types: str = ""
    ip: OptionalIPAddress = None
    payload: bytes | None = None


class PingResponse(Message, frozen=True, kw_only=True):
    """Result of a ping of a peer, posted to the request's URL."""

    type: str = ""
    ip: str = ""
    node_ip: str = ""
    node_name: str = ""
    err: str = ""
    latency_seconds: float = 0.0
    endpoint: str = ""
    peer_relay: str = ""
    derp_region_id: Int64 = 0
    derp_region_code: str = ""
    peer_api_port: Uint16 = 0
    is_local_ip: bool = False
