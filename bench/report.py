"""Writes the figures into `docs/performance.md`, between its two marks, and draws the picture beside it.

    python -m bench.report FILE     # the lines of JSON that a run with --json printed

What stands outside the marks is written by people and stays.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench import aims, plot
from bench.measure import OURS, Figure, shown, shown_ratio

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"

TITLES = {
    "tunnel": "Tunnel",
    "aead": "Seal and open",
    "handshake": "Handshakes",
    "relay": "Relay",
    "control": "Coordinator",
}


def write(figures: Sequence[Figure], document: Path = DOCUMENT) -> None:
    """Put these figures in place of those that the document has, and draw the picture."""
    picture = document.with_suffix(".png")
    plot.draw(figures, picture)
    text = document.read_text()
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{document} has not the marks {BEGIN} and {END}")
    body = "\n".join(_figures(figures, picture.name))
    document.write_text(f"{before}{BEGIN}\n\n{body}\n{END}{after}")


def _figures(figures: Sequence[Figure], picture: str) -> Iterator[str]:
    yield f"{machine()}, {datetime.now(UTC):%Y-%m-%d}."
    yield f"\n![Throughput, small packets, ping, and seal and open]({picture})\n"
    yield "### What is aimed at\n"
    yield from _table(("what", "against", "ours is", "aim", "reached"), _outcomes(figures))
    for bench, title in TITLES.items():
        mine = [figure for figure in figures if figure.bench == bench]
        for setting in dict.fromkeys(figure.setting for figure in mine):
            here = [figure for figure in mine if figure.setting == setting]
            yield f"### {title}{', ' + setting if setting else ''}\n"
            yield from _setting(here)


def _outcomes(figures: Sequence[Figure]) -> Iterator[Sequence[str]]:
    for one in aims.outcomes(figures):
        what = (
            f"{one.figure.what.title}, {one.figure.setting}" if one.figure.setting else one.figure.what.title
        )
        if one.aim.ours != OURS:
            what += f" ({one.aim.ours})"
        sign = "≥" if one.figure.what.more_is_better else "≤"
        limit = f"{sign} {one.aim.limit:g} {one.unit}"
        yield what, one.other, f"{one.value:.2f} {one.unit}", limit, _yes(one.is_reached)


def _yes(truth: bool) -> str:
    return "yes" if truth else "**no**"


def _setting(figures: Sequence[Figure]) -> Iterator[str]:
    ours = list(dict.fromkeys(name for figure in figures for name in figure.ours))
    yield from _table(
        ("what", "contender", "median", "spread", *(f"{name} is" for name in ours)), _rows(figures, ours)
    )


def _rows(figures: Iterable[Figure], ours: Sequence[str]) -> Iterator[Sequence[str]]:
    for figure in figures:
        label = f"{figure.what.title}, {figure.what.unit}"
        for name in figure.samples:
            ratios = [shown_ratio(figure, mine, name) for mine in ours]
            yield label, name, shown(figure.median(name)), f"{figure.spread(name):.0%}", *ratios
            label = ""


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"| {' | '.join('---' if place < 2 else '---:' for place, _ in enumerate(header))} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def machine() -> str:
    """What was measured on."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    model = found[1] if found else platform.machine()
    return (
        f"{os.cpu_count()} cores of {model}, Linux {platform.release()}, Python {platform.python_version()}"
    )


def read(path: Path) -> list[Figure]:
    """The figures in a file of lines of JSON."""
    return [Figure.from_record(json.loads(line)) for line in path.read_text().splitlines() if line]


def main() -> None:
    """Write the report of a file."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument("file", type=Path)
    write(read(parser.parse_args().file))


if __name__ == "__main__":
    main()
