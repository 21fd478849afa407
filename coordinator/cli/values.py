"""What flags take: ids, and the names of output formats. A wrong value is told with what is right."""

from __future__ import annotations

from typing import Any

import click

from coordinator.cli.invocation import OUTPUT_FORMATS

MAX_ID = (1 << 63) - 1


class Identifier(click.ParamType[int]):
    """The ID of a record: a positive decimal number."""

    name = "ID"

    def __init__(self, kind: str, listing: str) -> None:
        """`kind` is what the ID is of; `listing` is the command that shows them."""
        self.kind = kind
        self.listing = listing

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The ID as a number."""
        text = str(value)
        if not (text.isascii() and text.isdecimal() and 0 < int(text[:20]) <= MAX_ID):
            self.fail(
                f'"{text}" is not a {self.kind} ID (a number); list them with `{self.listing}`', param, ctx
            )
        return int(text)


class OutputFormat(click.ParamType[str]):
    """One of OUTPUT_FORMATS, or nothing for text that people read."""

    name = "FORMAT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name as it is."""
        if value not in ("", *OUTPUT_FORMATS):
            self.fail(f'"{value}" is not an output format: use json, json-line or yaml', param, ctx)
        return str(value)


USER_ID = Identifier("user", "coordinator users list")
NODE_ID = Identifier("node", "coordinator nodes list")
KEY_ID = Identifier("key", "coordinator preauthkeys list")
