"""Which addresses a datagram goes to for a peer that speaks WireGuard and nothing else.

A path is confirmed by an authenticated datagram that came over it, and by nothing else. Until then,
handshakes try every candidate, and the first answer decides. A confirmed path follows the peer as it roams,
and is doubted when a handshake over it gets no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from meshnode.wireguard.events import Kind
from meshproto.addresses import AddrPort
from meshproto.keys import NodePublic

__all__ = ["MAX_CANDIDATES", "CandidatePaths"]

MAX_CANDIDATES: Final = 16
"""Per peer, the first ones: a peer's map entry must not make us send to half the Internet."""


class _PeerPaths:
    __slots__ = ("candidates", "heard_at", "is_confirmed")

    def __init__(self) -> None:
        self.candidates: tuple[AddrPort, ...] = ()
        self.heard_at: AddrPort | None = None  # the source of the last authenticated datagram
        self.is_confirmed = False

    def all(self) -> tuple[AddrPort, ...]:
        """Every place to try, the one where the peer was last first."""
        if self.heard_at is None:
            return self.candidates
        return (self.heard_at, *(one for one in self.candidates if one != self.heard_at))


class CandidatePaths:
    """Direct paths only, from candidates that somebody else gathered. `now` is monotonic seconds."""

    def __init__(self) -> None:
        self._peers: dict[NodePublic, _PeerPaths] = {}

    def set_peer(self, peer: NodePublic, candidates: Sequence[AddrPort]) -> None:
        """The first MAX_CANDIDATES count, each once."""
        paths = self._peers.setdefault(peer, _PeerPaths())
        paths.candidates = tuple(dict.fromkeys(candidates))[:MAX_CANDIDATES]

    def remove_peer(self, peer: NodePublic) -> None:
        """Forget `peer`. Nothing happens when it is unknown."""
        self._peers.pop(peer, None)

    def destinations(self, peer: NodePublic, kind: Kind, now: float) -> Sequence[AddrPort]:
        """The confirmed path. Without one: handshakes go everywhere, data to the likeliest place only."""
        paths = self._peers.get(peer)
        if paths is None:
            return ()
        if paths.is_confirmed and paths.heard_at is not None:
            return (paths.heard_at,)
        return paths.all() if kind is Kind.HANDSHAKE else paths.all()[:1]

    def confirmed(self, peer: NodePublic) -> AddrPort | None:
        """The confirmed path, for people to look at."""
        paths = self._peers.get(peer)
        return paths.heard_at if paths is not None and paths.is_confirmed else None

    def heard_from(self, peer: NodePublic, source: AddrPort, now: float) -> None:
        """An authenticated datagram of `peer` came from `source`."""
        paths = self._peers.get(peer)
        if paths is not None:
            paths.heard_at = source
            paths.is_confirmed = True

    def handshake_timed_out(self, peer: NodePublic, now: float) -> None:
        """One retry without answer is enough to doubt a path; the peer may have moved."""
        paths = self._peers.get(peer)
        if paths is not None:
            paths.is_confirmed = False
