"""Streams arrive in pieces that mean nothing: each stream parser is fed every way that could matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

Feeding = Callable[[bytes], Iterator[bytes]]


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_at_a_time(data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        yield data[index : index + 1]


def with_empty_reads(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), 7):
        yield b""
        yield data[start : start + 7]
    yield b""


every_feeding = pytest.mark.parametrize("feed", [whole, byte_at_a_time, with_empty_reads])
