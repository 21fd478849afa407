"""`python -m derp` as its user starts it."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from click.testing import CliRunner

from derp.app import CannotStart, read_rate_file
from derp.cli import main
from derp.client import Disconnected
from derp.client_core import Restarting
from derp.keyfile import load_or_create
from derp.relay_node import RelayNode
from derp.server_core import Limits
from tests.derp.keys import ALICE, BOB, MESH_KEY
from tests.derp.relays import PATIENCE_S, Certificate, connected_client, running_client


class Program:
    """A running relay and its log."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.log = ""

    async def wait_for_line(self, pattern: str) -> re.Match[str]:
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while not (found := re.search(pattern, self.log)):
                line = await self.process.stderr.readline()
                assert line, self.log
                self.log += line.decode()
        return found

    async def node(self, *, uses_tls: bool = False) -> RelayNode:
        found = await self.wait_for_line(r"relaying on \S+:(\d+)")
        return RelayNode("localhost", int(found[1]), uses_tls=uses_tls, ipv6="none")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status; the rest of its log is read."""
        self.process.send_signal(number)
        _, rest = await asyncio.wait_for(self.process.communicate(), PATIENCE_S)
        self.log += rest.decode()
        assert self.process.returncode is not None
        return self.process.returncode


@asynccontextmanager
async def running(*arguments: str | Path) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "derp", *map(str, arguments), stderr=asyncio.subprocess.PIPE
    )
    program = Program(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "derper.key"


async def test_relay_in_clear(key_file: Path) -> None:
    arguments = ("--listen", "127.0.0.1:0", "--key-file", key_file)
    async with running(*arguments) as program:
        node = await program.node()
        async with connected_client(node, ALICE) as alice, connected_client(node, BOB) as bob:
            alice.send(bob, b"packet")
            assert await bob.wait_for_packets(1) == [b"packet"]
            assert await program.stop() == 0
            assert await alice.wait_for(Restarting)
            assert await alice.wait_for(Disconnected)
    assert program.log.endswith("stopped\n")
    assert load_or_create(key_file).public


async def test_relay_with_tls(key_file: Path, certificate: Certificate, tmp_path: Path) -> None:
    chain, key = tmp_path / "relay.crt", tmp_path / "relay.key"
    chain.write_bytes(certificate.chain.read_bytes())
    key.write_bytes(certificate.key.read_bytes())
    arguments = ("--certificate", chain, "--certificate-key", key, "--key-file", key_file)
    async with running("--listen", "127.0.0.1:0", *arguments) as program:
        node = await program.node(uses_tls=True)
        async with connected_client(node, ALICE, tls=certificate):
            pass
        chain.write_text("garbage")
        program.process.send_signal(signal.SIGHUP)
        await program.wait_for_line("ERROR reload: .* are no certificate with its key")
        async with connected_client(node, ALICE, tls=certificate):
            pass
        directory = tmp_path / "renewed"
        directory.mkdir()
        renewed = Certificate.make(directory, is_ed25519=True)  # of another type, which OpenSSL keeps apart
        chain.write_bytes(renewed.chain.read_bytes())
        key.write_bytes(renewed.key.read_bytes())
        program.process.send_signal(signal.SIGHUP)
        await program.wait_for_line("INFO reloaded")
        async with connected_client(node, ALICE, tls=renewed):
            pass
        assert await program.stop(signal.SIGINT) == 0


async def test_pages_and_figures(key_file: Path) -> None:
    arguments = ("--metrics", "127.0.0.1:0", "--plain-http", "127.0.0.1:0", "--key-file", key_file)
    async with running("--listen", "127.0.0.1:0", *arguments) as program, aiohttp.ClientSession() as session:
        node = await program.node()
        plain = await program.wait_for_line(r"checks for captive portals on \S+:(\d+)")
        metrics = await program.wait_for_line(r"figures on \S+:(\d+)")
        async with session.get(f"http://localhost:{node.port}/") as response:
            assert "DERP relay" in await response.text()
            assert "Server" not in response.headers
        async with session.get(f"http://localhost:{node.port}/robots.txt") as response:
            assert await response.text() == "User-agent: *\nDisallow: /\n"
        async with session.get(f"http://127.0.0.1:{plain[1]}/generate_204") as response:
            assert response.status == 204
        async with session.get(f"http://127.0.0.1:{plain[1]}/a?b=c", allow_redirects=False) as response:
            assert response.headers["Location"] == "https://127.0.0.1/a?b=c"
        async with session.get(f"http://127.0.0.1:{metrics[1]}/metrics") as response:
            assert "derp_accepts_total 0\n" in await response.text()


async def test_two_relays_of_a_region(tmp_path: Path) -> None:
    mesh_key = tmp_path / "mesh.key"
    mesh_key.write_text(MESH_KEY.hex() + "\n")
    shared = ("--listen", "127.0.0.1:0", "--mesh-key-file", mesh_key)
    async with running(*shared, "--key-file", tmp_path / "1.key") as first:
        node = await first.node()
        arguments = ("--key-file", tmp_path / "2.key", "--mesh-with", f"http://127.0.0.1:{node.port}")
        async with running(*shared, *arguments) as second:
            await second.wait_for_line("linked to 127.0.0.1")
            async with (
                connected_client(node, BOB) as bob,
                connected_client(await second.node(), ALICE) as alice,
            ):
                async with asyncio.timeout(PATIENCE_S):
                    while not bob.packets:
                        alice.send(bob, b"packet")  # until the second relay has heard of bob
                        await asyncio.sleep(0.02)
            assert await second.stop() == 0
        assert await first.stop() == 0


async def test_verification_that_fails_closed(key_file: Path) -> None:
    arguments = ("--verify-url", "http://127.0.0.1:1/verify", "--verify-fail-closed", "--key-file", key_file)
    async with running("--listen", "127.0.0.1:0", *arguments) as program:
        async with running_client(await program.node(), ALICE) as alice:
            await alice.wait_for(Disconnected)
        await program.wait_for_line("does not answer .*; refusing the client")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--listen", "relay:443"], "'relay:443' is not an IP address and port"),
        (["--listen", "127.0.0.1"], "no port between 0 and 65535"),
        (["--listen", "192.0.2.1:1"], "192.0.2.1:1 is not an address of this machine"),
        (["--certificate", "x"], "--certificate and --certificate-key belong together"),
        (["--certificate", "/x", "--certificate-key", "/y"], "cannot read the certificate"),
        (["--mesh-with", "relay"], "--mesh-with needs --mesh-key-file"),
        (["--mesh-key-file", "/nowhere"], "cannot use the mesh key in /nowhere"),
        (["--rate-file", "/nowhere"], "cannot use the rate file /nowhere"),
        (["--mesh-with", "ftp://relay"], "is not a relay"),
        (["--key-file", "/dev/null"], "/dev/null is not a key file of a relay"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, key_file: Path) -> None:
    line = ["--key-file", str(key_file), "--listen", "127.0.0.1:0", *arguments]
    result = CliRunner().invoke(main, line)
    assert message in " ".join(result.stderr.split())
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)


async def test_port_in_use(key_file: Path) -> None:
    arguments = ("--key-file", key_file, "--listen")
    async with running(*arguments, "127.0.0.1:0") as first:
        node = await first.node()
        async with running(*arguments, f"127.0.0.1:{node.port}") as second:
            _, error = await asyncio.wait_for(second.process.communicate(), PATIENCE_S)
    assert "is in use by another program" in error.decode()
    assert second.process.returncode == 1


def test_rate_file_of_tailscales_relay(tmp_path: Path) -> None:
    path = tmp_path / "rates.json"
    path.write_text('{"PerClientRateLimitBytesPerSec": 1000, "PerClientRateBurstBytes": 2000}')
    limits = Limits(write_timeout_s=3)
    assert read_rate_file(path, limits) == Limits(1000, 2000, write_timeout_s=3)
    path.write_text(json.dumps({}))
    assert read_rate_file(path, limits) == limits
    for wrong in ("", "[]", '{"PerClientRateLimitBytesPerSec": "fast"}', '{"PerClientRateBurstBytes": -1}'):
        path.write_text(wrong)
        with pytest.raises(CannotStart, match="cannot use the rate file"):
            read_rate_file(path, limits)


async def test_rates_are_read_again(key_file: Path, tmp_path: Path) -> None:
    rates = tmp_path / "rates.json"
    rates.write_text("{}")
    arguments = ("--listen", "127.0.0.1:0", "--key-file", key_file, "--rate-file", rates)
    async with running(*arguments) as program:
        node = await program.node()
        async with connected_client(node, ALICE) as alice, connected_client(node, BOB) as bob:
            rates.write_text('{"PerClientRateLimitBytesPerSec": 200000}')
            program.process.send_signal(signal.SIGHUP)
            await program.wait_for_line("INFO reloaded")
            started = asyncio.get_running_loop().time()
            for _ in range(4):
                alice.send(bob, bytes(60_000))
            await bob.wait_for_packets(4)
            assert asyncio.get_running_loop().time() - started > 0.3
