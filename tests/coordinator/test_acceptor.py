"""Who comes to the public listener, with TLS and without, and who is up to no good."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any, cast

import pytest

from coordinator import acceptor as acceptor_module
from coordinator.acceptor import Acceptor
from coordinator.relay_certificate import CertificateMaker
from coordinator.relay_tls import server_context
from meshproto.keys import NodePrivate
from tests.derp.loops import on_both_loops

KEY = NodePrivate.generate(os.urandom)


class Echo(asyncio.Protocol):
    """Sends back what comes, in upper case if inside TLS."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._has_tls = transport.get_extra_info("sslcontext") is not None

    def data_received(self, data: bytes) -> None:
        self._transport.write(data.upper() if self._has_tls else data)


@asynccontextmanager
async def accepting(*, with_tls: bool = True, only_host: str = "") -> AsyncIterator[tuple[Acceptor, int]]:
    """An acceptor, and its port."""
    tls = server_context(CertificateMaker(KEY), KEY.public, only_host) if with_tls else None
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.setblocking(False)
        acceptor = Acceptor([listener], Echo, tls)
        try:
            yield acceptor, listener.getsockname()[1]
        finally:
            acceptor.close()


def anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def said(port: int, data: bytes, tls: ssl.SSLContext | None = None, **options: Any) -> bytes:
    """The answer to `data`; nothing when the connection is closed instead."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, **options)
        writer.write(data)
        try:
            return await reader.read(1000)
        except ConnectionError:
            return b""
        finally:
            writer.close()


@on_both_loops
async def test_with_tls_and_without_at_one_port() -> None:
    async with accepting() as (_, port):
        assert await said(port, b"plain") == b"plain"
        assert await said(port, b"tls", anybody()) == b"TLS"
        assert await said(port, b"p") == b"p"


async def shown(port: int, name: str) -> bytes:
    """The certificate, for who asks for `name`."""
    async with asyncio.timeout(10):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=anybody(), server_hostname=name)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


@on_both_loops
async def test_certificates_by_name() -> None:
    certificates = CertificateMaker(KEY)
    async with accepting() as (_, port):
        for name in ("vpn.example", "other.example", "127.0.0.1", "x" * 63 + ".example"):
            assert await shown(port, name) == certificates.certificate(name)
    async with accepting(only_host="vpn.example") as (_, port):
        assert await shown(port, "VPN.example") == certificates.certificate("vpn.example")
        assert await shown(port, "other.example") == certificates.certificate("127.0.0.1")


@on_both_loops
async def test_without_tls_of_ours_everything_is_passed_on() -> None:
    async with accepting(with_tls=False) as (_, port):
        assert await said(port, b"\x16\x03\x01") == b"\x16\x03\x01"


@on_both_loops
async def test_handshakes_that_fail_hurt_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async with accepting() as (_, port):
        await said(port, b"\x16\x03\x01\x00\x05nonsense")
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16")
        writer.close()
        assert await said(port, b"tls", anybody()) == b"TLS"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@on_both_loops
async def test_who_says_nothing_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor_module, "FIRST_BYTE_TIMEOUT_S", 0.1)
    async with accepting() as (acceptor, port):
        assert await said(port, b"") == b""
        assert not acceptor._silent


@on_both_loops
async def test_only_so_many_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor_module, "MAX_SILENT", 3)
    async with accepting() as (_, port), AsyncExitStack() as stack:
        for _number in range(3):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
        assert await said(port, b"") == b""


@on_both_loops
async def test_no_file_descriptor_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor_module, "PAUSE_S", 0.05)
    failures = [OSError(errno.EMFILE, "Too many open files")]

    class Listener(socket.socket):
        def accept(self) -> Any:
            if failures:
                raise failures.pop()
            return super().accept()

    with closing(Listener()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        acceptor = Acceptor([listener], Echo)
        try:
            assert await said(listener.getsockname()[1], b"after all") == b"after all"
        finally:
            acceptor.close()


@on_both_loops
async def test_after_closing_nobody_comes_in() -> None:
    async with accepting() as (acceptor, port):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.05)
        acceptor.close()
        assert not acceptor._silent
        reader, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(), 0.1)
        writer.close()
        other.close()
