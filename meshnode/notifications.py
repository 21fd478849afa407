"""The notification bus: who watches learns of each change, as one JSON object with only the changed fields.

Field names and mask bits are Tailscale's (node behaviour §1.3).
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

MAX_WAITING = 256
"""Notifications that a slow watcher may fall behind; then its stream ends, and it can start again."""

Notification = dict[str, Any]


class Want(enum.IntFlag):
    """Initial values that a watcher asks for."""

    INITIAL_STATE = 2
    INITIAL_PREFS = 4
    INITIAL_HEALTH = 0x80


class Bus:
    """Delivers every notification to every watcher, in order. A watcher that stands still loses its place."""

    def __init__(self) -> None:
        self._watchers: set[asyncio.Queue[Notification | None]] = set()

    def publish(self, **fields: Any) -> None:
        """Never blocks."""
        for watcher in list(self._watchers):
            try:
                watcher.put_nowait(fields)
            except asyncio.QueueFull:
                self._end(watcher)

    def close(self) -> None:
        """End every watcher's stream."""
        for watcher in list(self._watchers):
            self._end(watcher)

    @contextmanager
    def watch(self) -> Iterator[asyncio.Queue[Notification | None]]:
        """A queue of what is published from now on; None is its end."""
        queue: asyncio.Queue[Notification | None] = asyncio.Queue(MAX_WAITING)
        self._watchers.add(queue)
        try:
            yield queue
        finally:
            self._watchers.discard(queue)

    def _end(self, watcher: asyncio.Queue[Notification | None]) -> None:
        self._watchers.discard(watcher)
        while watcher.full():
            watcher.get_nowait()
        watcher.put_nowait(None)
