"""The responder on real sockets: both families, several addresses, noise, and the command line."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from click.testing import CliRunner

from stun.__main__ import main
from stun.messages import BindingResponse, TransportAddress, encode_binding_request, parse_response_untrusted
from stun.responder import AddressPair, Responder
from stun.server import CannotListen, StunServer
from tests.stun.malformed import malformed_datagrams


@contextmanager
def client_socket(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.bind((host, 0))
        yield client


@contextmanager
def serving(*addresses: TransportAddress, responder: Responder | None = None) -> Iterator[StunServer]:
    server = StunServer.open(addresses, responder or Responder())
    try:
        yield server
    finally:
        server.close()


def free_port() -> int:
    with client_socket() as probe:
        return int(probe.getsockname()[1])


async def ask(
    client: socket.socket, server: TransportAddress, *, change: bool = False
) -> tuple[BindingResponse, TransportAddress]:
    """One exchange, and where the answer came from."""
    loop = asyncio.get_running_loop()
    request = encode_binding_request(os.urandom(12), change_address=change, change_port=change)
    await loop.sock_sendto(client, request, tuple(server))
    datagram, source = await asyncio.wait_for(loop.sock_recvfrom(client, 2048), 10)
    response = parse_response_untrusted(datagram)
    assert isinstance(response, BindingResponse)
    return response, TransportAddress(*source[:2])


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until `condition`."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - the server has no event to wait for
            await asyncio.sleep(0)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_answer(host: str) -> None:
    with serving(TransportAddress(host, 0)) as server, client_socket(host) as client:
        response, source = await ask(client, server.addresses[0])
        assert response.mapped_address == TransportAddress(*client.getsockname()[:2])
        assert source == server.addresses[0]


@pytest.mark.parametrize("asked", ["127.0.0.1", "127.0.0.77"])
async def test_answer_comes_from_the_address_that_was_asked(asked: str) -> None:
    """Though the socket is bound to none."""
    with serving(TransportAddress("0.0.0.0", 0)) as server, client_socket() as client:
        target = TransportAddress(asked, server.addresses[0].port)
        _, source = await ask(client, target)
        assert source == target


async def test_both_families_on_one_port() -> None:
    port = free_port()
    with serving(TransportAddress("0.0.0.0", port), TransportAddress("::", port)) as server:
        for host in ("127.0.0.1", "::1"):
            with client_socket(host) as client:
                response, _ = await ask(client, TransportAddress(host, port))
                assert response.mapped_address.host == host
        assert server.responder.answers == {"ipv4": 1, "ipv6": 1}


async def test_answer_from_the_other_address_and_port() -> None:
    pair = AddressPair(TransportAddress("127.0.0.1", free_port()), TransportAddress("127.0.0.2", free_port()))
    with serving(*pair.endpoints(), responder=Responder((pair,))), client_socket() as client:
        response, source = await ask(client, pair.primary, change=True)
        assert source == pair.secondary == response.other_address == response.response_origin


async def test_twenty_thousand_malformed_datagrams_get_silence() -> None:
    with serving(TransportAddress("127.0.0.1", 0)) as server, client_socket() as client:

        def seen() -> int:
            return server.responder.drops.total() + server.kernel_drops

        def all_seen(number: int) -> bool:
            return seen() > number

        for number, datagram in enumerate(malformed_datagrams(20_000, random.Random(2))):
            client.sendto(datagram, server.addresses[0])
            if number % 50 == 49:  # not faster than it reads, or the kernel would drop some
                await until(partial(all_seen, number))
        with pytest.raises(BlockingIOError):
            client.recv(2048)
        response, _ = await ask(client, server.addresses[0])
        assert response.mapped_address == TransportAddress(*client.getsockname())
        assert seen() == 20_000


async def test_asker_who_is_gone_disturbs_nobody() -> None:
    """The kernel reports the unreachable port of an earlier answer on the next read."""
    with serving(TransportAddress("127.0.0.1", 0)) as server:
        for _ in range(3):
            with client_socket() as gone:
                gone.sendto(encode_binding_request(os.urandom(12)), server.addresses[0])
        with client_socket() as client:
            await ask(client, server.addresses[0])


async def test_port_in_use() -> None:
    with serving(TransportAddress("127.0.0.1", 0)) as server:
        first = TransportAddress("127.0.0.1", free_port())
        with pytest.raises(CannotListen, match="in use"):
            StunServer.open([first, *server.addresses], Responder())
        with serving(first):  # nothing was left behind
            pass


async def test_address_of_another_machine() -> None:
    with pytest.raises(CannotListen, match="not an address of this machine"):
        StunServer.open([TransportAddress("192.0.2.1", 0)], Responder())


def run_stun(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stun", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


async def test_program_answers_until_terminated() -> None:
    port = free_port()
    with run_stun("--listen", f"127.0.0.1:{port}", "--listen", f"[::1]:{port}") as program:
        assert program.stderr is not None
        assert f"listening on 127.0.0.1:{port}, [::1]:{port}" in program.stderr.readline()
        for host in ("127.0.0.1", "::1"):
            with client_socket(host) as client:
                await ask(client, TransportAddress(host, port))
        program.send_signal(signal.SIGTERM)
        assert "answered ipv4: 1, answered ipv6: 1" in program.stderr.read()
        assert program.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", "example.org"], "'example.org' is not an IP address"),
        (["--listen", "127.0.0.1:port"], "no port between 0 and 65535"),
        (["--listen", "192.0.2.1"], "192.0.2.1:3478 is not an address of this machine"),
        (["--alternate", "127.0.0.2:1"], "needs exactly one --listen"),
        (["--listen", "0.0.0.0", "--alternate", "127.0.0.2:1"], "needs exactly one --listen"),
        (["--listen", "127.0.0.1:1", "--alternate", "127.0.0.2:1"], "must differ in address and port"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert message in " ".join(result.stderr.split())
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)
