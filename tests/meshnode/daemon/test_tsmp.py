"""Pings inside the tunnel: TSMP's bytes, and TSMP and ICMP over a real interface."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from pyroute2 import netns

from meshnode.icmp_ping import icmp_ping
from meshnode.tsmp import Tsmp
from meshnode.tsmp_messages import DATA_SIZE, PROTOCOL, Ping, Pong, parse_untrusted
from tests.netlab import namespaces

DATA = b"12345678"
INTERFACE = "tun"
ADDRESSES = {4: ("100.64.0.1", "100.64.0.2"), 6: ("fd7a:115c:a1e0::1", "fd7a:115c:a1e0::2")}


def test_messages_on_the_wire() -> None:
    assert PROTOCOL == 99
    assert Ping(DATA).encode() == b"p12345678"
    assert Pong(DATA, 38642).encode() == b"o12345678\x96\xf2"


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"p12345678", Ping(DATA)),
        (b"p12345678 and more", Ping(DATA)),
        (b"o12345678", Pong(DATA)),
        (b"o12345678\x01", Pong(DATA)),
        (b"o12345678\x00\x50", Pong(DATA, 80)),
        (b"o12345678\x00\x50 and more", Pong(DATA, 80)),
        (b"", None),
        (b"p1234567", None),
        (b"!\x06A\x01\xbb\x00\x16", None),
        (b"a" + bytes(32), None),
    ],
)
def test_messages_are_read(payload: bytes, message: Ping | Pong | None) -> None:
    assert parse_untrusted(payload) == message


@contextmanager
def within(namespace: str) -> Iterator[None]:
    """Sockets that are opened in the meantime belong to the namespace, for ever."""
    netns.pushns(namespace)
    try:
        yield
    finally:
        netns.popns()


class Pair:
    """Two hosts with an interface between them in the place of the tunnel, and TSMP at both ends."""

    def __init__(self) -> None:
        self.names = [f"g{os.getpid()}-{side}" for side in ("a", "b")]
        self.ends: list[Tsmp] = []

    def open(self) -> None:
        first, second = self.names
        for name in self.names:
            namespaces.add(name)
        namespaces.batch(first, [f"link add {INTERFACE} type veth peer name {INTERFACE} netns {second}"])
        for index, name in enumerate(self.names):
            own = (ADDRESSES[4][index] + "/24", ADDRESSES[6][index] + "/64")
            namespaces.batch(name, [f"addr add {one} dev {INTERFACE}" for one in own])
            namespaces.batch(name, [f"link set {INTERFACE} up"])
        for name in self.names:
            end = Tsmp(INTERFACE, os.urandom)
            with within(name):
                end.open()
            self.ends.append(end)

    def close(self) -> None:
        for end in self.ends:
            end.close()
        for name in self.names:
            namespaces.delete(name)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    try:
        made.open()
        yield made
    finally:
        made.close()


@pytest.mark.system
async def test_both_ends_answer_in_both_families(pair: Pair) -> None:
    for version in (4, 6):
        for end, other in ((0, 1), (1, 0)):
            async with asyncio.timeout(5):
                pong = await pair.ends[end].ping(ip_address(ADDRESSES[version][other]))
            assert len(pong.data) == DATA_SIZE
            assert pong.peer_api_port == 0


@pytest.mark.system
async def test_pings_at_the_same_time_find_their_answers(pair: Pair) -> None:
    targets = [ip_address(ADDRESSES[version][1]) for version in (4, 6)] * 10
    async with asyncio.timeout(5):
        pongs = await asyncio.gather(*(pair.ends[0].ping(target) for target in targets))
    assert len({pong.data for pong in pongs}) == len(targets)


@pytest.mark.system
async def test_nobody_answers_in_the_place_of_the_peer(pair: Pair) -> None:
    pair.ends[1].close()
    for version in (4, 6):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await pair.ends[0].ping(ip_address(ADDRESSES[version][1]))


@pytest.mark.system
async def test_the_host_at_the_other_end_answers_icmp(pair: Pair) -> None:
    for version in (4, 6):
        with within(pair.names[0]):
            ping = asyncio.create_task(_icmp(ADDRESSES[version][1]))
            await asyncio.sleep(0)  # it opens its socket here
        async with asyncio.timeout(5):
            await ping


@pytest.mark.system
async def test_an_address_that_nobody_has_is_silent(pair: Pair) -> None:
    with within(pair.names[0]):
        ping = asyncio.create_task(_icmp("100.64.0.9"))
        await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await ping


async def _icmp(address: str) -> None:
    await icmp_ping(INTERFACE, ip_address(address), os.urandom)


async def test_a_host_without_the_interface_goes_without(caplog: pytest.LogCaptureFixture) -> None:
    tsmp = Tsmp("no-such-device", os.urandom)
    tsmp.open()
    assert "no TSMP over IPv4" in caplog.text
    with pytest.raises(OSError, match="not available"):
        await tsmp.ping(ip_address("100.64.0.2"))
    tsmp.close()
