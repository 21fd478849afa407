"""Waiting for a condition of the outside world, instead of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tests.netlab.processes import CommandFailed

Value = TypeVar("Value")


class NotInTime(AssertionError):
    """The condition did not become true in time; the message says which, and what was seen last."""


def wait_for(
    predicate: Callable[[], Value | None],
    timeout: float = 10.0,
    *,
    what: str = "the condition",
    interval: float = 0.05,
) -> Value:
    """Call `predicate` until its value is true and return that value.

    A command that fails inside the predicate counts as "not yet". Raises NotInTime after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
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
        time.sleep(interval)
