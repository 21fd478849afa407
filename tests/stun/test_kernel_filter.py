"""What the kernel drops for us, and what it must not."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from stun import kernel_filter
from stun.messages import MalformedMessage, MessageType, encode_binding_request, parse_request_untrusted
from stun.socket_drops import dropped
from tests.stun import vectors
from tests.stun.malformed import malformed_datagrams
from tests.stun.test_responder import GENERIC, old_request


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's socket, and a filtered one that it is connected to."""
    with ExitStack() as stack:
        client, server = (
            stack.enter_context(socket.socket(request.param, socket.SOCK_DGRAM)) for _ in range(2)
        )
        server.bind(("::1" if request.param == socket.AF_INET6 else "127.0.0.1", 0))
        kernel_filter.attach(server)
        server.setblocking(False)
        client.connect(server.getsockname())
        yield client, server


def passes(client: socket.socket, server: socket.socket, datagram: bytes) -> bool:
    client.send(datagram)
    try:
        return server.recv(2048) == datagram
    except BlockingIOError:
        return False


def may_be_answered(datagram: bytes) -> bool:
    try:
        return parse_request_untrusted(datagram).message_type == MessageType.BINDING_REQUEST
    except MalformedMessage:
        return False


@pytest.mark.parametrize(
    "datagram",
    [vectors.REQUEST, GENERIC, old_request(2), encode_binding_request(bytes(12), change_port=True)],
)
def test_requests_pass(pair: tuple[socket.socket, socket.socket], datagram: bytes) -> None:
    assert passes(*pair, datagram)
    assert dropped(pair[1]) == 0


def test_nothing_that_could_be_answered_is_dropped(pair: tuple[socket.socket, socket.socket]) -> None:
    count = 0
    for datagram in malformed_datagrams(2000, random.Random(3)):
        passed = passes(*pair, datagram)
        assert passed or not may_be_answered(datagram)
        count += not passed
    assert dropped(pair[1]) == count > 1000


@pytest.mark.parametrize("size", [0, 1, 3, 19, 20, 1280])
def test_noise_of_any_size_is_dropped(pair: tuple[socket.socket, socket.socket], size: int) -> None:
    assert not passes(*pair, bytes(size))
    assert not passes(*pair, b"\4\0\0\0" + bytes(size))
    assert dropped(pair[1]) == 2
