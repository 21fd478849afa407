"""Tests that must hold on both event loops: the standard one and uvloop, whose transports differ."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop

_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_both_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run an async test once on each event loop."""

    @functools.wraps(test)
    def run(loop_name: str, **arguments: Any) -> None:
        async def body() -> None:
            await test(**arguments)

        with asyncio.Runner(loop_factory=_LOOPS[loop_name]) as runner:
            runner.run(body())

    signature = inspect.signature(test)
    name = inspect.Parameter("loop_name", inspect.Parameter.KEYWORD_ONLY)
    vars(run)["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), name])
    del vars(run)["__wrapped__"]
    parametrized: Callable[..., None] = pytest.mark.parametrize("loop_name", _LOOPS)(run)
    return parametrized
