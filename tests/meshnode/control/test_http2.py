"""HTTP/2 over a stream: large answers, slow readers, broken connections. The server is h2 itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import h2.config
import h2.connection
import h2.events
import pytest

from meshnode.control.errors import ConnectionLost
from meshnode.control.http2 import WINDOW_SIZE, Http2Client


class Pipe:
    """One end of a two-way stream in memory."""

    def __init__(self, incoming: asyncio.Queue[bytes], outgoing: asyncio.Queue[bytes]) -> None:
        self.incoming = incoming
        self.outgoing = outgoing

    async def receive(self) -> bytes:
        return await self.incoming.get()

    async def send(self, data: bytes) -> None:
        self.outgoing.put_nowait(data)

    async def close(self) -> None:
        self.outgoing.put_nowait(b"")


class Server:
    """Answers each request as its path says."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.bodies: dict[int, bytes] = {}
        self.paths: dict[int, str] = {}
        self.resets: list[int] = []
        self.pending: dict[int, memoryview] = {}

    async def run(self) -> None:
        self.h2.initiate_connection()
        await self.flush()
        while data := await self.pipe.receive():
            for event in self.h2.receive_data(data):
                self.on_event(event)
            self.pump()
            await self.flush()

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            await self.pipe.send(data)

    def on_event(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            headers = {bytes(name).decode(): bytes(value).decode() for name, value in event.headers}
            self.paths[event.stream_id] = headers[":path"]
            self.bodies[event.stream_id] = b""
        elif isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] += event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.resets.append(event.stream_id)
            self.pending.pop(event.stream_id, None)
        elif isinstance(event, h2.events.StreamEnded):
            self.answer(event.stream_id, self.paths[event.stream_id])

    def answer(self, stream_id: int, path: str) -> None:
        if path == "/silent":
            return
        if path == "/reset":
            self.h2.reset_stream(stream_id)
            return
        if path == "/goaway":
            self.h2.close_connection()
            return
        status = {"/missing": "404", "/odd": "2x0"}.get(path, "200")
        extra = [(b"x", b"\xc5")] if path == "/no-text" else []
        self.h2.send_headers(stream_id, [(":status", status), *extra])
        if path.startswith("/size/"):
            self.pending[stream_id] = memoryview(bytes(int(path.removeprefix("/size/"))))
        elif path == "/endless":
            self.pending[stream_id] = memoryview(bytes(10**8))
        elif path == "/open":
            self.h2.send_data(stream_id, self.bodies[stream_id])
        else:
            self.pending[stream_id] = memoryview(self.bodies[stream_id])

    def pump(self) -> None:
        """Send what the windows allow."""
        for stream_id, data in list(self.pending.items()):
            while data and (size := min(self.h2.local_flow_control_window(stream_id), 16384, len(data))):
                self.h2.send_data(stream_id, bytes(data[:size]))
                data = data[size:]
            self.pending[stream_id] = data
            if not data:
                self.h2.end_stream(stream_id)
                del self.pending[stream_id]


@pytest.fixture
async def pair() -> AsyncIterator[tuple[Http2Client, Server]]:
    one, other = asyncio.Queue[bytes](), asyncio.Queue[bytes]()
    server = Server(Pipe(one, other))
    task = asyncio.create_task(server.run())
    client = Http2Client(Pipe(other, one), "vpn.example.org")
    await client.start()
    yield client, server
    await client.close()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_request_and_its_answer(pair: tuple[Http2Client, Server]) -> None:
    client, _ = pair
    response = await client.request("POST", "/echo", b"hello")
    assert response.status == 200
    assert await response.read(100) == b"hello"
    missing = await client.request("POST", "/missing", b"")
    assert missing.status == 404


@pytest.mark.parametrize("path", ["/no-text", "/odd"])
async def test_a_head_that_makes_no_sense_is_no_answer(pair: tuple[Http2Client, Server], path: str) -> None:
    client, _ = pair
    with pytest.raises(ConnectionLost):
        await asyncio.wait_for(client.request("POST", path, b""), 5)


async def test_many_requests_at_once(pair: tuple[Http2Client, Server]) -> None:
    client, _ = pair

    async def ask(number: int) -> bytes:
        response = await client.request("POST", "/echo", b"%d" % number)
        return await response.read(100)

    answers = await asyncio.gather(*(ask(number) for number in range(50)))
    assert answers == [b"%d" % number for number in range(50)]


@pytest.mark.parametrize("size", [65_535, 65_536, 3 * WINDOW_SIZE])
async def test_an_answer_of_any_size_flows(pair: tuple[Http2Client, Server], size: int) -> None:
    client, _ = pair
    response = await client.request("POST", f"/size/{size}", b"")
    assert len(await response.read(size)) == size


async def test_a_request_larger_than_the_window_waits_for_it(pair: tuple[Http2Client, Server]) -> None:
    client, _ = pair
    body = bytes(300_000)
    response = await client.request("POST", "/echo", body)
    assert await response.read(len(body)) == body


async def test_a_slow_reader_holds_back_only_its_own_stream(pair: tuple[Http2Client, Server]) -> None:
    client, server = pair
    slow = await client.request("POST", "/endless", b"")
    await asyncio.sleep(0.1)
    assert 0 < 10**8 - len(server.pending[1]) <= WINDOW_SIZE + 65_535
    quick = await client.request("POST", "/echo", b"quick")
    assert await quick.read(10) == b"quick"
    await slow.cancel()


async def test_an_answer_beyond_the_limit_is_given_up(pair: tuple[Http2Client, Server]) -> None:
    client, server = pair
    response = await client.request("POST", "/endless", b"")
    with pytest.raises(ConnectionLost, match="more than 1000 bytes"):
        await response.read(1000)
    again = await client.request("POST", "/echo", b"x")
    assert await again.read(10) == b"x"
    assert server.resets == [1]


async def test_giving_up_a_request_tells_the_server(pair: tuple[Http2Client, Server]) -> None:
    client, server = pair
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.request("POST", "/silent", b"")
    await (await client.request("POST", "/echo", b"")).read(1)
    assert server.resets == [1]


@pytest.mark.parametrize("path", ["/reset", "/goaway"])
async def test_a_request_that_the_server_gives_up(pair: tuple[Http2Client, Server], path: str) -> None:
    client, _ = pair
    with pytest.raises(ConnectionLost):
        await client.request("POST", path, b"")
    assert client.is_open is (path == "/reset")


async def test_a_broken_connection_ends_every_answer(pair: tuple[Http2Client, Server]) -> None:
    client, server = pair
    response = await client.request("POST", "/open", b"begin")
    assert await anext(response) == b"begin"
    await server.pipe.close()
    with pytest.raises(ConnectionLost):
        await anext(response)
    with pytest.raises(ConnectionLost):
        await anext(response)
    assert not client.is_open
    with pytest.raises(ConnectionLost):
        await client.request("POST", "/echo", b"")


async def test_what_is_no_http2_ends_the_connection() -> None:
    one, other = asyncio.Queue[bytes](), asyncio.Queue[bytes]()
    client = Http2Client(Pipe(other, one), "vpn.example.org")
    await client.start()
    other.put_nowait(bytes(9))  # a DATA frame of no stream
    with pytest.raises(ConnectionLost):
        await client.request("POST", "/echo", b"")
    await client.close()


async def test_closing_ends_a_waiting_request(pair: tuple[Http2Client, Server]) -> None:
    client, _ = pair
    waiting = asyncio.create_task(client.request("POST", "/silent", b""))
    await asyncio.sleep(0.02)
    await client.close()
    with pytest.raises(ConnectionLost):
        await waiting
