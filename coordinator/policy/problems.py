"""What is wrong with a policy: all of it at once, each with its place and what to write instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.errors import Invalid
from coordinator.policy.hujson import Position


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong. `at` is None for what has no place, such as a failed assertion."""

    at: Position | None
    text: str

    def __str__(self) -> str:
        return self.text if self.at is None else f"{self.at}: {self.text}"


class PolicyRefused(Invalid):
    """The policy cannot be used. `str()` has one problem a line, in the order of the document."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, problems)))


class Problems:
    """Gathers problems, so that one attempt shows them all."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, at: Position | None, text: str) -> None:
        self.found.append(Problem(at, text))

    def raise_any(self) -> None:
        """Raises PolicyRefused if there is a problem, each told once."""
        if self.found:
            ordered = sorted(
                dict.fromkeys(self.found), key=lambda problem: problem.at or Position(1 << 60, 0)
            )
            raise PolicyRefused(ordered)
