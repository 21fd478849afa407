"""The relay and two clients that most tests of it begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.derp.keys import ALICE, BOB
from tests.derp.relays import Certificate, RunningClient, RunningRelay, connected_client, running_relay


@asynccontextmanager
async def alice_and_bob(
    *, tls: Certificate | None = None, **options: Any
) -> AsyncIterator[tuple[RunningRelay, RunningClient, RunningClient]]:
    """A relay with these options, and alice and bob, who are connected to it."""
    async with (
        running_relay(tls=tls, **options) as relay,
        connected_client(relay.node, ALICE, tls=tls) as alice,
        connected_client(relay.node, BOB, tls=tls) as bob,
    ):
        yield relay, alice, bob
