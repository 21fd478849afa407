"""What is printed: tables for people, JSON and YAML for programs.

Tables are Headscale's: a header row, columns padded to their widest cell and parted by ` | `, several values
of a cell one per line. Control characters in text that nodes chose (host names) never reach the terminal.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, TextIO

SEPARATOR = " | "
_GREEN, _RED, _RESET = "\x1b[92m", "\x1b[91m", "\x1b[0m"
ZERO_TIME = "0001-01-01T00:00:00Z"  # how Go writes "no time"


@dataclass(frozen=True, slots=True)
class Coloured:
    """A cell that says good (green) or bad (red) on a terminal."""

    text: str
    is_good: bool


Cell = str | Coloured | Sequence[str]


def dump(document: Any, output: str) -> str:
    """`document` (JSON types) as json, json-line or yaml, with a newline at its end."""
    if output == "yaml":
        import yaml

        text: str = yaml.safe_dump(_lower_keys(document), sort_keys=False, allow_unicode=True)
        return text.removesuffix("...\n")
    indent = "\t" if output == "json" else None
    separators = None if output == "json" else (",", ":")
    return json.dumps(document, indent=indent, separators=separators, ensure_ascii=False) + "\n"


def _lower_keys(document: Any) -> Any:
    """Headscale's YAML has its JSON names in lower case (`givenname`), and scripts know them so."""
    if isinstance(document, Mapping):
        return {str(key).lower(): _lower_keys(value) for key, value in document.items()}
    if isinstance(document, list):
        return [_lower_keys(item) for item in document]
    return document


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]], *, colour: bool | None = None) -> str:
    """The rows as Headscale prints them. `colour` None: where stdout is a terminal that wants it."""
    is_coloured = wants_colour(sys.stdout) if colour is None else colour
    lines = [line for row in [header, *rows] for line in _lines_of(row)]
    widths = [max(_width(_text(cell)) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(_join(line, widths, is_coloured) for line in lines)


def wants_colour(stream: TextIO) -> bool:
    """A terminal, and neither NO_COLOR (https://no-color.org) nor TERM=dumb is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def when(instant: str | None, absent: str = "") -> str:
    """A reply's time as tables show it, `2026-07-01 10:00:00` in UTC; `absent` for none."""
    parsed = parse_time(instant)
    return absent if parsed is None else parsed.strftime("%Y-%m-%d %H:%M:%S")


def parse_time(instant: str | None) -> datetime | None:
    """A reply's RFC 3339 time; None for null and for Go's zero time."""
    if not instant or instant == ZERO_TIME:
        return None
    return datetime.fromisoformat(instant).astimezone(UTC)


def printable(text: str) -> str:
    """`text` with every control, format and line-breaking character shown as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _lines_of(row: Sequence[Cell]) -> list[tuple[str | Coloured, ...]]:
    columns = [[cell] if isinstance(cell, str | Coloured) else list(cell) or [""] for cell in row]
    return list(zip_longest(*columns, fillvalue=""))


def _join(line: Sequence[str | Coloured], widths: Sequence[int], is_coloured: bool) -> str:
    cells = [_paint(cell, width, is_coloured) for cell, width in zip(line, widths, strict=True)]
    return SEPARATOR.join(cells).rstrip()


def _paint(cell: str | Coloured, width: int, is_coloured: bool) -> str:
    text = _text(cell)
    padding = " " * (width - _width(text))
    if is_coloured and isinstance(cell, Coloured) and text:
        text = f"{_GREEN if cell.is_good else _RED}{text}{_RESET}"
    return text + padding


def _text(cell: str | Coloured) -> str:
    return printable(cell.text if isinstance(cell, Coloured) else cell)


def _width(text: str) -> int:
    """Columns that a terminal gives the text: two for wide characters, none for combining ones."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )
