"""Waiting for a condition of the outside world, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tests.netlab.processes import CommandFailed

Value = TypeVar("Value")

# Seconds between two looks, doubled from look to look: most things come at once, and looking costs time too.
FIRST_PAUSE = 0.02
LAST_PAUSE = 0.3


class NotInTime(AssertionError):
    """The condition did not become true in time; the message says which, and what was seen last."""


def wait_for(
    predicate: Callable[[], Value | None],
    timeout: float = 10.0,
    *,
    what: str = "the condition",
) -> Value:
    """Call `predicate` until its value is true and return that value.

    A command that fails inside the predicate counts as "not yet". Raises NotInTime after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while True:
        last: object
        try:
            value = predicate()
        except CommandFailed as failure:
            last = failure
        else:
            if value:
                return value
            last = value
        if time.monotonic() >= deadline:
            raise NotInTime(f"{what}: not within {timeout:g} s; last seen: {last}")
        time.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)
