"""List flags: comma separated, repeatable, or both."""

from __future__ import annotations

from collections.abc import Iterable


def split_list(values: Iterable[str]) -> list[str]:
    """The items of a list flag in their order: `-t a,b -t c` gives a, b, c. Empty items are no items."""
    return [item.strip() for value in values for item in value.split(",") if item.strip()]
