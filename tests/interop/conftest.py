"""The network of the interop tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.pair import Pair
from tests.netlab import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """An empty lab, for tests that configure their own pair."""
    with Lab("interop") as lab:
        yield lab


@pytest.fixture
def pair(lab: Lab) -> Pair:
    """Our peer and theirs with the protocol's own timings; nothing runs before `start`."""
    return Pair(lab)
