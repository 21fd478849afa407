"""Relays behind an HTTP proxy, which is a real one, and the settings that say so."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from derp.client import Disconnected
from derp.client_core import Connected
from derp.errors import ProxyFailed
from derp.proxy import Proxy, from_environment
from derp.relay_node import RelayNode
from tests.derp.keys import ALICE, BOB
from tests.derp.proxies import PASSWORD, running_proxy
from tests.derp.relays import Certificate, running_client, running_relay


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def test_through_a_proxy(
    tls: Certificate | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running_relay(tls=tls) as relay, running_proxy(tmp_path) as proxy:
        monkeypatch.setenv("HTTPS_PROXY" if tls else "HTTP_PROXY", proxy.url)
        async with (
            running_client(relay.node, ALICE, tls=tls, use_proxy=True) as alice,
            running_client(relay.node, BOB, tls=tls, use_proxy=True) as bob,
        ):
            await alice.wait_for(Connected)
            await bob.wait_for(Connected)
            alice.send(bob, bytes(1280))
            assert await bob.wait_for_packets(1) == [bytes(1280)]
        assert proxy.connections_to(str(relay.node)) == 2
    assert PASSWORD not in caplog.text


async def reason_through(url: str, node: RelayNode, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("http_proxy", url)
    async with running_client(node, ALICE, use_proxy=True) as client:
        return (await client.wait_for(Disconnected)).reason


NOWHERE = RelayNode("relay.invalid", 80, uses_tls=False)


async def test_wrong_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_proxy(tmp_path) as proxy:
        url = proxy.url.replace(PASSWORD, "wrong")
        reason = await reason_through(url, NOWHERE, monkeypatch)
    assert reason == f"proxy 127.0.0.1:{proxy.port} answers 401 Unauthorized"


async def test_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_proxy(tmp_path) as proxy:
        reason = await reason_through(f"127.0.0.1:{proxy.port}", NOWHERE, monkeypatch)
    assert reason == f"proxy 127.0.0.1:{proxy.port} answers 407 Proxy Authentication Required"


async def test_proxy_that_cannot_reach_the_relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_proxy(tmp_path) as proxy:
        node = RelayNode("127.0.0.1", 1, uses_tls=False)
        reason = await reason_through(proxy.url, node, monkeypatch)
    assert reason == f"proxy 127.0.0.1:{proxy.port} answers 500 Unable to connect"


async def test_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = await reason_through("127.0.0.1:1", NOWHERE, monkeypatch)
    assert reason == "proxy 127.0.0.1:1 cannot be reached: Connection refused"


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"220 mail.example.org ESMTP\r\n\r\n", "does not answer in HTTP"),
        (b"", "does not answer in HTTP"),
        (b"x" * 20_000, "does not answer in HTTP"),
    ],
)
async def test_proxy_that_is_something_else(
    answer: bytes, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reason = await reason_through(f"127.0.0.1:{port}", NOWHERE, monkeypatch)
    assert reason == f"proxy 127.0.0.1:{port} {complaint}"


def test_which_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    assert from_environment("relay.example.org", 443, uses_tls=True) is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    assert from_environment("relay.example.org", 443, uses_tls=True) == Proxy("proxy.example.org", 3128)
    assert from_environment("relay.example.org", 80, uses_tls=False) is None
    monkeypatch.setenv("http_proxy", "other:1")
    assert from_environment("relay.example.org", 80, uses_tls=False) == Proxy("other", 1)


@pytest.mark.parametrize(
    ("no_proxy", "host", "is_exempt"),
    [
        (".example.org", "relay.example.org", True),
        ("other.org, example.org", "relay.example.org", True),
        ("example.org", "notexample.org", False),
        ("relay.example.org:443", "relay.example.org", True),
        ("relay.example.org:80", "relay.example.org", False),
        ("*", "relay.example.org", True),
        ("192.0.2.1", "192.0.2.1", True),
        ("10.0.0.0/8, 192.0.2.0/24", "192.0.2.1", True),
        ("10.0.0.0/8", "192.0.2.1", False),
        ("2001:db8::/32", "2001:db8::1", True),
        ("2001:db8::1", "2001:db8::1", True),
        ("2001:db8::/32", "192.0.2.1", False),
        ("10.0.0.0/99,,nonsense", "192.0.2.1", False),
    ],
)
def test_servers_that_need_no_proxy(
    no_proxy: str, host: str, is_exempt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.org:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (from_environment(host, 443, uses_tls=True) is None) is is_exempt


@pytest.mark.parametrize("url", ["socks5://127.0.0.1:1", "http://:80", "http://a:b", "http://u:secret@h:x"])
def test_proxies_that_we_cannot_use(url: str) -> None:
    with pytest.raises(ProxyFailed, match="is not a proxy we can use") as raised:
        Proxy.parse(url)
    assert "secret" not in str(raised.value)


def test_user_and_password_as_a_url_quotes_them() -> None:
    proxy = Proxy.parse("http://ana:s%20cret@proxy")
    assert proxy == Proxy("proxy", 80, "Basic YW5hOnMgY3JldA==")
    assert "YW5h" not in repr(proxy)
    assert str(proxy) == "proxy proxy:80"
