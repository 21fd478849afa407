"""Relays that stop answering, and such as only seem to, on both event loops."""

from __future__ import annotations

import asyncio
import time

import pytest

from derp.client import Disconnected
from derp.client_core import Connected
from derp.server_core import Limits
from tests.derp.blackhole import cut_off, reach_again
from tests.derp.keys import ALICE
from tests.derp.loops import on_both_loops
from tests.derp.pairs import alice_and_bob
from tests.derp.relays import Certificate, connected_client, running_relay

SOON_S = 2.0 + 3.0
"""What is promised, and as much again for a machine that has other tests to run."""


@on_both_loops
async def test_relay_that_is_cut_off_while_we_send(tls: Certificate | None) -> None:
    async with alice_and_bob(tls=tls) as (relay, alice, bob):
        alice.send(bob, b"packet")
        await bob.wait_for_packets(1)
        cut_off(relay)
        started = time.monotonic()
        alice.send(bob, b"lost")
        assert "does not answer any more" in (await alice.wait_for(Disconnected)).reason
        assert 1.2 < time.monotonic() - started < SOON_S
        await asyncio.sleep(0.3)  # an attempt is under way, and gets no answer
        reach_again(relay)
        async with asyncio.timeout(SOON_S):
            await alice.wait_for(Connected)


async def test_relay_that_reads_slowly_is_not_silent() -> None:
    """A rate limit holds up our ping for longer than a silent relay gets."""
    limits = Limits(bytes_per_second=80_000, burst_bytes=1)
    async with alice_and_bob(limits=limits) as (_, alice, bob):
        for _ in range(9):
            alice.send(bob, bytes(60_000))
            await asyncio.sleep(0.05)
        assert len(await bob.wait_for_packets(8)) >= 8
        assert not [event for event in alice.events if isinstance(event, Disconnected)]


@pytest.mark.parametrize("is_cut", [True, False])
async def test_doubt(is_cut: bool) -> None:
    async with running_relay() as relay, connected_client(relay.node, ALICE) as alice:
        if is_cut:
            cut_off(relay)
        alice.client.doubt()
        await asyncio.sleep(0.3)
        assert alice.client.is_connected
        if is_cut:
            async with asyncio.timeout(SOON_S):
                await alice.wait_for(Disconnected)
        else:
            heard_at = alice.client.heard_at
            assert heard_at is not None
            assert asyncio.get_running_loop().time() - heard_at < 0.5
