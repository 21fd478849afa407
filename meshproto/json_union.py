"""Field types that the JSON library leaves to our hooks."""

from __future__ import annotations

from abc import ABCMeta


def json_union(name: str, *kinds: type) -> type:
    """A class that counts all `kinds` as its instances.

    The library allows a single hand-decoded class per field and afterwards asks `isinstance`, so a union of
    several (say both address families) has to be one class at run time.
    """
    union = ABCMeta(name, (), {"__doc__": f"Any of {', '.join(kind.__name__ for kind in kinds)}."})
    for kind in kinds:
        union.register(kind)
    return union
