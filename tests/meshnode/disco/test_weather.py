"""Random calamities in a row: whatever happened, traffic goes on, and calm brings the direct path back."""

from __future__ import annotations

import random

import pytest

from tests.meshnode.disco.nats import EASY, Nat
from tests.meshnode.disco.simulation import SimNode, pair
from tests.meshnode.disco.world import World

CALM = 31.0
"""Seconds: the longest time between two rounds, and the round."""
EASY_KINDS = sorted(EASY, key=lambda kind: kind.value)


class Calamities:
    """What can happen to two nodes, and to the world between them."""

    def __init__(self, world: World, nodes: tuple[SimNode, SimNode], rng: random.Random) -> None:
        self.world, self.nodes, self.rng = world, nodes, rng
        self.moves = 20

    def strike(self) -> str:
        name = self.rng.choice(["cut", "cut one way", "move", "forget", "slow", "lossy", "clear"])
        world, node = self.world, self.rng.choice(self.nodes)
        if name == "cut":
            world.cuts.append(lambda source, target: True)
        elif name == "cut one way":
            world.cuts.append(lambda source, target: source is node)
        elif name == "move":
            self.moves += 1
            node.move(self.rng.choice(EASY_KINDS), self.moves)
        elif name == "forget":
            for box in node.boxes(node.world.nodes[0].endpoints[0]):
                if isinstance(box, Nat):
                    box.restart()
        elif name == "slow":
            delay = self.rng.random() * 0.2
            world.extra_delay = lambda source, target: delay
        elif name == "lossy":
            world.loss = 0.05
        else:
            self.clear()
        return name

    def clear(self) -> None:
        self.world.cuts.clear()
        self.world.loss = 0.0
        self.world.extra_delay = lambda source, target: 0.0


@pytest.mark.parametrize("seed", range(6))
def test_weather(seed: int) -> None:
    rng = random.Random(seed)
    world = World(seed)
    a, b = pair(world, rng.choice(EASY_KINDS), rng.choice(EASY_KINDS))
    a.talk(b, 0.05, 10_000.0)
    world.run_for(3.0)
    calamities = Calamities(world, (a, b), rng)
    log = []
    for _ in range(4):
        start = world.now
        log.append(calamities.strike())
        world.run_for(rng.random() * 4 + 2)
        log.append(calamities.strike())
        world.run_for(5.0)
        gap = max(a.longest_gap(start, world.now), b.longest_gap(start, world.now))
        assert gap <= 2.0, (gap, seed, log)
        calamities.clear()
        assert world.run_until(lambda: a.is_direct(b) and b.is_direct(a), CALM), (seed, log)
        world.run_for(1.0)
