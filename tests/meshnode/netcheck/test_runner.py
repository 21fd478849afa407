"""Checks on loopback: real STUN servers and a real relay, asked through real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from meshnode.netcheck.report import Report
from meshnode.netcheck_runner import NetcheckRunner, has_ipv6
from meshnode.probes.udp import UdpPair
from meshproto.addresses import AddrPort
from meshproto.keys import NodePrivate
from meshproto.messages import DERPMap, DERPNode, DERPRegion
from stun.messages import TransportAddress, encode_binding_request
from stun.responder import Responder
from stun.server import StunServer
from tests.derp.loops import on_both_loops
from tests.derp.relays import Certificate, running_relay
from tests.lacking import lacking

IPV4 = "127.0.0.1"


@contextmanager
def stun_server(*hosts: str) -> Iterator[int]:
    """A responder on one port of these addresses."""
    first = StunServer.open([TransportAddress(hosts[0], 0)], Responder())
    port = first.addresses[0].port
    servers = [first, *(StunServer.open([TransportAddress(host, port)], Responder()) for host in hosts[1:])]
    try:
        yield port
    finally:
        for server in servers:
            server.close()


@contextmanager
def silent_port() -> Iterator[int]:
    """Where datagrams arrive and nobody answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((IPV4, 0))
        yield int(silent.getsockname()[1])


def node(name: str, **settings: object) -> DERPNode:
    given: dict[str, object] = {"host_name": "localhost", "ipv4": IPV4, "ipv6": "none", **settings}
    return DERPNode(name=name, region_id=int(name[:-1]), **given)  # type: ignore[arg-type]


def map_of(*nodes: DERPNode) -> DERPMap:
    regions: dict[int, DERPRegion] = {}
    for one in nodes:
        number = one.region_id
        before = regions.get(number, DERPRegion(region_id=number, region_code=f"r{number}"))
        regions[number] = msgspec.structs.replace(before, nodes=(*before.nodes, one))
    return DERPMap(regions=regions)


@dataclass(frozen=True)
class Found:
    mapper: bool | None

    @property
    def upnp(self) -> bool | None:
        return self.mapper

    @property
    def pmp(self) -> bool | None:
        return self.mapper

    @property
    def pcp(self) -> bool | None:
        return None


class Node:
    """Something with sockets, of which a runner is given the use."""

    def __init__(self, certificate: Certificate | None = None) -> None:
        self.marked: list[socket.socket] = []
        self.is_online = True
        self.runner = NetcheckRunner(
            self._send,
            mark=self.marked.append,
            entropy=os.urandom,
            probe_port_mappers=self._probe_port_mappers,
            **({"make_tls": certificate.client_context} if certificate else {}),
        )
        self.sockets = UdpPair(self.marked.append, self.runner.receive)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self.sockets.close()

    def _send(self, datagram: bytes, destination: AddrPort) -> bool:
        return self.is_online and self.sockets.send(datagram, destination)

    async def _probe_port_mappers(self) -> Found:
        return Found(False)

    async def check(
        self,
        derp_map: DERPMap,
        *,
        last: Report | None = None,
        home: int = 0,
        is_full: bool = True,
        os_has_ipv6: bool = False,
        verbose: bool = False,
    ) -> Report:
        return await self.runner.check(
            derp_map, last=last, home=home, is_full=is_full, os_has_ipv6=os_has_ipv6, verbose=verbose
        )


@on_both_loops
async def test_one_server() -> None:
    with stun_server(IPV4) as port, Node() as own:
        report = await own.check(map_of(node("1a", stun_port=port)))
        assert report.udp
        assert report.ipv4
        assert report.ipv4_can_send
        assert 0 < report.region_latency[1] < 1
        assert report.mapping_varies_by_dest_ip is None, "one server cannot tell"
        assert report.global_v4 is not None
        assert report.global_v4.host == IPV4
        assert (report.upnp, report.pmp, report.pcp) == (False, False, None)
        assert report.captive_portal is None


async def test_two_servers_of_a_region_show_an_easy_mapping() -> None:
    with stun_server(IPV4) as port, stun_server("127.0.0.2") as other, Node() as own:
        second = node("1b", stun_port=other, stun_only=True, ipv4="127.0.0.2")
        report = await own.check(map_of(node("1a", stun_port=port), second))
        assert report.mapping_varies_by_dest_ip is False
        assert list(report.global_v4_counters.values()) == [2]


async def test_an_incremental_check() -> None:
    with stun_server(IPV4) as port, Node() as own:
        relays = map_of(node("1a", stun_port=port), node("2a", stun_port=port))
        first = await own.check(relays)
        assert first.mapping_varies_by_dest_ip is False
        second = await own.check(relays, last=first, home=1, is_full=False)
        assert set(second.region_latency) == {1, 2}
        assert second.region_latency is not first.region_latency


@pytest.fixture
def ipv6() -> None:
    if not has_ipv6():
        lacking("this machine has no IPv6")


@pytest.mark.usefixtures("ipv6")
async def test_ipv6() -> None:
    with stun_server(IPV4, "::1") as port, Node() as own:
        report = await own.check(map_of(node("1a", stun_port=port, ipv6="::1")), os_has_ipv6=True)
        assert report.os_has_ipv6
        assert report.ipv6
        assert report.ipv6_can_send
        assert report.global_v6 is not None
        assert report.global_v6.host == "::1"
        assert set(report.region_v6_latency) == {1}


async def test_names_are_resolved() -> None:
    with stun_server(IPV4) as port, Node() as own:
        report = await own.check(map_of(node("1a", stun_port=port, ipv4="", ipv6="")), os_has_ipv6=True)
        assert set(report.region_v4_latency) == {1}


@on_both_loops
async def test_without_udp_a_relay_is_measured_over_https(certificate: Certificate) -> None:
    async with running_relay(tls=certificate) as relay:
        with Node(certificate) as own:
            own.is_online = False
            begun_at = time.monotonic()
            relays = map_of(node("7a", derp_port=relay.node.port, cert_name="", ipv4=""))
            report = await own.check(relays)
            assert time.monotonic() - begun_at < 2.5, "nothing left, so nothing is waited for"
            assert not report.udp
            assert not report.ipv4_can_send
            assert report.ipv4
            assert set(report.region_v4_latency) == {7}
            assert len(own.marked) > 2, "a node's own connections stay out of its tunnel"


async def test_silence_is_waited_for_and_then_relays_are_measured(certificate: Certificate) -> None:
    async with running_relay(tls=certificate) as relay:
        with silent_port() as silent, Node(certificate) as own:
            relays = map_of(node("7a", derp_port=relay.node.port, stun_port=silent))
            begun_at = time.monotonic()
            report = await own.check(relays)
            assert 2.9 < time.monotonic() - begun_at < 5
            assert report.ipv4_can_send
            assert not report.udp
            assert set(report.region_latency) == {7}


@pytest.mark.usefixtures("ipv6")
@pytest.mark.parametrize("case", ["answers", "refuses", "is not trusted"])
async def test_what_counts_as_an_answer_over_https(
    case: str, certificate: Certificate, tmp_path: Path
) -> None:
    """Over IPv6, where no ICMP helps out."""
    status = b"404 Not Found" if case == "refuses" else b"200 OK"
    trusted = Certificate.make(tmp_path) if case == "is not trusted" else certificate

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
        writer.close()

    tls = certificate.server_context(NodePrivate.generate(os.urandom).public)
    async with await asyncio.start_server(serve, "::1", 0, ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        with Node(trusted) as own:
            own.is_online = False
            relays = map_of(node("1a", ipv4="none", ipv6="::1", derp_port=port))
            report = await own.check(relays, os_has_ipv6=True)
            assert set(report.region_v6_latency) == ({1} if case == "answers" else set())
            assert report.ipv6 is (case == "answers")


@pytest.mark.parametrize(
    "bad",
    [
        {"host_name": ""},
        {"host_name": "nowhere.invalid", "ipv4": ""},
        {"host_name": "a\0b", "ipv4": ""},
        {"host_name": "ä\r\nX: y", "derp_port": 1},
        {"host_name": "x" * 300, "ipv4": ""},
        {"ipv4": "::1", "ipv6": "127.0.0.1"},
        {"ipv4": "none"},
        {"ipv4": "240.0.0.1", "derp_port": 9},
        {"stun_port": 70000, "derp_port": 70000},
        {"stun_port": -7, "derp_port": -7},
        {"stun_test_ip": "somewhere"},
    ],
    ids=str,
)
async def test_whatever_the_map_says_nothing_is_raised(bad: dict[str, object]) -> None:
    with Node() as own:
        own.is_online = False
        report = await own.check(map_of(node("1a", **bad)), os_has_ipv6=True)
        assert not report.udp


async def test_an_empty_map() -> None:
    with Node() as own:
        begun_at = time.monotonic()
        for derp_map in (DERPMap(), DERPMap(regions={}), map_of(node("1a", stun_port=-1, stun_only=True))):
            assert (await own.check(derp_map)).region_latency == {}
        assert time.monotonic() - begun_at < 2.5


async def test_strangers_are_ignored() -> None:
    with silent_port() as silent, Node() as own:
        own.runner.receive(b"", AddrPort(IPV4, 1))
        checking = asyncio.create_task(own.check(map_of(node("1a", stun_port=silent))))
        await asyncio.sleep(0.05)
        with stun_server(IPV4) as port:
            own.sockets.send(encode_binding_request(bytes(12)), AddrPort(IPV4, port))
            own.runner.receive(os.urandom(100), AddrPort(IPV4, 1))
            await asyncio.sleep(0.05)
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await checking


async def test_a_check_that_is_called_off_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    with silent_port() as silent, Node() as own:
        relay = node("1a", stun_port=silent, can_port80=True)
        checking = asyncio.create_task(own.check(map_of(relay)))
        await asyncio.sleep(0.05)
        assert len(asyncio.all_tasks() - before) > 1
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await checking
        assert asyncio.all_tasks() == before


async def test_a_second_check_waits_for_the_first() -> None:
    with stun_server(IPV4) as port, Node() as own:
        relays = map_of(node("1a", stun_port=port))
        reports = await asyncio.gather(own.check(relays), own.check(relays))
        assert all(report.udp for report in reports)
        assert all(list(report.global_v4_counters.values()) == [1] for report in reports)
