"""The connections of a node to relays, which are real: ours, with TLS, on 127.0.0.1."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

import pytest

from derp.frames import DISCO_MAGIC
from meshnode.local_address import is_ours
from meshnode.relays import Relays
from meshproto.keys import NodePrivate, NodePublic
from meshproto.messages import DERPMap, DERPNode, DERPRegion
from tests.derp.blackhole import cut_off, reach_again
from tests.derp.keys import ALICE, BOB, CAROL
from tests.derp.relays import Certificate, RunningRelay, running_relay

NoteT = TypeVar("NoteT")
PATIENCE_S = 10.0
SOON_S = 2.0 + 3.0
"""What is promised, and as much again for a machine that has other tests to run."""
DISCO = DISCO_MAGIC + bytes(60)


def region(region_id: int, *relays: RunningRelay | int) -> DERPRegion:
    """A region of these relays, or ports of this machine."""
    nodes = []
    for number, relay in enumerate(relays):
        port = relay if isinstance(relay, int) else relay.node.port
        nodes.append(
            DERPNode(
                name=f"{region_id}{'abc'[number]}",
                region_id=region_id,
                host_name="localhost",
                ipv4="127.0.0.1",
                ipv6="none",
                derp_port=port,
                insecure_for_tests=True,
            )
        )
    return DERPRegion(region_id=region_id, region_code=f"r{region_id}", nodes=tuple(nodes))


def derp_map(*regions: DERPRegion) -> DERPMap:
    return DERPMap(regions={one.region_id: one for one in regions})


class Node:
    """Relays, and what came of them."""

    def __init__(self, key: NodePrivate) -> None:
        self.key = key
        self.packets: list[tuple[int, NodePublic, bytes]] = []
        self.gone: list[tuple[NodePublic, int]] = []
        self.marked = 0
        self.changed = asyncio.Event()
        self.relays = Relays(
            on_packets=self._note_packets,
            on_peer_gone=lambda *gone: self._note(self.gone, gone),
            on_change=self.changed.set,
            mark=self._mark,
        )

    def _mark(self, _: socket.socket) -> None:
        self.marked += 1

    def _note_packets(self, region_id: int, source: NodePublic, data: bytes, stride: int) -> None:
        for start in range(0, len(data), stride):
            self._note(self.packets, (region_id, source, data[start : start + stride]))

    def send(self, region_id: int, peer: NodePublic, packet: bytes) -> None:
        """One packet."""
        self.relays.send(region_id, peer, packet, len(packet))

    def _note(self, notes: list[NoteT], note: NoteT) -> None:
        notes.append(note)
        self.changed.set()

    async def until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> float:
        """Returns how long it took, in seconds."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        async with asyncio.timeout(patience_s):
            while not condition():
                self.changed.clear()
                await self.changed.wait()
        return loop.time() - started

    async def at_home(self, region_id: int, wanted: DERPMap) -> None:
        self.relays.configure(self.key, wanted)
        self.relays.set_home(region_id)
        await self.until(lambda: self.relays.is_connected(region_id))

    def sources(self) -> list[tuple[int, bytes]]:
        return [(region_id, packet) for region_id, _, packet in self.packets]


@asynccontextmanager
async def node(key: NodePrivate) -> AsyncIterator[Node]:
    made = Node(key)
    try:
        yield made
    finally:
        await made.relays.close()


@pytest.fixture
async def relay(certificate: Certificate) -> AsyncIterator[RunningRelay]:
    async with running_relay(tls=certificate) as running:
        yield running


@pytest.fixture
async def other_relay(certificate: Certificate) -> AsyncIterator[RunningRelay]:
    async with running_relay(tls=certificate, key=CAROL) as running:
        yield running


@pytest.fixture
async def alice() -> AsyncIterator[Node]:
    async with node(ALICE) as made:
        yield made


@pytest.fixture
async def bob() -> AsyncIterator[Node]:
    async with node(BOB) as made:
        yield made


@asynccontextmanager
async def talking(sender: Node, peer: Node, region_id: int) -> AsyncIterator[None]:
    """Packets to a peer, fifty in a second, as a tunnel in use sends them."""

    async def send() -> None:
        while True:
            sender.send(region_id, peer.key.public, b"packet")
            await asyncio.sleep(0.02)

    task = asyncio.create_task(send())
    try:
        yield
    finally:
        task.cancel()


async def until_another(receiver: Node, patience_s: float) -> None:
    """A packet that was not there yet comes in time."""
    already = len(receiver.packets)
    await receiver.until(lambda: len(receiver.packets) > already, patience_s)


async def test_home_and_a_connection_on_demand(
    relay: RunningRelay, other_relay: RunningRelay, alice: Node, bob: Node
) -> None:
    both = derp_map(region(1, relay), region(2, other_relay))
    await alice.at_home(1, both)
    await bob.at_home(2, both)
    alice.send(2, BOB.public, b"to your home")
    await bob.until(lambda: bob.packets == [(2, ALICE.public, b"to your home")])
    assert alice.relays.connected == [1, 2]
    assert alice.relays.home == 1
    assert alice.relays.failure() == ""
    heard_at = alice.relays.heard_from_home_at()
    assert heard_at is not None
    assert heard_at <= asyncio.get_running_loop().time()
    assert alice.marked == 2


async def test_answers_go_where_the_peer_spoke(
    relay: RunningRelay, other_relay: RunningRelay, alice: Node, bob: Node
) -> None:
    """Bob has no connection to alice's home, but alice is in his: no need to make one."""
    both = derp_map(region(1, relay), region(2, other_relay))
    await alice.at_home(1, both)
    await bob.at_home(2, both)
    alice.send(2, BOB.public, b"question")
    await bob.until(lambda: bool(bob.packets))
    bob.send(1, ALICE.public, b"answer")
    await alice.until(lambda: alice.packets == [(2, BOB.public, b"answer")])
    assert bob.relays.connected == [2]


async def test_packets_wait_for_the_connection_and_none_is_lost(
    relay: RunningRelay, alice: Node, bob: Node
) -> None:
    await bob.at_home(1, derp_map(region(1, relay)))
    alice.relays.configure(ALICE, derp_map(region(1, relay)))
    wanted = [b"%d" % number for number in range(32)]
    for packet in wanted:
        alice.send(1, BOB.public, packet)
    await bob.until(lambda: len(bob.packets) == 32)
    assert [packet for _, _, packet in bob.packets] == wanted


@pytest.fixture
def soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """For nodes that are made after this."""
    monkeypatch.setattr("meshnode.relays.IDLE_TIMEOUT_S", 0.4)
    monkeypatch.setattr("meshnode.relays.SWEEP_EVERY_S", 0.1)


async def test_datagrams_of_a_tunnel_come_together(relay: RunningRelay, alice: Node) -> None:
    wanted = derp_map(region(1, relay))
    runs: list[tuple[int, NodePublic, bytes, int]] = []
    relays = Relays(
        on_packets=lambda *run: alice._note(runs, run),
        on_peer_gone=lambda *_: None,
        on_change=alice.changed.set,
        mark=lambda _: None,
    )
    try:
        relays.configure(BOB, wanted)
        relays.set_home(1)
        await alice.at_home(1, wanted)
        await alice.until(lambda: relays.is_connected(1))
        data = b"".join(bytes([4, 0, 0, 0, number]) + bytes(95) for number in range(40)) + b"\4\0\0\0end"
        alice.relays.send(1, BOB.public, memoryview(data), 100)
        await alice.until(lambda: sum(len(run[2]) for run in runs) == len(data))
        assert b"".join(run[2] for run in runs) == data
        assert runs[0][:2] == (1, alice.key.public)
        assert runs[0][3] == 100
    finally:
        await relays.close()


@pytest.mark.usefixtures("soon_idle")
async def test_change_of_home(relay: RunningRelay, other_relay: RunningRelay, alice: Node, bob: Node) -> None:
    """The old home stays for those who come there, until nobody does."""
    both = derp_map(region(1, relay), region(2, other_relay))
    await alice.at_home(1, both)
    await bob.at_home(1, both)
    alice.relays.set_home(2)
    await alice.until(lambda: alice.relays.connected == [1, 2])
    bob.send(1, ALICE.public, b"to the old home")
    await alice.until(lambda: alice.sources() == [(1, b"to the old home")])
    await alice.until(lambda: alice.relays.connected == [2])
    await asyncio.sleep(0.6)
    assert alice.relays.connected == [2]
    alice.relays.set_home(0)
    await asyncio.sleep(0.6)
    assert alice.relays.connected == []


async def test_peer_that_is_not_there(relay: RunningRelay, alice: Node) -> None:
    await alice.at_home(1, derp_map(region(1, relay)))
    alice.send(1, BOB.public, DISCO)
    await alice.until(lambda: alice.gone == [(BOB.public, 1)])


async def test_change_of_the_map(
    relay: RunningRelay, other_relay: RunningRelay, alice: Node, bob: Node
) -> None:
    alice.relays.set_home(7)
    assert alice.relays.failure() == "region 7, our home, has no relay in the coordinator's map"
    await alice.at_home(1, derp_map(region(1, relay), region(2, other_relay)))
    await bob.at_home(2, derp_map(region(2, other_relay)))
    alice.send(2, BOB.public, b"packet")
    await bob.until(lambda: bool(bob.packets))
    alice.relays.configure(ALICE, derp_map(region(1, relay), region(2, other_relay)))
    assert alice.relays.connected == [1, 2]
    alice.relays.configure(ALICE, derp_map(region(1, relay)))
    assert alice.relays.connected == [1]
    alice.relays.configure(ALICE, derp_map(region(1, other_relay)))
    await alice.until(lambda: alice.relays.is_connected(1))
    bob.relays.configure(BOB, derp_map(region(2, other_relay)))
    bob.send(2, ALICE.public, b"to the same relay")
    await alice.until(lambda: alice.sources() == [(1, b"to the same relay")])
    alice.relays.configure(ALICE, None)
    assert alice.relays.connected == []
    alice.send(1, BOB.public, b"nowhere to send it")


async def test_change_of_the_key(relay: RunningRelay, alice: Node, bob: Node) -> None:
    wanted = derp_map(region(1, relay))
    await alice.at_home(1, wanted)
    await bob.at_home(1, wanted)
    alice.relays.configure(CAROL, wanted)
    await alice.until(lambda: alice.relays.is_connected(1))
    alice.send(1, BOB.public, b"packet")
    await bob.until(lambda: bob.packets == [(1, CAROL.public, b"packet")])


async def test_relay_that_restarts(certificate: Certificate) -> None:
    async with AsyncExitStack() as stack, node(ALICE) as alice, node(BOB) as bob:
        relay = await stack.enter_async_context(running_relay(tls=certificate))
        port = relay.node.port
        await alice.at_home(1, derp_map(region(1, relay)))
        await bob.at_home(1, derp_map(region(1, relay)))
        async with talking(alice, bob, 1):
            await until_another(bob, SOON_S)
            await stack.aclose()
            await asyncio.sleep(0.8)
            async with running_relay(tls=certificate, port=port):
                await until_another(bob, SOON_S)


async def test_relay_that_was_away_for_long(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is home there comes back soon though it has nothing to send, and the problem is told meanwhile."""
    monkeypatch.setattr("meshnode.relays.PROBLEM_AFTER_S", 0.2)
    async with AsyncExitStack() as stack, node(ALICE) as alice:
        relay = await stack.enter_async_context(running_relay(tls=certificate))
        await alice.at_home(1, derp_map(region(1, relay)))
        await stack.aclose()
        problem = f'relay "r1": localhost:{relay.node.port} cannot be reached: Connection refused'
        await alice.until(lambda: alice.relays.failure() == problem)
        assert not alice.relays.is_connected(1)
        async with running_relay(tls=certificate, port=relay.node.port):
            await alice.until(lambda: alice.relays.is_connected(1), SOON_S)


async def test_two_machines_with_one_key(
    relay: RunningRelay, alice: Node, bob: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshnode.relays.PROBLEM_AFTER_S", 0.2)
    await alice.at_home(1, derp_map(region(1, relay)))
    await bob.at_home(1, derp_map(region(1, relay)))
    async with node(ALICE) as clone:
        await clone.at_home(1, derp_map(region(1, relay)))
        alice.send(1, BOB.public, b"I am alice")
        await alice.until(lambda: alice.relays.failure() != "")
        assert alice.relays.failure().startswith('relay "r1" says: another machine is connected')
    await alice.until(lambda: alice.relays.failure() == "")


async def test_relay_that_is_cut_off_and_back(relay: RunningRelay, alice: Node, bob: Node) -> None:
    """Nothing says so: no reset, no close. New connections get no answer either, for a while."""
    await alice.at_home(1, derp_map(region(1, relay)))
    await bob.at_home(1, derp_map(region(1, relay)))
    async with talking(alice, bob, 1), talking(bob, alice, 1):
        await until_another(bob, SOON_S)
        cut_off(relay)
        assert await alice.until(lambda: not alice.relays.is_connected(1)) < SOON_S
        await asyncio.sleep(2)
        reach_again(relay)
        await asyncio.gather(until_another(bob, SOON_S), until_another(alice, SOON_S))


async def test_the_other_relay_of_the_region(
    relay: RunningRelay, other_relay: RunningRelay, alice: Node, bob: Node
) -> None:
    await alice.at_home(1, derp_map(region(1, relay, other_relay)))
    await bob.at_home(1, derp_map(region(1, relay, other_relay)))
    async with talking(alice, bob, 1), talking(bob, alice, 1):
        await until_another(bob, SOON_S)
        cut_off(relay)
        await asyncio.sleep(0.1)  # what was under way has arrived
        await until_another(bob, SOON_S)
        assert len(other_relay.core.sessions) == 2


async def test_relay_of_the_region_that_accepts_and_says_nothing(certificate: Certificate) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with (
        await asyncio.start_server(say_nothing, "127.0.0.1", 0) as mute,
        running_relay(tls=certificate) as relay,
        node(ALICE) as alice,
    ):
        port = mute.sockets[0].getsockname()[1]
        alice.relays.configure(ALICE, derp_map(region(1, port, relay)))
        alice.relays.set_home(1)
        assert await alice.until(lambda: alice.relays.is_connected(1)) < SOON_S
        assert len(relay.core.sessions) == 1


async def test_proxy_that_takes_everything_and_forwards_nothing(certificate: Certificate) -> None:
    """TCP is content, so it takes longer; only the relay's answer tells."""
    is_stopped = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection("127.0.0.1", relay.node.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(4096):
                if not is_stopped.is_set():
                    sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, there), pump(there_reader, writer))
        writer.close()

    async with (
        running_relay(tls=certificate) as relay,
        await asyncio.start_server(serve, "127.0.0.1", 0) as proxy,
        node(ALICE) as alice,
        node(BOB) as bob,
    ):
        await alice.at_home(1, derp_map(region(1, proxy.sockets[0].getsockname()[1])))
        async with talking(alice, bob, 1):
            is_stopped.set()
            assert 3 < await alice.until(lambda: not alice.relays.is_connected(1)) < 4 + SOON_S
            is_stopped.clear()
            await alice.until(lambda: alice.relays.is_connected(1), SOON_S)


async def test_network_that_changed(
    relay: RunningRelay, alice: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    await alice.at_home(1, derp_map(region(1, relay)))
    alice.relays.network_changed()
    await asyncio.sleep(0.2)
    assert alice.relays.is_connected(1)
    assert alice.marked == 1
    monkeypatch.setattr("meshnode.relays.is_ours", lambda _: False)
    alice.relays.network_changed()
    await alice.until(lambda: not alice.relays.is_connected(1))
    await alice.until(lambda: alice.relays.is_connected(1), SOON_S)
    monkeypatch.setattr("meshnode.relays.is_ours", lambda _: True)
    cut_off(relay)
    alice.relays.network_changed()
    assert await alice.until(lambda: not alice.relays.is_connected(1)) < SOON_S
    reach_again(relay)
    alice.relays.network_changed()  # in the middle of an attempt
    await alice.until(lambda: alice.relays.is_connected(1), SOON_S)


def test_addresses_of_ours() -> None:
    assert is_ours(("127.0.0.1", 80))
    assert is_ours(("::1", 80, 0, 0))
    assert not is_ours(("192.0.2.1", 80))
    assert not is_ours(("2001:db8::1", 80, 0, 0))
