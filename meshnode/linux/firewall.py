"""The node's nftables tables in the kernel: replaced in one transaction, and only where that is needed."""

from __future__ import annotations

import json
from typing import Any

from meshnode.linux.marks import Ownership
from meshnode.linux.ruleset import Tables, transaction
from meshnode.linux.runner import ProgramFailed, Run, run

# What nft says where the kernel has no nftables, and so no table of ours.
NOT_IN_KERNEL = "not supported"

Listing = dict[str, Any]
"""By family: our table as the kernel shows it."""


class Firewall:
    """Brings the tables named `meshnode-<interface>` to what is wanted."""

    def __init__(self, own: Ownership, run: Run = run) -> None:
        self._own = own
        self._run = run
        self._loaded: Tables = {}
        self._shown: Listing = {}
        """What was loaded last, and as the kernel showed it right after that."""

    async def set(self, wanted: Tables) -> bool:
        """Load the wanted tables and remove ours besides them; whether anything had to change.

        Raises ProgramMissing or ProgramFailed, and then the old tables are whole.
        """
        present = await self._list()
        if present == self._shown and wanted == self._loaded:
            return False
        commands = transaction(wanted, self._own, present)
        await self._run(["nft", "-j", "-f", "-"], json.dumps({"nftables": commands}).encode())
        self._loaded = wanted
        self._shown = await self._list()
        return True

    async def _list(self) -> Listing:
        try:
            tables = await self._nft("list", "tables")
        except ProgramFailed as failure:
            if NOT_IN_KERNEL in failure.said:
                return {}
            raise
        families = [
            item["table"]["family"]
            for item in tables
            if item.get("table", {}).get("name") == self._own.nft_table
        ]
        shown = {}
        for family in families:
            try:
                table = await self._nft("list", "table", family, self._own.nft_table)
            except ProgramFailed:
                continue  # removed since
            shown[family] = [_settled(item) for item in table if "metainfo" not in item]
        return shown

    async def _nft(self, *words: str) -> list[dict[str, Any]]:
        shown: list[dict[str, Any]] = json.loads(await self._run(["nft", "-j", *words], b""))["nftables"]
        return shown


def _settled(item: Any) -> Any:
    """A listed object without what changes by itself: counts and handles."""
    if isinstance(item, dict):
        return {
            key: None if key == "counter" else _settled(value)
            for key, value in item.items()
            if key != "handle"
        }
    return [_settled(part) for part in item] if isinstance(item, list) else item
