"""How two nodes meet, for each pair of kinds of NATs.

python -m tests.meshnode.disco.meetings      prints the matrix of all pairs
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from meshnode.disco.context import Settings
from meshnode.disco.events import (
    SprayEnded,
)
from tests.meshnode.disco.nats import Kind
from tests.meshnode.disco.simulation import SimNode, pair
from tests.meshnode.disco.world import World

AFTERWARDS = 1.5
"""Seconds for which a pair goes on talking once it is direct, so that a wrong choice would be seen."""


@dataclass(frozen=True)
class Outcome:
    """What became of one pair."""

    first_packet: float | None
    """Seconds until the first packet arrived."""
    lost: int
    direct_one: float | None
    """Seconds until the one that began, and the other, had a direct path."""
    direct_both: float | None
    technique: str
    datagrams: int


def meet(one: Kind, other: Kind, seed: int, limit: float = 8.0, settings: Settings | None = None) -> Outcome:
    """One begins to talk to the other, which answers."""
    world = World(seed)
    a, b = pair(world, one, other, settings=settings)
    begin, before = world.now, world.sent_datagrams
    a.talk(b, 0.1, limit + AFTERWARDS)
    first_direct: list[float] = []

    def both_direct() -> bool:
        if a.is_direct(b) and not first_direct:
            first_direct.append(world.now)
        return a.is_direct(b) and b.is_direct(a)

    found = world.run_until(both_direct, limit)
    both = world.now - begin
    world.run_for(AFTERWARDS)
    a.stop_talking()
    world.run_for(1.0)
    arrived = {packet.number: packet.at for packet in reversed(b.received)}
    return Outcome(
        first_packet=arrived[0] - begin if 0 in arrived else None,
        lost=a.said - len(arrived),
        direct_one=first_direct[0] - begin if first_direct else None,
        direct_both=both if found else None,
        technique=_technique(a, b, found),
        datagrams=world.sent_datagrams - before,
    )


def _technique(a: SimNode, b: SimNode, is_direct: bool) -> str:
    sprays = [event for node in (a, b) for _, event in node.events if isinstance(event, SprayEnded)]
    if not is_direct:
        reason = a.manager.status(b.node_key, a.world.now).relay_reason
        return f"relay: {reason.value}" if reason is not None else "relay"
    if any(spray.is_direct for spray in sprays):
        return f"spray, {max(spray.sent for spray in sprays)} sent"
    return "direct"


def matrix(kinds: Iterable[Kind], seeds: Iterable[int]) -> str:
    """The table that people read: for each pair the fate of the first packet, time to direct, technique."""
    lines = [f"{'one':22} {'other':22} {'first':>7} {'lost':>4} {'direct':>8} {'max':>7}  technique"]
    for one, other in itertools.product(list(kinds), repeat=2):
        outcomes = [meet(one, other, seed) for seed in seeds]
        times = [outcome.direct_both for outcome in outcomes if outcome.direct_both is not None]
        first = max(outcome.first_packet or float("inf") for outcome in outcomes)
        median = (
            f"{statistics.median(times):7.3f}s"
            if len(times) == len(outcomes)
            else f"{len(times)}/{len(outcomes)}"
        )
        greatest = f"{max(times):6.3f}s" if times else ""
        lost = sum(outcome.lost for outcome in outcomes)
        lines.append(
            f"{one.value:22} {other.value:22} {first:6.3f}s {lost:4} {median:>8} {greatest:>7}"
            f"  {outcomes[0].technique}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(matrix(Kind, range(int(sys.argv[1]) if len(sys.argv) > 1 else 3)) + "\n")
