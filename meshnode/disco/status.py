"""What people are shown of the path to a peer, and above all why it is not direct."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from meshnode.disco.candidates import Origin
from meshnode.disco.destinations import Destination, Path
from meshnode.disco.peer_path import PeerPath
from meshproto.keys import NodePublic

__all__ = ["CandidateStatus", "PathStatus", "RelayReason", "status_of"]


class RelayReason(enum.Enum):
    """Why a peer is reached over DERP only. The value is what `--json` outputs print."""

    UDP_BLOCKED = "udp_blocked"  # no UDP leaves this network
    SPRAYING = "spraying"
    BOTH_HARD = "both_behind_hard_nat"
    SPRAY_FAILED = "spray_failed"
    PATH_LOST = "path_lost"
    DISCOVERING = "discovering"
    NO_CANDIDATES = "no_candidates"
    NO_ANSWER = "no_answer"  # to pings of any candidate
    IDLE = "idle"


@dataclass(frozen=True, slots=True)
class CandidateStatus:
    """Ages are seconds, None for never."""

    path: Path
    origin: Origin
    is_best: bool
    latency: float | None
    last_ping_age: float | None
    last_pong_age: float | None
    wire_mtu: int


@dataclass(frozen=True, slots=True)
class PathStatus:
    """All that `debug paths` shows of a peer."""

    peer: NodePublic
    destinations: tuple[Destination, ...]
    """Where data goes now."""
    is_direct: bool
    is_active: bool
    relay_reason: RelayReason | None
    """None on a direct path."""
    candidates: tuple[CandidateStatus, ...]
    last_call_sent_age: float | None
    last_call_received_age: float | None


def status_of(peer: PeerPath, now: float) -> PathStatus:
    """Changes nothing."""
    is_direct = peer.is_direct(now)
    return PathStatus(
        peer=peer.info.node_key,
        destinations=peer.current(now),
        is_direct=is_direct,
        is_active=peer.is_active(now),
        relay_reason=None if is_direct else _relay_reason(peer, now),
        candidates=tuple(
            CandidateStatus(
                path=one.path,
                origin=one.origin,
                is_best=one is peer.in_use.best,
                latency=one.latency,
                last_ping_age=_age(one.last_ping, now),
                last_pong_age=_age(one.last_pong, now),
                wire_mtu=one.wire_mtu,
            )
            for one in peer.search.candidates
        ),
        last_call_sent_age=_age(peer.search.calls.last_sent, now),
        last_call_received_age=_age(peer.search.calls.last_received, now),
    )


def _age(when: float | None, now: float) -> float | None:
    return None if when is None else now - when


def _relay_reason(peer: PeerPath, now: float) -> RelayReason:
    """The most telling one."""
    reasons = {
        RelayReason.UDP_BLOCKED: not peer.context.has_udp,
        RelayReason.SPRAYING: peer.search.sprayer.is_running,
        RelayReason.BOTH_HARD: bool(peer.context.mapping_varies and peer.search.peer_mapping_varies()),
        RelayReason.SPRAY_FAILED: peer.search.sprayer.has_failed,
        RelayReason.PATH_LOST: peer.in_use.has_been_lost or peer.in_use.best is not None,
        RelayReason.DISCOVERING: peer.search.discovery.is_running,
        RelayReason.NO_CANDIDATES: not len(peer.search.candidates),
        RelayReason.NO_ANSWER: peer.is_active(now),
        RelayReason.IDLE: True,
    }
    return next(reason for reason, applies in reasons.items() if applies)
