"""Sprays at one peer: whether one may start, the probe it sends, and what becomes of its sockets.

Once per pair and network: what failed is not tried again until one of the two is somewhere else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Final

from meshnode.disco.context import Context
from meshnode.disco.destinations import Path
from meshnode.disco.events import Datagram, SprayEnded, SprayStarted
from meshnode.disco.messages import TX_ID_SIZE, Ping
from meshnode.disco.spray import (
    Role,
    Spray,
    predicted_ports,
    role_of,
    sockets_for,
    spray_targets,
)
from meshproto.addresses import AddrPort
from meshproto.keys import DiscoPublic, NodePublic

NEVER: Final = math.inf

MIN_INTERVAL: Final = 60.0
"""Seconds between two sprays at a peer that seems to move: it may say that it does to make us send."""
MAX_PREDICTED: Final = 16
"""Probes of plain discovery to ports that a NAT that counts would give out next."""


class Sprayer:
    """Of one peer. `seal` must have been called with the peer's key before anything is sent."""

    __slots__ = (
        "_context",
        "_helped",
        "_hosts",
        "_open",
        "_payload",
        "_peer",
        "_spray",
        "_started_at",
        "_tx_id",
    )

    def __init__(self, peer: NodePublic, context: Context) -> None:
        self._peer = peer
        self._context = context
        self._spray: Spray | None = None
        self._open: set[int] = set()  # sockets of sprays that are over, for paths that came of them
        self._tx_id = b""
        self._payload = b""
        self._started_at = -math.inf
        self._hosts: frozenset[str] = frozenset()
        self._helped = False

    @property
    def is_running(self) -> bool:
        return self._spray is not None

    @property
    def has_failed(self) -> bool:
        """Whether it was tried in vain on this network."""
        return bool(self._hosts) and self._spray is None and not self._helped

    @property
    def next_timeout(self) -> float:
        return self._spray.next_timeout if self._spray is not None else NEVER

    def is_answer(self, tx_id: bytes) -> bool:
        """Whether a pong with this id answers a probe."""
        return bool(self._tx_id) and tx_id == self._tx_id

    def may_start(
        self, peer_mapping_varies: bool | None, public: Sequence[AddrPort], now: float
    ) -> Role | None:
        """Our part in a spray at `public` that may start now; None if there is none, or it may not."""
        context = self._context
        role = role_of(context.mapping_varies, peer_mapping_varies)
        if role is None or self._spray is not None or not public or not context.may_spray():
            return None
        if now < self._started_at + MIN_INTERVAL:
            return None
        was_here = {one.host for one in public} <= self._hosts
        again = self._helped and now >= self._started_at + context.timings.spray_again_after
        return role if again or not was_here else None

    def start(self, role: Role, key: DiscoPublic, public: Sequence[AddrPort], now: float) -> None:
        """Should be called with what `may_start` allowed."""
        context = self._context
        self._hosts = frozenset(one.host for one in public)
        self._started_at = now
        self._helped = False
        self._seal(key)
        self._spray = Spray(
            role,
            spray_targets(role, public),
            context.reserve_sockets(sockets_for(role)),
            context.entropy,
            now,
            context.timings.spray_time,
        )
        context.sprays += 1
        context.events.append(SprayStarted(self._peer, role is Role.HARD))

    def handle_timeout(self, now: float) -> None:
        """Send what is due, or end."""
        spray = self._spray
        if spray is None:
            return
        if spray.is_over(now):
            self.stop(has_helped=False)
            return
        self._send(spray.take_due(now))

    def predict(self, key: DiscoPublic, peer_mapping_varies: bool | None, public: Sequence[AddrPort]) -> None:
        """Probe the ports that the peer's NAT would give out next, if it seems to count: a few datagrams."""
        if not public or role_of(self._context.mapping_varies, peer_mapping_varies) is not Role.EASY:
            return
        targets = spray_targets(Role.EASY, public)
        ports = predicted_ports([one.port for one in targets])[:MAX_PREDICTED]
        if ports:
            self._seal(key)
            self._send([AddrPort(targets[0].host, port) for port in ports])

    def stop(self, *, has_helped: bool) -> None:
        """End a spray, if one runs. Its sockets stay open until `close_sockets`."""
        spray, self._spray = self._spray, None
        if spray is None:
            return
        self._helped = has_helped
        self._open.update(spray.sockets)
        self._context.sprays -= 1
        self._context.events.append(SprayEnded(self._peer, self._helped, spray.sent))

    def close_sockets(self, *, but: Set[int]) -> None:
        """Give up the sockets that no path needs. While a spray runs, any of them may be met.

        One that the peer has come in by is a path for it, whichever we use ourselves.
        """
        unused = self._open - but
        if unused and self._spray is None:
            self._open -= unused
            self._context.release_sockets(tuple(sorted(unused)))

    def network_changed(self) -> None:
        """Everything may be tried again, and no socket of ours is of use."""
        self.stop(has_helped=False)
        self.close_sockets(but=frozenset())
        self._hosts = frozenset()
        self._started_at = -math.inf

    def _seal(self, key: DiscoPublic) -> None:
        context = self._context
        self._tx_id = context.entropy(TX_ID_SIZE)
        self._payload = context.keys.seal(key, Ping(self._tx_id, context.node_key).encode())

    def _send(self, paths: Sequence[Path]) -> None:
        self._context.datagrams += [Datagram(path, self._payload) for path in paths]
