"""`coordinator debug` and `generate`, against a whole coordinator."""

from __future__ import annotations

import asyncio
import json

import pytest

from coordinator.cli.root import run
from coordinator.visibility import explain
from meshproto.keys import MachinePrivate
from tests.coordinator.conftest import Server


async def ran(server: Server, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    status = await asyncio.to_thread(run, [*words, "--socket", str(server.config.unix_socket)])
    printed = capsys.readouterr()
    assert (status, printed.err) == (0, "")
    return printed.out


async def test_map_filter_and_why(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    await server.join("laptop")
    machine, _, _ = await server.join("router")
    document = json.loads(await ran(server, capsys, "debug", "map", "laptop"))
    assert document["Node"]["Name"] == "laptop.mesh.test."
    assert [peer["Name"] for peer in document["Peers"]] == ["router.mesh.test."]
    assert document["DNSConfig"]["Proxied"] is True
    assert "* " in await ran(server, capsys, "debug", "filter", "1")
    assert "Nothing keeps them apart" in await ran(server, capsys, "debug", "why", "laptop", "2")
    await server.state.expire_node(server.node(machine).id, server.node(machine).created_at)
    assert "the key of router is over" in await ran(server, capsys, "debug", "why", "laptop", "router")
    assert (
        await asyncio.to_thread(run, ["debug", "map", "nobody", "--socket", str(server.config.unix_socket)])
        == 1
    )
    assert "no node nobody; list them" in capsys.readouterr().err
    snapshot = server.state.snapshot
    assert explain(snapshot, snapshot.nodes[1], snapshot.nodes[1]) == ["they are the same node"]


def test_generate_private_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "private-key"]) == 0
    assert MachinePrivate.parse(capsys.readouterr().out.strip())
    assert run(["gen", "private-key", "-o", "json"]) == 0
    assert MachinePrivate.parse(json.loads(capsys.readouterr().out)["private_key"])
