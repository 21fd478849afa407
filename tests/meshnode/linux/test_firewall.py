"""When the tables are loaded, and when they are left alone. Against a stand-in for nft."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from meshnode.linux.firewall import Firewall
from meshnode.linux.marks import ownership
from meshnode.linux.ruleset import tables
from meshnode.linux.runner import ProgramFailed
from tests.meshnode.linux.configurations import CONFIGURATIONS

MESH0 = ownership("mesh0")
PEERS = tables(CONFIGURATIONS["peers"], MESH0)
STRICT_EXIT = tables(CONFIGURATIONS["exit_node"], MESH0, strict=True)


class FakeNft:
    """Keeps tables as lists of chains and rules, by family and name; counts the transactions."""

    def __init__(self) -> None:
        self.tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.transactions = 0

    async def run(self, argv: Sequence[str], stdin: bytes) -> bytes:
        match argv:
            case ["nft", "-j", "-f", "-"]:
                self.transactions += 1
                for command in json.loads(stdin)["nftables"]:
                    self._perform(command)
                return b""
            case ["nft", "-j", "list", "tables"]:
                found = [{"table": {"family": family, "name": name}} for family, name in self.tables]
                return json.dumps({"nftables": [{"metainfo": {}}, *found]}).encode()
            case ["nft", "-j", "list", "table", family, name]:
                return json.dumps({"nftables": [{"metainfo": {}}, *self.tables[family, name]]}).encode()
        raise AssertionError(argv)

    def _perform(self, command: dict[str, Any]) -> None:
        [(action, target)] = command.items()
        [(kind, content)] = target.items()
        if kind == "table" and action == "add":
            self.tables.setdefault((content["family"], content["name"]), [])
        elif kind == "table":
            del self.tables[content["family"], content["name"]]
        else:
            handle = {"handle": self.transactions}  # another one each time, as in the kernel
            self.tables[content["family"], content["table"]].append({kind: content | handle})


async def test_what_is_there_is_left_alone_and_what_is_not_is_loaded() -> None:
    nft = FakeNft()
    firewall = Firewall(MESH0, nft.run)
    assert await firewall.set(PEERS)
    assert not await firewall.set(PEERS)
    assert await firewall.set(STRICT_EXIT)
    assert {family for family, _ in nft.tables} == {"inet", "arp"}
    assert await firewall.set({})
    assert not await firewall.set({})
    assert nft.tables == {}
    assert nft.transactions == 3


@pytest.mark.parametrize("damage", ["table", "rule", "another rule"])
async def test_a_table_that_someone_changed_is_loaded_anew(damage: str) -> None:
    nft = FakeNft()
    firewall = Firewall(MESH0, nft.run)
    await firewall.set(PEERS)
    key = ("inet", MESH0.nft_table)
    whole = [
        {kind: {**content, "handle": None}} for item in nft.tables[key] for kind, content in item.items()
    ]
    match damage:
        case "table":
            del nft.tables[key]
        case "rule":
            nft.tables[key].pop()
        case "another rule":
            nft.tables[key].append({"rule": {"expr": [{"accept": None}], "handle": 9}})
    assert await firewall.set(PEERS)
    again = [
        {kind: {**content, "handle": None}} for item in nft.tables[key] for kind, content in item.items()
    ]
    assert again == whole


async def test_what_a_crashed_daemon_left_is_replaced_or_removed_and_nothing_else() -> None:
    nft = FakeNft()
    await Firewall(MESH0, nft.run).set(STRICT_EXIT)
    nft.tables["inet", "meshnode-mesh1"] = nft.tables["ip", "filter"] = [{"chain": {"name": "theirs"}}]
    assert await Firewall(MESH0, nft.run).set(PEERS)
    assert await Firewall(MESH0, nft.run).set({})
    assert set(nft.tables) == {("inet", "meshnode-mesh1"), ("ip", "filter")}


async def test_a_kernel_without_nftables_has_no_table_of_ours() -> None:
    async def no_nftables(argv: Sequence[str], stdin: bytes) -> bytes:
        raise ProgramFailed(argv, 1, "netlink: Error: cache initialization failed: Protocol not supported")

    firewall = Firewall(MESH0, no_nftables)
    assert not await firewall.set({})
    with pytest.raises(ProgramFailed):
        await firewall.set(PEERS)
