"""A mapping over its life, with a gateway that is in the test's hand: renewal, loss, and hostility."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise
from typing import Any

import pytest
from aiohttp import web

from meshnode.portmap import PortMapper, Probed
from tests.meshnode.portmap.fake_gateway import (
    DESCRIPTION,
    PORT,
    SELF,
    FakeGateway,
    fault,
    free_port,
    reply,
    run_fast,
    until,
)

OUTSIDE = IPv4Address("25.0.113.20")


def pcp_answer(
    request: bytes,
    *,
    lifetime: int = 120,
    external: IPv4Address | IPv6Address = OUTSIDE,
    port: int | None = None,
    nonce: bytes | None = None,
    result: int = 0,
    epoch: int = 1000,
) -> bytes:
    """What a PCP server answers: the request with some fields changed."""
    data = bytearray(request)
    data[1] |= 0x80
    data[3] = result
    granted = min(lifetime, struct.unpack_from(">I", request, 4)[0])
    struct.pack_into(">II12x", data, 4, granted, epoch)
    if request[1] == 1:
        packed = external.packed if external.version == 6 else b"\0" * 10 + b"\xff\xff" + external.packed
        data[44:60] = packed
        if port is not None:
            struct.pack_into(">H", data, 42, port)
        if nonce is not None:
            data[24:36] = nonce
    return bytes(data)


def pcp_only(**changes: Any) -> Callable[[bytes], list[bytes]]:
    return lambda request: [pcp_answer(request, **changes)] if request[0] == 2 else []


def maps(gateway: FakeGateway) -> list[tuple[float, bytes]]:
    """The PCP MAP requests so far."""
    return [(at, data) for at, data in gateway.requests if data[:2] == b"\x02\x01"]


# The life of a mapping


def test_a_mapping_is_renewed_at_half_its_life_and_given_back() -> None:
    async def test() -> None:
        async with FakeGateway(pcp_only(lifetime=120)) as gateway:
            changes: list[str] = []
            session = gateway.session(lambda: changes.append(str(session.external)))
            session.start()
            await until(lambda: len(maps(gateway)) == 4, 20)
            assert (str(session.external), session.service) == (f"{OUTSIDE}:{PORT}", "PCP")
            await session.close()
            times = [at for at, _ in maps(gateway)]
            assert all(55 < later - earlier < 75 for earlier, later in pairwise(times[:4]))
            assert {data[24:36] for _, data in maps(gateway)} == {bytes(range(12))}
            last = maps(gateway)[-1][1]
            assert struct.unpack_from(">I", last, 4) == (0,)
            assert session.external is None
            assert changes == [f"{OUTSIDE}:{PORT}"]

    run_fast(test())


def test_a_mapping_that_cannot_be_renewed_is_offered_until_it_ends() -> None:
    async def test() -> None:
        silent = False

        def respond(request: bytes) -> list[bytes]:
            return [] if silent or request[0] != 2 else [pcp_answer(request, lifetime=120)]

        async with FakeGateway(respond) as gateway:
            session = gateway.session(resend=(2.0,), probe_resend=(2.0,))
            session.start()
            await until(lambda: session.external)
            silent, begun = True, asyncio.get_running_loop().time()
            await until(lambda: not session.external, 15)
            assert 100 < asyncio.get_running_loop().time() - begun < 160
            assert len(maps(gateway)) >= 4
            assert "does not answer" in session.problem
            silent = False
            await until(lambda: session.external)
            assert session.problem == ""
            await session.close()

    run_fast(test())


def test_another_address_outside_is_told() -> None:
    async def test() -> None:
        external = [OUTSIDE]
        respond = lambda request: pcp_only(lifetime=60, external=external[0])(request)  # noqa: E731
        async with FakeGateway(respond) as gateway:
            changes: list[str] = []
            session = gateway.session(lambda: changes.append(str(session.external)))
            session.start()
            await until(lambda: changes)
            external[0] = IPv4Address("25.0.113.21")
            await until(lambda: len(changes) == 2)
            assert changes == [f"25.0.113.20:{PORT}", f"25.0.113.21:{PORT}"]
            await session.close()

    run_fast(test())


@pytest.mark.parametrize("protocol", ["PCP", "NAT-PMP"])
def test_a_gateway_whose_clock_began_anew_is_asked_again(protocol: str) -> None:
    async def test() -> None:
        epoch = 100_000

        def respond(request: bytes) -> list[bytes]:
            if protocol == "PCP":
                return pcp_only(lifetime=7200, epoch=epoch)(request)
            if request[:2] == b"\0\1":
                return [struct.pack(">BBHIHHI", 0, 0x81, 0, epoch, PORT, PORT, 7200)]
            return (
                [struct.pack(">BBHI4s", 0, 0x80, 0, epoch, OUTSIDE.packed)] if request[:2] == b"\0\0" else []
            )

        def mapped() -> int:
            return sum(data[1] == 1 for _, data in gateway.requests)

        async with FakeGateway(respond) as gateway:
            session = gateway.session(check=20.0)
            session.start()
            await until(lambda: session.service == protocol)
            asked = len(gateway.requests)
            epoch += 20
            await until(lambda: len(gateway.requests) > asked)
            assert mapped() == 1
            epoch = 3
            await until(lambda: mapped() == 2)
            assert session.external
            await session.close()

    run_fast(test())


# Answers that are no use


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"external": IPv4Address("192.168.1.20")}, "another NAT"),
        ({"external": IPv4Address("100.64.3.4")}, "another NAT"),
        ({"external": IPv4Address("0.0.0.0")}, "0.0.0.0"),
        ({"external": IPv4Address("127.0.0.1")}, "127.0.0.1"),
        ({"external": IPv6Address("2001:db8::1")}, "not IPv4"),
        ({"port": 0}, "port 0"),
        ({"lifetime": 5}, "5 s only"),
        ({"nonce": b"x" * 12}, "does not answer"),
    ],
    ids=lambda value: str(value),
)
async def test_a_grant_that_is_no_use_is_not_offered_and_given_back(
    changes: dict[str, Any], reason: str
) -> None:
    def respond(request: bytes) -> list[bytes]:
        if request[:2] == b"\x02\x00":
            return [pcp_answer(request)]
        return pcp_only(**changes)(request)

    async with FakeGateway(respond) as gateway:
        session = gateway.session(resend=(0.1,), probe_resend=(0.1,), search=(0.1,), release=0.1)
        session.start()
        await until(lambda: session.problem)
        assert session.external is None
        assert reason in session.problem
        if "nonce" not in changes:
            assert struct.unpack_from(">I", maps(gateway)[-1][1], 4) == (0,)
        await session.close()


@pytest.mark.parametrize("result", [2, 8, 12, 77])
async def test_a_refusal_is_told(result: int) -> None:
    async with FakeGateway(pcp_only(result=result)) as gateway:
        session = gateway.session(resend=(0.1,), probe_resend=(0.1,), search=(0.1,))
        session.start()
        await until(lambda: session.problem)
        assert "PCP: the gateway refuses: " in session.problem
        await session.close()


async def test_rubbish_hides_no_answer_and_holds_up_nothing() -> None:
    def respond(request: bytes) -> Iterator[bytes]:
        for number in range(100):
            yield bytes([number & 0xFF]) * (number % 70)
        yield from pcp_only()(request)

    async with FakeGateway(respond) as gateway:
        session = gateway.session(probe_resend=(1.0, 1.0), resend=(1.0, 1.0))
        session.start()
        await until(lambda: session.external)
        await session.close()


async def test_only_the_gateway_is_believed() -> None:
    told = 0

    def forge(request: bytes) -> list[bytes]:
        """The right answer, from another address, to every port of ours that might be waiting for it."""
        nonlocal told
        for port in _waiting_ports():
            for answer in [*pcp_only()(request), struct.pack(">BBHI4s", 0, 0x80, 0, 1, OUTSIDE.packed)]:
                liar.sendto(answer, (str(SELF), port))
                told += 1
        return []

    async with FakeGateway(forge) as gateway:
        liar, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            asyncio.DatagramProtocol, local_addr=("127.0.0.2", 0)
        )
        session = gateway.session(probe_resend=(0.2, 0.2), search=(0.1,))
        session.start()
        await until(lambda: session.problem)
        assert session.external is None
        assert told
        await session.close()
        liar.close()


def _waiting_ports() -> list[int]:
    with open("/proc/net/udp") as lines:  # noqa: PTH123
        found = [line.split()[1] for line in lines.readlines()[1:]]
    return [int(port, 16) for address, port in (item.split(":") for item in found) if address == "0100007F"]


# UPnP


def device(
    call: Callable[[str, str], web.Response],
    *,
    url: str = "/ctl",
    describe: Callable[[web.Request], Any] | None = None,
) -> web.Application:
    """An internet gateway device whose calls are answered by `call`, given the action and the body."""

    async def description(request: web.Request) -> web.Response:
        return web.Response(text=DESCRIPTION.format(url=url))

    async def control(request: web.Request) -> web.Response:
        action = request.headers["SOAPAction"].strip('"').rpartition("#")[2]
        return call(action, await request.text())

    application = web.Application()
    application.router.add_get("/desc.xml", describe or description)
    application.router.add_post("/ctl", control)
    return application


QUICK: dict[str, Any] = {"probe_resend": (0.05,), "http": 1.0, "search": (0.5, 0.5)}


async def test_upnp_finds_a_free_port_and_a_life_that_the_gateway_takes() -> None:
    calls: list[tuple[str, str]] = []

    def call(action: str, body: str) -> web.Response:
        calls.append((action, body))
        if action == "GetExternalIPAddress":
            return reply(action, NewExternalIPAddress=OUTSIDE)
        if f"<NewExternalPort>{PORT}<" in body:
            return fault(718)
        return (
            fault(725) if action == "AddPortMapping" and "<NewLeaseDuration>7200<" in body else reply(action)
        )

    async with FakeGateway(upnp=device(call)) as gateway:
        session = gateway.session(**QUICK)
        session.start()
        await until(lambda: session.external)
        assert session.external is not None
        assert session.external.port not in (0, PORT)
        assert "<NewLeaseDuration>0<" in calls[-1][1]
        port = session.external.port
        await session.close()
        assert calls[-1][0] == "DeletePortMapping"
        assert f"<NewExternalPort>{port}<" in calls[-1][1]


async def test_calls_go_to_the_gateway_whatever_its_description_says() -> None:
    def call(action: str, body: str) -> web.Response:
        return reply(action, NewExternalIPAddress=OUTSIDE)

    with free_port() as elsewhere:
        host = f"127.0.0.1:{elsewhere.getsockname()[1]}"
        application = device(call, url="http://127.0.0.1:5000/ctl")
        async with FakeGateway(upnp=application) as gateway:
            gateway.location = "http://127.0.0.1:5000/desc.xml"
            session = gateway.session(**QUICK)
            session.start()
            await until(lambda: session.external)
            await session.close()

        async def redirect(request: web.Request) -> web.Response:
            raise web.HTTPFound(f"http://{host}/desc.xml")

        async with FakeGateway(upnp=device(call, describe=redirect)) as gateway:
            session = gateway.session(**QUICK)
            session.start()
            await until(lambda: session.problem)
            assert "HTTP status 302" in session.problem
            await session.close()
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" " * 65536)


async def silent(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(60)
    raise AssertionError


async def bomb(request: web.Request) -> web.Response:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))
    return web.Response(text=f'<!DOCTYPE r [<!ENTITY e0 "ha">{entities}]><r>&e9;</r>')


async def compressed(request: web.Request) -> web.Response:
    response = web.Response(body=b" " * (16 << 20))
    response.enable_compression(web.ContentCoding.gzip)
    return response


@pytest.mark.parametrize(
    ("describe", "reason"),
    [
        (endless, "more than anybody needs"),
        (silent, "no answer in time"),
        (bomb, "unreadable XML"),
        (compressed, "unreadable XML"),
    ],
)
async def test_a_hostile_description_costs_little(describe: Any, reason: str) -> None:
    async with FakeGateway(upnp=device(lambda action, body: fault(501), describe=describe)) as gateway:
        session = gateway.session(**QUICK)
        session.start()
        await until(lambda: session.problem, 10)
        assert reason in session.problem
        await session.close()


# The node's port mapper


async def test_the_mapper_maps_only_behind_a_private_gateway() -> None:
    mapper = PortMapper(mark=lambda sock: None, entropy=bytes, on_change=lambda: None)
    assert await mapper.probe() == Probed()
    mapper.configure(gateway=IPv4Address("25.0.113.1"), self_ip=IPv4Address("25.0.113.20"), local_port=PORT)
    assert await mapper.probe() == Probed()
    mapper.configure(gateway=None, self_ip=None, local_port=PORT)
    assert (mapper.external, mapper.service, mapper.problem) == (None, "", "")
    await mapper.close()
    await mapper.close()
