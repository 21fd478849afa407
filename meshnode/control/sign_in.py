"""Registration carried through: from the first question to "logged in", over broken connections and slow
people.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from meshnode.control.backoff import Backoff
from meshnode.control.client import ControlClient
from meshnode.control.errors import ControlError
from meshnode.control.login import AskAgain, Attempt, LoggedIn, consume, register_request
from meshnode.control.noise_stream import Entropy
from meshproto.messages import Hostinfo

log = logging.getLogger(__name__)


async def sign_in(
    client: ControlClient,
    attempt: Attempt,
    *,
    hostinfo: Callable[[], Hostinfo],
    entropy: Entropy,
    on_url: Callable[[str], None],
    on_failure: Callable[[ControlError], None] | None,
) -> LoggedIn:
    """Register until the coordinator accepts us.

    `on_url` gets each URL that a person must visit. `on_failure` is told of each failure, and another attempt
    follows after a while; without it the first failure is raised as ControlError, unless a person has already
    been asked: they may take their time, and so may the network.
    """
    backoff = Backoff(entropy)
    shown = ""
    while True:
        try:
            response = await client.register(register_request(attempt, hostinfo()))
            step = consume(attempt, response, entropy)
        except ControlError as error:
            if on_failure is not None:
                on_failure(error)
            elif not shown:
                raise
            delay = error.retry_after or backoff.next_delay()
            log.debug("register failed, next attempt in %.2f s: %s", delay, error)
            await asyncio.sleep(delay)
            continue
        if isinstance(step, LoggedIn):
            return step
        attempt = step.attempt
        if isinstance(step, AskAgain):
            continue
        if step.url == shown:  # the same question again: the coordinator did not wait for the answer
            await asyncio.sleep(backoff.next_delay())
            continue
        backoff.reset()
        shown = step.url
        on_url(shown)
