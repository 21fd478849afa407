"""Other people's clients: Debian's `stun` (RFC 3489) and coturn's tools (RFC 8489 and 5780)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stun.messages import TransportAddress
from stun.responder import AddressPair, Responder
from stun.server import StunServer
from tests.stun.test_server import free_port, serving

pytestmark = pytest.mark.interop


@contextmanager
def two_addresses() -> Iterator[AddressPair]:
    pair = AddressPair(TransportAddress("127.0.0.1", free_port()), TransportAddress("127.0.0.2", free_port()))
    with serving(*pair.endpoints(), responder=Responder((pair,))):
        yield pair


async def run(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    return output.decode()


async def coturn(program: str, server: TransportAddress, *flags: str) -> str:
    return await run(f"turnutils_{program}", *flags, "-p", str(server.port), server.host)


async def test_stun_client_learns_its_address() -> None:
    with serving(TransportAddress("127.0.0.1", 0)) as server:
        output = await run("stun", str(server.addresses[0]), "1", "-v")
    port = re.search(r"Opened port (\d+)", output)
    assert port is not None
    assert f"MappedAddress = 127.0.0.1:{port[1]}" in output


async def test_stun_client_finds_out_that_there_is_no_nat() -> None:
    with two_addresses() as pair:
        assert "Primary: Open" in await run("stun", str(pair.primary))


async def _reflexive_address(server: StunServer) -> str:
    output = await coturn("stunclient", server.addresses[0])
    found = re.search(r"UDP reflexive addr: (\S+):\d+", output)
    assert found is not None, output
    return found[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_stunclient_of_coturn(host: str) -> None:
    with serving(TransportAddress(host, 0)) as server:
        assert await _reflexive_address(server) == host


async def test_stunclient_of_coturn_sees_the_second_address() -> None:
    with two_addresses() as pair:
        output = await coturn("stunclient", pair.primary)
    assert f"Response origin: : {pair.primary}" in output
    assert f"Other addr: : {pair.secondary}" in output


async def test_behaviour_discovery_of_coturn() -> None:
    with two_addresses() as pair:
        output = await coturn("natdiscovery", pair.primary, "-m", "-f")
    assert "Endpoint Independent Mapping" in output
    assert "Endpoint Independent Filtering" in output
