"""Receiver indices: the only clear-text identifier on the wire, hence random (reference §3.1).

One number names a handshake in flight and then the keypair that came out of it. Were they predictable, an
observer could count our peers and link the sessions of one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Owner = TypeVar("Owner")


class IndexTable(Generic[Owner]):
    """u32 -> whoever the number was given to."""

    __slots__ = ("_entropy", "_owners")

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._owners: dict[int, Owner] = {}

    def allocate(self, owner: Owner) -> int:
        """A random index that nobody has."""
        while True:
            index = int.from_bytes(self._entropy(4), "little")
            if index not in self._owners:
                self._owners[index] = owner
                return index

    def owner(self, index: int) -> Owner | None:
        """Who has `index`."""
        return self._owners.get(index)

    def free(self, index: int) -> None:
        """Give `index` back. Nothing happens when nobody has it."""
        self._owners.pop(index, None)

    def __len__(self) -> int:
        return len(self._owners)
