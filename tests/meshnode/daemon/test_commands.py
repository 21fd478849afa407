"""`ping`, `debug`, `metrics` and `status` against a daemon's socket: what is printed, and the exit status."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from coordinator.app import Coordinator
from meshnode import __version__
from meshnode.cli import ping as ping_command
from meshnode.cli.main import run
from meshnode.dataplane import KERNEL, WHY_PURE, DropReason
from meshnode.diagnostics import Diagnostics
from meshnode.disco.destinations import DerpDestination, Destination
from meshnode.disco.events import DiscoDrop, PongReceived
from meshnode.disco.status import PathStatus, RelayReason
from meshnode.localapi import LocalAPI, bind_socket
from meshnode.status import Counters, Traffic
from meshnode.tsmp import Tsmp
from meshproto.addresses import AddrPort
from meshproto.keys import NodePublic
from tests.meshnode.daemon.conftest import NodeMaker, TestNode, join, wait_until

DIRECT = AddrPort("203.0.113.7", 41641)
NOWHERE = 32767
"""A DERP region that no map has."""


@dataclass
class Shell:
    """A command line on the host of node "one", which has a peer "nas"."""

    node: TestNode
    socket: Path
    peer: NodePublic
    captured: pytest.CaptureFixture[str]

    async def type(self, *words: str) -> tuple[int, str, str]:
        """Exit status, output and errors of `meshnode WORDS`."""
        self.captured.readouterr()
        status = await asyncio.to_thread(run, [*words, f"--socket={self.socket}"])
        printed = self.captured.readouterr()
        return status, printed.out, printed.err

    def answers_over(self, *ways: Destination | None) -> None:
        """What pings of the peer meet, one after the other, the last one for ever. None is silence."""
        pongs = [way and PongReceived(self.peer, bytes(12), way, 0.0123, DIRECT) for way in ways]

        async def answer(peer: NodePublic, size: int = 0) -> PongReceived:
            assert peer == self.peer
            pong = pongs.pop(0) if len(pongs) > 1 else pongs[0]
            if pong is None:
                raise TimeoutError
            return pong

        self.node.tunnel.ping = answer  # type: ignore[method-assign]


@pytest.fixture
async def shell(
    start_node: NodeMaker,
    coordinator: Coordinator,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Shell]:
    monkeypatch.setattr(ping_command, "PAUSE_S", 0.0)
    one, nas = await start_node("one"), await start_node("nas")
    await join(one, coordinator, "one")
    await join(nas, coordinator, "nas")
    await wait_until(lambda: len(one.backend.wireguard_peers) == 1)
    (peer,) = one.backend.wireguard_peers
    await wait_until(lambda: one.backend.status()["Peer"][str(peer.public_key)]["Online"])
    path = tmp_path / "run" / "meshnode.sock"
    diagnostics = Diagnostics(one.backend, one.tunnel, Tsmp("lo", os.urandom), "lo")
    api = LocalAPI(one.backend, diagnostics, lambda: None)
    await api.serve(bind_socket(path), path)
    yield Shell(one, path, peer.public_key, capsys)
    one.backend.bus.close()
    await api.close()


async def test_pings_until_the_path_is_direct(shell: Shell) -> None:
    relay = DerpDestination(NOWHERE, shell.peer)
    shell.answers_over(None, relay, DIRECT)
    assert await shell.type("ping", "nas") == (
        0,
        'ping "100.64.0.2" timed out\n'
        "pong from nas (100.64.0.2) via DERP(32767) in 12ms\n"
        "pong from nas (100.64.0.2) via 203.0.113.7:41641 in 12ms\n",
        "",
    )


async def test_what_a_peer_is_called(shell: Shell) -> None:
    shell.answers_over(DIRECT)
    full_name = shell.node.backend.status()["Peer"][str(shell.peer)]["DNSName"]
    for target in ("nas", "NAS", full_name, full_name.rstrip("."), "100.64.0.2", "fd7a:115c:a1e0::2"):
        status, out, _ = await shell.type("ping", "-c", "1", target)
        assert (status, out) == (0, "pong from nas (100.64.0.2) via 203.0.113.7:41641 in 12ms\n")


async def test_a_path_that_never_gets_direct(shell: Shell) -> None:
    shell.answers_over(DerpDestination(NOWHERE, shell.peer))
    line = "pong from nas (100.64.0.2) via DERP(32767) in 12ms\n"
    status, out, err = await shell.type("ping", "-c", "3", "nas")
    assert (status, out) == (1, 3 * line)
    assert err == "meshnode: direct connection not established; see: meshnode debug paths nas\n"
    assert await shell.type("ping", "-c", "2", "--until-direct=false", "nas") == (0, 2 * line, "")


async def test_a_direct_path_can_be_pinged_on(shell: Shell) -> None:
    shell.answers_over(DIRECT)
    status, out, _ = await shell.type("ping", "-c", "2", "--until-direct=false", "nas")
    assert (status, out.count("pong from")) == (0, 2)


async def test_silence(shell: Shell) -> None:
    shell.answers_over(None)
    status, out, err = await shell.type("ping", "-c", "2", "nas")
    assert (status, out, err) == (1, 2 * 'ping "100.64.0.2" timed out\n', "meshnode: no reply\n")


async def test_a_short_patience(shell: Shell) -> None:
    async def never(peer: NodePublic, size: int = 0) -> PongReceived:
        await asyncio.sleep(1)
        raise TimeoutError

    shell.node.tunnel.ping = never  # type: ignore[method-assign]
    status, out, _ = await shell.type("ping", "-c", "1", "--timeout=50ms", "nas")
    assert (status, out) == (1, 'ping "100.64.0.2" timed out\n')


async def test_answers_for_programs(shell: Shell) -> None:
    shell.answers_over(None, DIRECT)
    status, out, _ = await shell.type("ping", "--json", "nas")
    first, second = map(json.loads, out.splitlines())
    assert status == 0
    assert first == {"IP": "100.64.0.2", "Err": "timed out"}
    assert second["Endpoint"] == "203.0.113.7:41641"


async def test_the_verbose_one_says_what_the_name_stands_for(shell: Shell) -> None:
    shell.answers_over(DIRECT)
    assert (await shell.type("ping", "--verbose", "nas"))[2] == 'lookup "nas" => "100.64.0.2"\n'


async def test_ourselves(shell: Shell) -> None:
    for target in ("one", "100.64.0.1"):
        assert await shell.type("ping", target) == (0, "100.64.0.1 is local Tailscale IP\n", "")


async def test_what_cannot_be_pinged(shell: Shell) -> None:
    for words, status, says in (
        (["no-such-peer.invalid"], 1, 'no node "no-such-peer.invalid" in this network'),
        (["100.64.0.77"], 1, "no peer has the address 100.64.0.77"),
        (["--tsmp", "--icmp", "nas"], 2, "--tsmp and --icmp exclude each other"),
        (["--icmp", "--size=100", "nas"], 2, "--size is for disco pings only"),
        (["--size=100000", "nas"], 1, "size is at most 65507"),
        (["-c", "-1", "nas"], 2, "-c"),
        (["--timeout=0", "nas"], 2, "--timeout"),
        (["--tsmp", "nas"], 1, "TSMP over IPv4 is not available"),
        ([], 2, "TARGET"),
    ):
        seen, out, err = await shell.type("ping", *words)
        assert (seen, out) == (status, "")
        assert says in err


async def test_a_peer_that_does_not_speak_disco(shell: Shell) -> None:
    status, _, err = await shell.type("ping", "nas")
    assert (status, err) == (1, "meshnode: nas does not speak disco; use --icmp\n")


async def test_a_stopped_node_pings_nobody(shell: Shell) -> None:
    await shell.node.backend.edit_prefs({"WantRunning": False, "WantRunningSet": True})
    status, out, _ = await shell.type("ping", "nas")
    assert status == 1
    assert "stopped" in out


async def test_the_status_says_which_way_data_goes(shell: Shell) -> None:
    tunnel = shell.node.tunnel
    for traffic, shown in (
        (Traffic(1, 2, sent_ago_s=1.0, relay=NOWHERE), 'active; relay "32767", tx 2 rx 1'),
        (Traffic(1, 2, sent_ago_s=1.0, address=DIRECT), "active; direct 203.0.113.7:41641, tx 2 rx 1"),
        (Traffic(1, 2, sent_ago_s=99.0, address=DIRECT), "idle, tx 2 rx 1"),
    ):
        tunnel.known_traffic = {shell.peer: traffic}
        assert shown in (await shell.type("status"))[1]
    tunnel.problem_of_relay = "home: connection refused"
    assert (
        "#     - The home relay cannot be reached: home: connection refused"
        in ((await shell.type("status"))[1])
    )


async def test_the_paths_to_a_peer(shell: Shell) -> None:
    relayed = PathStatus(shell.peer, (), False, True, RelayReason.UDP_BLOCKED, (), None, None)
    shell.node.tunnel.known_paths[shell.peer] = relayed
    status, out, _ = await shell.type("debug", "paths", "nas")
    assert status == 0
    assert "Why: UDP does not get out of this network.\n" in out
    document = json.loads((await shell.type("debug", "paths", "--json", "100.64.0.2"))[1])
    assert document["RelayReason"] == "udp_blocked"
    assert (await shell.type("debug", "paths", "nobody"))[0] == 1


async def test_the_derp_map(shell: Shell) -> None:
    network_map = shell.node.backend.network_map
    assert network_map is not None
    shell.node.backend.on_map(replace(network_map, derp_map=None))
    status, _, err = await shell.type("debug", "derp-map")
    assert status == 1
    assert "offers no DERP relays" in err


async def test_the_data_plane(shell: Shell) -> None:
    shell.node.tunnel.counted = Counters(
        drops={DropReason.INVALID_TAG: 3}, disco_drops={DiscoDrop.UNKNOWN_SENDER: 12}, receive_overflow=7
    )
    status, out, _ = await shell.type("debug", "dataplane")
    assert status == 0
    kernel, *rest = out.splitlines()
    assert kernel == ("Kernel: native" if KERNEL == "native" else f"Kernel: pure Python, because {WHY_PURE}")
    assert rest == [
        "Offloads:",
        "    yes TCP from the tunnel in superpackets (TSO)",
        "    no  UDP from the tunnel in superpackets (USO)",
        "    yes TCP to the tunnel in superpackets",
        "    no  UDP to the tunnel in superpackets",
        "    yes datagrams sent in batches (UDP GSO)",
        "    no  datagrams received in batches (UDP GRO)",
        "Drops:",
        f"           12 {DiscoDrop.UNKNOWN_SENDER.value}",
        "            3 invalid_tag",
        "            7 came faster than they were read",
    ]
    document = json.loads((await shell.type("debug", "dataplane", "--json"))[1])
    assert document["Drops"]["invalid_tag"] == 3
    in_status = json.loads((await shell.type("status", "--json"))[1])["DataPlane"]
    assert in_status == {name: value for name, value in document.items() if name in in_status}
    assert in_status["Kernel"] == KERNEL


async def test_the_version_for_programs(shell: Shell) -> None:
    document = json.loads((await shell.type("version", "--json"))[1])
    assert document == {"client": __version__, "kernel": KERNEL, "whyPure": WHY_PURE}


async def test_a_wrong_word_after_debug(shell: Shell) -> None:
    status, _, err = await shell.type("debug", "path")
    assert status == 1
    assert err == 'meshnode: unknown command "path" (did you mean paths?); see "meshnode debug --help"\n'


async def test_metrics_are_printed_or_written(shell: Shell, tmp_path: Path) -> None:
    status, out, _ = await shell.type("metrics")
    assert status == 0
    assert 'meshnode_peers{path="idle"} 0\n' in out
    place = tmp_path / "node.prom"
    assert await shell.type("metrics", "write", str(place)) == (0, "", "")
    assert place.read_text() == out
    assert place.stat().st_mode & 0o777 == 0o644


async def test_metrics_that_go_nowhere(shell: Shell) -> None:
    for words, status, says in (
        (["shred"], 2, '"shred" is neither print nor write'),
        (["write"], 2, "write takes a file"),
        (["print", "file"], 2, "print takes none"),
        (["write", "/nonexistent/node.prom"], 1, "there is no directory /nonexistent"),
        (["write", "/proc/node.prom"], 1, "cannot write /proc/node.prom"),
    ):
        seen, out, err = await shell.type("metrics", *words)
        assert (seen, out) == (status, "")
        assert says in err
