"""The coordinator behind an HTTP proxy, which is a real one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from meshnode.control.client import ControlClient
from meshnode.control.errors import Unreachable
from meshnode.control.server_url import ServerURL
from meshproto.capver import CURRENT_CAPABILITY_VERSION
from meshproto.keys import MachinePrivate, NodePrivate
from meshproto.messages import Hostinfo, RegisterRequest
from tests.derp.proxies import PASSWORD, running_proxy
from tests.meshnode.fakes import coordinator_in


def no_mark(own: socket.socket) -> None:
    """Tests need no privileges."""


def client_for(url: str) -> ControlClient:
    return ControlClient(
        ServerURL.parse(url), MachinePrivate.generate(os.urandom), mark=no_mark, entropy=os.urandom
    )


REQUEST = RegisterRequest(
    version=CURRENT_CAPABILITY_VERSION,
    node_key=NodePrivate.generate(os.urandom).public,
    hostinfo=Hostinfo(hostname="node", os="linux"),
)


async def test_login_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with coordinator_in(tmp_path) as coordinator, running_proxy(tmp_path) as proxy:
        authority = f"localhost:{coordinator.port}"
        client = client_for(f"http://{authority}")
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        response = await client.register(REQUEST)
        assert response.auth_url
        await client.close()
        assert proxy.connections_to(authority) == 2  # for the key, and for all that follows
        monkeypatch.setenv("NO_PROXY", "localhost")
        await client.register(REQUEST)
        await client.close()
        assert proxy.connections_to(authority) == 2


async def test_proxy_that_wants_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_proxy(tmp_path) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url.replace(PASSWORD, "wrong"))
        with pytest.raises(Unreachable) as raised:
            await client_for("https://vpn.example.org").register(REQUEST)
    assert str(raised.value) == (
        f"https://vpn.example.org cannot be reached: proxy 127.0.0.1:{proxy.port} answers 401 Unauthorized; "
        "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the daemon"
    )


async def test_setting_that_is_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://ana:secret@127.0.0.1:1080")
    with pytest.raises(Unreachable, match="is not a proxy we can use") as raised:
        await client_for("https://vpn.example.org").register(REQUEST)
    assert "secret" not in str(raised.value)
