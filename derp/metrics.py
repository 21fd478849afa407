"""A relay's figures in Prometheus's text format. Names are those of Tailscale's relay if it has them."""

from __future__ import annotations

from collections.abc import Iterator

from derp.server_core import ServerCore
from meshproto.exposition import CONTENT_TYPE, Sample, exposition

__all__ = ["CONTENT_TYPE", "render", "samples"]

_COUNTERS = {
    "accepts": "Connections that asked for DERP.",
    "logins_refused": "Clients that were not admitted.",
    "packets_sent": "Packets handed to clients, those that were dropped later included.",
    "packets_forwarded_in": "Packets that other relays of the region forwarded to us.",
    "packets_forwarded_out": "Packets forwarded to other relays of the region.",
    "bytes_received": "Bytes of frames from clients.",
    "bytes_sent": "Bytes of frames to clients.",
    "unknown_frames": "Frames of types that we do not know, which are skipped.",
    "home_moves_in": "Clients that made this relay their home after they had connected.",
    "home_moves_out": "Clients for which this relay is their home no longer.",
    "pings_received": "Pings of clients.",
    "peer_gone_disconnected_frames": "Clients told that a peer of theirs has left.",
    "peer_gone_not_here_frames": "Clients told that a peer of theirs is not here.",
    "duplicate_connections": "Connections made while another one with the same node key was open.",
    "write_timeouts": "Clients disconnected because they took nothing.",
}


def samples(core: ServerCore) -> Iterator[Sample]:
    """Everything there is to know, metric by metric."""
    for name, help_text in _COUNTERS.items():
        yield Sample(f"derp_{name}_total", "counter", help_text, {}, getattr(core.counters, name))
    yield from _packets(core)
    yield from _dropped(core)
    yield from _gauges(core)


def render(core: ServerCore) -> str:
    """The text that a scraper reads."""
    return exposition(samples(core))


def _packets(core: ServerCore) -> Iterator[Sample]:
    name, help_text = "derp_packets_received_total", "Packets from clients."
    counters = core.counters
    yield Sample(name, "counter", help_text, {"kind": "disco"}, counters.packets_received_disco)
    yield Sample(name, "counter", help_text, {"kind": "other"}, counters.packets_received_other)


def _dropped(core: ServerCore) -> Iterator[Sample]:
    for name, counter in (("packets", core.counters.packets_dropped), ("bytes", core.counters.bytes_dropped)):
        for (reason, kind), value in sorted(
            counter.items(), key=lambda item: item[0][0].value + item[0][1].value
        ):
            labels = {"reason": reason.value, "kind": kind.value}
            yield Sample(
                f"derp_{name}_dropped_total", "counter", "What went no further, by reason.", labels, value
            )


def _gauges(core: ServerCore) -> Iterator[Sample]:
    members = [session.member for session in core.sessions if session.member is not None]
    registry = core.registry
    for name, help_text, value in (
        ("current_connections", "Connections now.", len(core.sessions)),
        (
            "current_home_connections",
            "Connections of clients whose home this is.",
            sum(m.is_home for m in members),
        ),
        (
            "current_notideal_connections",
            "Connections of clients that wanted another relay.",
            sum(not m.is_ideal for m in members),
        ),
        ("clients_local", "Node keys connected to this relay.", registry.local_keys),
        ("clients_remote", "Node keys that only other relays of the region have.", registry.remote_keys),
        ("current_dup_client_keys", "Node keys with more than one connection.", registry.duplicate_keys),
        ("watchers", "Relays of the region that watch this one.", registry.watchers),
    ):
        yield Sample(f"derp_{name}", "gauge", help_text, {}, value)
