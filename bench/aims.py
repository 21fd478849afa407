"""What the project wants of its figures: ours as a multiple of somebody's, or as such."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.measure import OURS, Figure

PYTHON = f"{OURS}, Python"


@dataclass(frozen=True)
class Aim:
    """A figure of a benchmark, by its key, against the contenders whose names match.

    `limit` is a multiple; where nobody is named, it is in the unit of the figure.
    """

    bench: str
    key: str
    against: str
    limit: float
    ours: str = OURS


@dataclass(frozen=True)
class Outcome:
    """An aim in one setting against one contender, or none. `value` is a multiple, or ours itself."""

    figure: Figure
    aim: Aim
    other: str
    value: float

    @property
    def unit(self) -> str:
        return "×" if self.other else self.figure.what.unit

    @property
    def is_reached(self) -> bool:
        if self.figure.what.more_is_better:
            return self.value >= self.aim.limit
        return self.value <= self.aim.limit


DEBIANS = r"wireguard-go 0\.0\.20220316"
NOBODY = ""

AIMS = (
    Aim("tunnel", "there", ".*", 1.0),
    Aim("tunnel", "back", ".*", 1.0),
    Aim("tunnel", "there", DEBIANS, 5.0),
    Aim("tunnel", "there", DEBIANS, 1.5, PYTHON),
    Aim("tunnel", "ping", "wireguard-go.*", 1.0),
    Aim("tunnel", "small", "wireguard-go.*", 0.7),
    Aim("aead", "seal", "OpenSSL", 0.9),
    Aim("aead", "open", "OpenSSL", 0.9),
    Aim("handshake", "kept", NOBODY, 80.0),
    Aim("handshake", "newcomer", NOBODY, 5.0),
    Aim("relay", "packets", "derper", 0.5),
    Aim("control", "converge", "headscale", 1.0),
    Aim("control", "cpu", "headscale", 1.0),
    Aim("control", "memory", "headscale", 1.0),
    Aim("control", "route", "headscale", 1.0),
)


def outcomes(figures: Sequence[Figure]) -> Iterator[Outcome]:
    """Every aim against every contender that was measured."""
    for aim in AIMS:
        for figure in figures:
            if (figure.bench, figure.what.key) != (aim.bench, aim.key) or aim.ours not in figure.samples:
                continue
            if aim.against == NOBODY:
                yield Outcome(figure, aim, NOBODY, figure.median(aim.ours))
            for other in figure.others:
                ratio = figure.ratio(aim.ours, other)
                if re.fullmatch(aim.against, other) and ratio is not None:
                    yield Outcome(figure, aim, other, ratio)
