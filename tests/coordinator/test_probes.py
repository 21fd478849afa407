"""Routers of one route are asked whether they are well, and the route leaves those who are silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from coordinator.config import Config, parse
from coordinator.errors import StartupError
from coordinator.primaries import Primaries
from coordinator.router_health import ProbeTimes, RouterHealth, contested
from meshproto.messages import Hostinfo
from tests.coordinator.conftest import Server
from tests.coordinator.machine import Machine, Poll

SUBNET = ip_network("192.168.0.0/24")
TIMES = ProbeTimes(interval_s=1.0, timeout_s=0.9)


async def head(port: int, target: str) -> int:
    """The status of a HEAD at the public listener, as any HTTP client sends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"HEAD {target} HTTP/1.1\r\nHost: vpn.test\r\nConnection: close\r\n\r\n".encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status


class Router:
    """A machine that serves the subnet and answers probes while `answers`."""

    def __init__(self, server: Server, machine: Machine, poll: Poll) -> None:
        self.server = server
        self.node_id = server.node(machine).id
        self.poll = poll
        self.answers = True
        self.asked: list[str] = []
        self.statuses: list[int] = []
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        while (message := await self.poll.next()) is not None:
            if message.ping_request is not None:
                assert message.keep_alive
                self.asked.append(message.ping_request.url)
                if self.answers:
                    url = urlsplit(message.ping_request.url)
                    target = f"{url.path}?{url.query}"
                    self.statuses.append(await head(self.server.coordinator.port, target))

    @property
    def is_primary(self) -> bool:
        return bool(self.server.state.primary_routes(self.node_id))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def join(server: Server, hostname: str) -> Router:
    machine, connection, poll = await server.join(hostname)
    machine.hostinfo = Hostinfo(hostname=hostname, routable_ips=(SUBNET,))
    await machine.report(connection)
    router = Router(server, machine, poll)
    await server.state.set_approved_routes(router.node_id, [SUBNET])
    return router


@pytest.fixture
async def routers(server: Server) -> AsyncIterator[list[Router]]:
    await server.stop()
    server.configure(probes=TIMES)
    await server.start()
    routers = [await join(server, "one"), await join(server, "two")]
    yield routers
    for router in routers:
        router.task.cancel()


async def test_the_route_leaves_a_router_that_is_silent_and_does_not_come_back(
    server: Server, routers: list[Router]
) -> None:
    first, second = routers
    _, _, watcher = await server.join("watcher")
    await until(lambda: len(first.statuses) >= 2 and len(second.statuses) >= 2)
    assert set(first.statuses + second.statuses) == {200}
    assert first.is_primary
    first.answers = False
    await watcher.until(lambda map: map.peer("two").primary_routes == (SUBNET,))
    assert watcher.map.peer("one").primary_routes == ()
    assert watcher.map.peer("one").online, "it is connected all the while"
    first.answers = True
    await until(lambda: not server.state.snapshot.primaries.unhealthy)
    await asyncio.sleep(1.5 * TIMES.interval_s)
    assert second.is_primary
    second.answers = False
    await until(lambda: first.is_primary)


async def test_when_all_are_silent_the_route_stays(server: Server, routers: list[Router]) -> None:
    for router in routers:
        router.answers = False
    await until(lambda: len(server.state.snapshot.primaries.unhealthy) == 2)
    assert routers[0].is_primary


async def test_one_lost_answer_is_asked_for_again(server: Server, routers: list[Router]) -> None:
    first, _ = routers
    await until(lambda: len(first.statuses) >= 2)
    heard = len(first.asked)
    first.answers = False
    await until(lambda: len(first.asked) > heard)
    first.answers = True
    await asyncio.sleep(2 * TIMES.interval_s)
    assert first.is_primary
    assert not server.state.snapshot.primaries.unhealthy
    assert len(set(first.asked)) == len(first.asked), "clients answer a URL once"


async def test_a_single_router_is_not_asked(server: Server) -> None:
    await server.stop()
    server.configure(probes=TIMES)
    await server.start()
    router = await join(server, "one")
    await asyncio.sleep(2.5 * TIMES.interval_s)
    router.task.cancel()
    assert router.asked == []


async def test_probes_can_be_turned_off(server: Server) -> None:
    await server.stop()
    server.configure(probes=ProbeTimes(interval_s=0))
    await server.start()
    routers = [await join(server, "one"), await join(server, "two")]
    await asyncio.sleep(0.5)
    for router in routers:
        router.task.cancel()
        assert router.asked == []


async def test_answers_that_nobody_waits_for(server: Server) -> None:
    port = server.coordinator.port
    assert await head(port, "/machine/ping-response?id=0123456789abcdef") == 404
    assert await head(port, "/machine/ping-response") == 400


def test_silence_in_a_new_session_is_no_verdict_yet() -> None:
    health = RouterHealth()
    health.begin({1: 10, 2: 20})
    assert health.end({2}, {1: 10, 2: 20}) == {}
    health.begin({1: 10, 2: 20})
    assert health.end({2}, {1: 10, 2: 20}) == {1: False, 2: True}


def test_a_session_that_was_replaced_meanwhile_postpones_everybody() -> None:
    health = RouterHealth()
    for _ in range(2):
        health.begin({1: 10, 2: 20})
        health.end({1, 2}, {1: 10, 2: 20})
    health.begin({1: 10, 2: 20})
    assert health.end(set(), {1: 11, 2: 20}) == {}


def test_who_left_has_no_verdict() -> None:
    health = RouterHealth()
    for _ in range(2):
        health.begin({1: 10, 2: 20})
        verdict = health.end({2}, {2: 20})
    assert verdict == {2: True}


def test_all_silent_then_one_recovers() -> None:
    primaries = Primaries()
    for node in (2, 1, 3):
        primaries, _ = primaries.stand(node, {SUBNET})
    assert contested(primaries) == {1, 2, 3}
    primaries, affected = primaries.judge({1: False, 2: False, 3: False})
    assert (primaries.elected, affected) == ({SUBNET: 2}, frozenset())
    primaries, affected = primaries.judge({3: True})
    assert (primaries.elected, affected) == ({SUBNET: 3}, {2, 3})
    primaries, _ = primaries.stand(3, ())
    assert primaries.elected == {}, "none that answers is left, and the last one that did has gone"
    primaries, _ = primaries.judge({1: True})
    assert primaries.elected == {SUBNET: 1}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("{probe_interval: 0}", ProbeTimes(interval_s=0)),
        ("{probe_interval: 3s, probe_timeout: 1s}", ProbeTimes(3, 1)),
        ("{}", ProbeTimes(10, 5)),
    ],
)
def test_configuration(keys: str, expected: ProbeTimes) -> None:
    assert configured(keys).probes == expected


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("{probe_interval: 1s}", "node.routes.ha.probe_interval: expected 2s or more, or 0"),
        ("{probe_timeout: 500ms}", "node.routes.ha.probe_timeout: expected 1s or more"),
        ("{probe_interval: 4s}", "node.routes.ha.probe_timeout: expected less than"),
    ],
)
def test_configuration_that_is_refused(keys: str, problem: str) -> None:
    with pytest.raises(StartupError, match=problem):
        configured(keys)


def configured(keys: str) -> Config:
    return parse({"node": {"routes": {"ha": yaml.safe_load(keys)}}}, Path("/etc/coordinator/config.yaml"))
