"""Every fuzz target with its seeds, and with damaged ones: that the targets still fit what they call.

The fuzzing itself is `make fuzz`.
"""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS

ROUNDS = 40
"""Damaged inputs for each target."""


def damaged(seed: bytes, rng: random.Random) -> bytes:
    """With a few bytes changed, cut, repeated or put in."""
    data = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(data))
        match rng.randint(0, 4):
            case 0:
                data[at : at + 1] = rng.randbytes(1)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = data[: rng.randint(0, 40)]
            case 3:
                del data[at : at + rng.randint(1, 8)]
            case _:
                data[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF))])
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_happens_that_must_not(name: str) -> None:
    target = TARGETS[name]
    seeds = target.seeds()
    rng = random.Random(name)
    for data in (b"", *seeds):
        target.run(data)
    for _ in range(ROUNDS):
        target.run(damaged(rng.choice(seeds), rng))
