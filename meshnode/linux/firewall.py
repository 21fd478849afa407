"""The node's nftables table in the kernel: replaced in one transaction, and only where it is not right."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from meshnode.linux.marks import Ownership
from meshnode.linux.router_config import RouterConfig
from meshnode.linux.ruleset import Command, ruleset
from meshnode.linux.runner import ProgramFailed, Run, run


class Firewall:
    """Brings `inet meshnode-<interface>` to what a configuration wants."""

    def __init__(self, own: Ownership, run: Run = run) -> None:
        self._own = own
        self._run = run
        self._commands: list[Command] | None = None
        """What was loaded last."""
        self._listing: list[Any] | None = None
        """The table as the kernel showed it right after that."""

    async def set(self, config: RouterConfig) -> bool:
        """Load the table for `config`, or remove it for an empty one; whether anything had to change.

        Raises ProgramMissing or ProgramFailed, and then the old table is whole.
        """
        commands = ruleset(config, self._own)
        present = await self._list()
        as_loaded = present == self._listing and commands == self._commands
        if present is None if config.is_empty else as_loaded:
            return False
        await self._load(commands)
        self._commands = commands
        self._listing = await self._list()
        return True

    async def _load(self, commands: Sequence[Command]) -> None:
        await self._run(["nft", "-j", "-f", "-"], json.dumps({"nftables": commands}).encode())

    async def _list(self) -> list[Any] | None:
        """The table without what changes by itself (counters, handles); None where there is none."""
        try:
            shown = await self._run(["nft", "-j", "list", "table", "inet", self._own.nft_table], b"")
        except ProgramFailed as failure:
            if "No such file or directory" in failure.said:
                return None
            raise
        return [_settled(item) for item in json.loads(shown)["nftables"] if "metainfo" not in item]


def _settled(item: Any) -> Any:
    """A listed object without counts and handles."""
    if isinstance(item, dict):
        return {
            key: None if key == "counter" else _settled(value)
            for key, value in item.items()
            if key != "handle"
        }
    return [_settled(part) for part in item] if isinstance(item, list) else item
