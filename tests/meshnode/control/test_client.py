"""The client against a real coordinator, and against everything that is none."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from coordinator.app import Coordinator
from meshnode.control import dial as dial_module
from meshnode.control import login, noise_stream
from meshnode.control.client import ControlClient
from meshnode.control.errors import (
    ConnectionLost,
    ControlError,
    HandshakeFailed,
    NodeUnknown,
    NotACoordinator,
    ServerTooOld,
    TlsFailure,
    Unreachable,
)
from meshnode.control.server_url import ServerURL
from meshproto.capver import CURRENT_CAPABILITY_VERSION
from meshproto.keys import MachinePrivate, NodePrivate
from meshproto.messages import COMPRESS_ZSTD, Hostinfo, MapRequest, MapResponse
from meshproto.noise import error_frame
from tests.meshnode.control.servers import (
    Conversation,
    answering,
    closing,
    http,
    make_certificate,
    serving,
    silent,
)
from tests.meshnode.fakes import coordinator_in

HOSTINFO = Hostinfo(hostname="node", os="linux")


def no_mark(own: socket.socket) -> None:
    """Tests need no privileges."""


def client_for(url: str, **options: object) -> ControlClient:
    return ControlClient(
        ServerURL.parse(url),
        MachinePrivate.generate(os.urandom),
        mark=no_mark,
        entropy=os.urandom,
        **options,  # type: ignore[arg-type]
    )


@pytest.fixture
async def coordinator(tmp_path: Path) -> AsyncIterator[Coordinator]:
    async with coordinator_in(tmp_path) as coordinator:
        await coordinator.state.create_user("ana")
        yield coordinator


async def key_of(coordinator: Coordinator) -> str:
    (user,) = coordinator.state.snapshot.users.values()
    _, secret = await coordinator.state.create_pre_auth_key(user.id, False, False, None, ())
    return str(secret)


async def logged_in(coordinator: Coordinator, **options: object) -> tuple[ControlClient, NodePrivate]:
    """A client whose node has registered."""
    client = client_for(f"http://127.0.0.1:{coordinator.port}", **options)
    attempt = login.fresh(None, await key_of(coordinator), os.urandom)
    response = await client.register(login.register_request(attempt, HOSTINFO))
    assert response.error == ""
    return client, attempt.node_key


def map_request(node_key: NodePrivate, **fields: object) -> MapRequest:
    return MapRequest(
        version=CURRENT_CAPABILITY_VERSION,
        compress=COMPRESS_ZSTD,
        node_key=node_key.public,
        hostinfo=HOSTINFO,
        **fields,  # type: ignore[arg-type]
    )


async def until_it_ends(stream: AsyncIterator[MapResponse]) -> None:
    async for _ in stream:
        pass


async def test_register_poll_and_update(coordinator: Coordinator) -> None:
    client, node_key = await logged_in(coordinator)
    stream = client.poll(map_request(node_key, stream=True))
    first = await anext(stream)
    assert first.node is not None
    assert first.node.key == node_key.public
    await client.update(map_request(node_key, omit_peers=True))
    other, _ = await logged_in(coordinator)
    async with asyncio.timeout(10):
        changed = await anext(stream)
    assert len(changed.peers_changed) == 1
    await stream.aclose()
    await client.close()
    await other.close()


async def test_without_compression_too(coordinator: Coordinator) -> None:
    client, node_key = await logged_in(coordinator)
    stream = client.poll(MapRequest(version=130, node_key=node_key.public, hostinfo=HOSTINFO, stream=True))
    assert (await anext(stream)).node is not None
    await stream.aclose()
    await client.close()


async def test_a_node_that_is_not_known(coordinator: Coordinator) -> None:
    client = client_for(f"http://127.0.0.1:{coordinator.port}")
    with pytest.raises(NodeUnknown):
        await anext(client.poll(map_request(NodePrivate.generate(os.urandom), stream=True)))
    with pytest.raises(NodeUnknown):
        await client.update(map_request(NodePrivate.generate(os.urandom), omit_peers=True))
    await client.close()


async def test_silence_ends_a_poll(coordinator: Coordinator) -> None:
    client, node_key = await logged_in(coordinator, watchdog_s=0.3)
    with pytest.raises(ConnectionLost, match="silent"):
        async for _ in client.poll(map_request(node_key, stream=True)):
            pass
    await client.close()


async def test_a_coordinator_that_ends_breaks_the_poll_and_is_found_again(tmp_path: Path) -> None:
    async with coordinator_in(tmp_path) as first:
        await first.state.create_user("ana")
        port = first.port
        client, node_key = await logged_in(first)
        stream = client.poll(map_request(node_key, stream=True))
        await anext(stream)
    with pytest.raises(ConnectionLost):
        await until_it_ends(stream)
    with pytest.raises(Unreachable, match="refused"):
        await anext(client.poll(map_request(node_key, stream=True)))
    async with coordinator_in(tmp_path, port):
        stream = client.poll(map_request(node_key, stream=True))
        assert (await anext(stream)).node is not None
        await stream.aclose()
        await client.close()


async def test_a_coordinator_with_a_new_key_is_found_again(tmp_path: Path) -> None:
    async with coordinator_in(tmp_path) as first:
        await first.state.create_user("ana")
        port = first.port
        client, node_key = await logged_in(first)
        await client.close()
    (tmp_path / "state" / "noise_private.key").unlink()
    async with coordinator_in(tmp_path, port):
        with pytest.raises(ControlError):
            await client.update(map_request(node_key, omit_peers=True))
        await client.update(map_request(node_key, omit_peers=True))
        await client.close()


async def test_a_connection_is_left_when_its_address_has_gone(coordinator: Coordinator) -> None:
    client, node_key = await logged_in(coordinator)
    await client.forsake(["192.0.2.1"])  # from loopback: stays
    await client.update(map_request(node_key, omit_peers=True))
    client._local_host = "192.0.2.9"
    stream = client.poll(map_request(node_key, stream=True))
    await anext(stream)
    await client.forsake(["192.0.2.1", "192.0.2.9"])
    await client.forsake(["192.0.2.1"])
    with pytest.raises(ConnectionLost):
        await until_it_ends(stream)


# Everything that is no coordinator.


async def complaint(
    conversation: Conversation, scheme: str = "http", tls: ssl.SSLContext | None = None
) -> ControlError:
    """What a registration there ends with."""
    async with serving(conversation, tls) as port:
        client = client_for(f"{scheme}://127.0.0.1:{port}")
        request = login.register_request(login.fresh(None, "", os.urandom), HOSTINFO)
        with pytest.raises(ControlError) as raised:
            await client.register(request)
        await client.close()
        assert f"127.0.0.1:{port}" in str(raised.value)
        assert "\n" not in str(raised.value)
        return raised.value


KEY_ANSWER = http("200 OK", f'{{"publicKey":"{MachinePrivate.generate(os.urandom).public}"}}')
PAGE = http("200 OK", "<html>welcome", "Content-Type: text/html")


def after_the_key(answer: bytes) -> Conversation:
    """A real `/key`, and this answer to the upgrade."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(KEY_ANSWER if request.startswith(b"GET /key") else answer)
        await writer.drain()

    return talk


SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade\r\n\r\n"
)


@pytest.mark.parametrize(
    ("conversation", "kind", "says"),
    [
        (answering(PAGE), NotACoordinator, "a web page"),
        (answering(http("404 Not Found", "no")), NotACoordinator, "404"),
        (
            answering(http("302 Found", "", "Location: https://elsewhere.example/")),
            NotACoordinator,
            "elsewhere",
        ),
        (answering(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), NotACoordinator, "other than HTTP"),
        (answering(http("200 OK", "0" * 64)), ServerTooOld, "upgrade"),
        (closing, NotACoordinator, "a closed connection"),
        (after_the_key(PAGE), NotACoordinator, "/ts2021"),
        (after_the_key(http("500 Internal Server Error", "")), NotACoordinator, "proxy"),
        (
            after_the_key(SWITCH.replace(b"tailscale-control-protocol", b"websocket")),
            NotACoordinator,
            "another protocol",
        ),
        (after_the_key(SWITCH), ServerTooOld, "version"),
        (after_the_key(SWITCH + error_frame("no thanks")), HandshakeFailed, "no thanks"),
        (after_the_key(SWITCH + bytes(51)), HandshakeFailed, "handshake"),
        (after_the_key(SWITCH + b"\x02\x00\x30" + bytes(48)), HandshakeFailed, "handshake"),
    ],
)
async def test_what_is_no_coordinator(
    conversation: Conversation, kind: type[ControlError], says: str
) -> None:
    error = await complaint(conversation)
    assert type(error) is kind
    assert says in str(error)


async def test_nobody_listens() -> None:
    client = client_for("http://127.0.0.1:1")
    with pytest.raises(Unreachable, match="refused"):
        await client.register(login.register_request(login.fresh(None, "", os.urandom), HOSTINFO))


async def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    client = client_for("https://no-such-host.example")
    with pytest.raises(Unreachable, match=r"no-such-host\.example"):
        await client.register(login.register_request(login.fresh(None, "", os.urandom), HOSTINFO))


async def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_stream, "ANSWER_TIMEOUT_S", 0.2)
    assert "did not answer" in str(await complaint(silent))


async def test_tls_on_a_port_without(monkeypatch: pytest.MonkeyPatch) -> None:
    error = await complaint(answering(PAGE), scheme="https")
    assert isinstance(error, (TlsFailure, Unreachable))


async def test_a_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    context, _ = make_certificate(tmp_path)
    error = await complaint(answering(PAGE), scheme="https", tls=context)
    assert type(error) is TlsFailure
    assert "SSL_CERT_FILE" in str(error)


async def test_a_certificate_of_an_authority_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, certificate = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    error = await complaint(answering(PAGE), scheme="https", tls=context)
    assert type(error) is NotACoordinator


async def test_the_next_address_is_tried_when_one_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("derp.connect.NEXT_ADDRESS_AFTER_S", 0.05)
    async with serving(closing) as port:
        tried: list[str] = []

        def mark(own: socket.socket) -> None:
            tried.append(own.family.name)

        async def addresses(*_: object, **__: object) -> list[object]:
            # The first leads nowhere: it is reserved for documentation.
            return [
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port)),
                (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            ]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", addresses)
        _, writer = await dial_module.dial(ServerURL("http", "two.example", port), mark)
        assert writer.get_extra_info("peername") == ("127.0.0.1", port)
        assert tried == ["AF_INET", "AF_INET"]
        writer.close()
