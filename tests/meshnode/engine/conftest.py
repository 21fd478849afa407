"""The fast path between stand-ins, one implementation after the other."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests.meshnode.engine.fast_paths import FAST_PATHS, Near


@pytest.fixture(params=FAST_PATHS, ids=lambda make: "pure" if make is FAST_PATHS[0] else "native")
def make(request: pytest.FixtureRequest) -> Any:
    """The implementation under test."""
    return request.param


@pytest.fixture
def near(make: Any) -> Iterator[Near]:
    with closing(Near(make)) as near:
        yield near


@pytest.fixture
def near_ipv6(make: Any) -> Iterator[Near]:
    with closing(Near(make, socket.AF_INET6)) as near:
        yield near


@pytest.fixture
def near_single(make: Any) -> Iterator[Near]:
    """Whose peers receive datagram by datagram."""
    with closing(Near(make, gro=False)) as near:
        yield near


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Closes what a test opens."""
    with ExitStack() as stack:
        yield stack
