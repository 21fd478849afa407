"""What a fuzz target is: a function that takes whatever bytes there are, and the inputs to begin with.

Nothing here, and no target, needs atheris: `tests.fuzz.one` gives a target to it, and `test_targets.py` calls
each of them as an ordinary test.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """`run` raises for what must not happen, and only then. `seeds` are made by the code under test."""

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], Sequence[bytes]]


def parser(
    name: str,
    parse: Callable[[bytes], object],
    seeds: Callable[[], Sequence[bytes]],
    *refusals: type[Exception],
) -> Target:
    """A target for a function that may raise `refusals`, as it says of itself, and nothing else."""

    def run(data: bytes) -> None:
        try:
            parse(data)
        except refusals:
            pass

    return Target(name, run, seeds)


class Input:
    """Bytes taken from the front, one after another. When none are left, everything is 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def take(self, length: int) -> bytes:
        """Up to `length` bytes."""
        taken = self._data[self._at : self._at + length]
        self._at += len(taken)
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data))

    def number(self, size: int = 1) -> int:
        """Of `size` bytes, little-endian."""
        return int.from_bytes(self.take(size), "little")

    def pieces(self) -> list[bytes]:
        """What is left, as a stream's reads: each begins with its length in a byte, 255 for all the rest."""
        pieces = []
        while self:
            length = self.number()
            pieces.append(self.rest() if length == 255 else self.take(length))
        return pieces
