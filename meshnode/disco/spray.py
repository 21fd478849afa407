"""Reaching a peer behind a hard NAT by the birthday paradox (reference §7.3), and by prediction (§7.4).

A hard NAT gives every destination another port, so the port at which the peer could be reached by us is one
that nobody has seen. The peer opens many sockets and sends from each to our one known address: as many ports
that let us in. We try ports until one is met:

    hard side: 256 sockets ──ping──► the easy side's endpoint      256 ports of its NAT now lead somewhere
    easy side: probes to port after port of the hard side's address; 1 in 252 is met; half of all within 175

The first probe that is met is a ping like any other, and its answer is a pong. Nothing here is a protocol of
ours: either side could be another implementation, if it did its part.

The probes of a spray are one sealed ping, sent to many places: each costs a send and no cryptography.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from meshnode.disco.constants import (
    SPRAY_OPENINGS_PER_SECOND,
    SPRAY_PROBES,
    SPRAY_PROBES_PER_SECOND,
    SPRAY_SOCKETS,
)
from meshnode.disco.destinations import AuxPath, Path
from meshproto.addresses import AddrPort

__all__ = ["PREDICTIONS", "Role", "Spray", "predicted_ports", "role_of", "spray_targets"]

NEVER: Final = math.inf

FIRST_PORT: Final = 1024
PORTS: Final = 65536 - FIRST_PORT
"""From which NATs choose at random (Linux: 1024 and above)."""
PREDICTIONS: Final = 32
"""Ports that are tried where a NAT seems to count: others behind it use some up meanwhile."""
MAX_STRIDE: Final = 16
"""The step of a NAT that counts; a greater distance is taken for chance."""
MAX_PER_TURN: Final = 64
"""Probes that leave together when the timer was late."""
_MAX_TARGETS: Final = 2


class Role(enum.Enum):
    """Our part in a spray."""

    HARD = "hard"
    """We are behind the hard NAT, and open sockets."""
    EASY = "easy"
    """We try ports."""


def role_of(own_mapping_varies: bool | None, peer_mapping_varies: bool | None) -> Role | None:
    """Our part, by who is behind a hard NAT. None when a spray has no use: nobody is, or both."""
    if own_mapping_varies and peer_mapping_varies is False:
        return Role.HARD
    if own_mapping_varies is False and peer_mapping_varies:
        return Role.EASY
    return None


def spray_targets(role: Role, addresses: Sequence[AddrPort]) -> tuple[AddrPort, ...]:
    """What a spray is aimed at, of the peer's public endpoints: some of them, or the one host with most."""
    if role is Role.HARD:
        return tuple(addresses[:_MAX_TARGETS])
    hosts = Counter(one.host for one in addresses).most_common(1)
    return tuple(one for one in addresses if hosts and one.host == hosts[0][0])


def predicted_ports(observed: Sequence[int]) -> list[int]:
    """The next ports of a NAT that counts, from those that it gave out. Empty if it seems not to.

    A port far from all others is no part of its count: the peer's own one, in case it was forwarded by hand.
    """
    counted = [run for run in _runs(sorted(set(observed))) if len(run) > 1]
    if not counted:
        return []
    known = counted[-1]
    stride, last = min(later - earlier for earlier, later in itertools.pairwise(known)), known[-1]
    return [last + stride * step for step in range(1, PREDICTIONS + 1) if last + stride * step <= 65535]


def _runs(ports: Sequence[int]) -> list[list[int]]:
    """Rising ports, parted where a step is too large for a NAT that counts."""
    runs: list[list[int]] = []
    for port in ports:
        if runs and port - runs[-1][-1] <= MAX_STRIDE:
            runs[-1].append(port)
        else:
            runs.append([port])
    return runs


class Spray:
    """One attempt: where to send to, and when. Ends by itself after `duration` seconds."""

    __slots__ = ("_interval", "_next", "_paths", "_until", "role", "sent", "sockets")

    def __init__(
        self,
        role: Role,
        targets: Sequence[AddrPort],
        sockets: range,
        entropy: Callable[[int], bytes],
        now: float,
        duration: float,
    ) -> None:
        """`targets` is not empty. `sockets` is used by the hard side only."""
        self.role: Final = role
        self.sockets: Final = sockets
        self.sent = 0
        self._until = now + duration
        if role is Role.HARD:
            self._interval = 1 / SPRAY_OPENINGS_PER_SECOND
            self._paths = _openings(targets, sockets)
        else:
            self._interval = 1 / SPRAY_PROBES_PER_SECOND
            self._paths = _probes(targets, entropy)
        self._next = now

    @property
    def next_timeout(self) -> float:
        """When `take_due` has something, or the spray is over."""
        return min(self._next, self._until)

    def is_over(self, now: float) -> bool:
        return now >= self._until

    def take_due(self, now: float) -> list[Path]:
        """Where the probe goes to now."""
        due: list[Path] = []
        while self._next <= now and len(due) < MAX_PER_TURN:
            path = next(self._paths, None)
            if path is None:
                self._next = NEVER  # what is left is waiting for an answer
                break
            due.append(path)
            self._next += self._interval
        if self._next <= now:
            self._next = now + self._interval  # too late to catch up
        self.sent += len(due)
        return due


def sockets_for(role: Role) -> int:
    """How many auxiliary sockets a spray in this role needs."""
    return SPRAY_SOCKETS if role is Role.HARD else 0


def _openings(targets: Sequence[AddrPort], sockets: range) -> Iterator[Path]:
    for target in targets:
        for socket in sockets:
            yield AuxPath(target, socket)


def _probes(targets: Sequence[AddrPort], entropy: Callable[[int], bytes]) -> Iterator[Path]:
    """Predicted ports first, then any, none twice."""
    host = targets[0].host
    tried = {one.port for one in targets}  # plain discovery has tried them
    for port in predicted_ports([one.port for one in targets]):
        tried.add(port)
        yield AddrPort(host, port)
    left = SPRAY_PROBES
    while left:
        port = FIRST_PORT + int.from_bytes(entropy(4), "big") % PORTS
        if port not in tried:
            tried.add(port)
            left -= 1
            yield AddrPort(host, port)
