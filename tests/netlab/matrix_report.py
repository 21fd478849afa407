"""The measurements of the matrix for people and for programs: a grid, a Markdown document, JSON."""

from __future__ import annotations

import os
import statistics
from dataclasses import asdict
from typing import Any

from rich.table import Table

from tests.netlab.meeting import EASY_LIMIT, HARD_LIMIT, HARD_SHARE, Cell, Expected
from tests.netlab.networks import KINDS

PROSE = """\
# How two nodes meet through every pair of NATs

`make natlab` has measured this and written this file. Every kind of network is built twice from network
namespaces and nftables rules, with a node behind each. All nodes have joined one coordinator, which is also
their relay and STUN server, and have checked their network. Then each node of the first set ("from") pings
each of the second ("to"), which it has never talked to, ten times a second.

- **first ping**: the round trip of the very first packet, which goes over the relay with the handshake before
  it; *lost* counts pings without an answer, from the first to half a second after the path is direct.
- **direct**: seconds from the first packet to the moment from which both sides send to each other without the
  relay. The median of all runs, and the slowest.
- **how**: how the address in use was found. *advertised*: by STUN, and told to the peer. *learned port*: a
  ping came from there. *predicted port*: the NAT counts, and the next number was told. *spray*: many sockets
  on the hard side, many probed ports on the other. For pairs on the relay: the reason that
  `meshnode debug paths` gives.

What is wanted: every first ping is answered; easy pairs are direct within {easy:g} s (median); pairs with one
NAT whose ports depend on the destination ("hard") within {hard:g} s in {share:.0%} of the runs; pairs with
two such, or without UDP, stay on the relay.

{runs} run(s) of each pair, on a machine with {cores} cores that runs all nodes, all networks and the
coordinator.

## Kinds

| kind | what it is |
| --- | --- |
{kinds}

## Seconds to direct

From (rows) to (columns). `–` is the relay.

{grid}

{summary}

## Every pair

| from | to | wanted | first ping | lost | direct | slowest | how |
| --- | --- | --- | --- | --- | --- | --- | --- |
{pairs}
"""


def letters(kind: str) -> str:
    """A kind's name short enough for the head of a column: `cgnat-port-restricted` is `c-p-r`."""
    return "-".join(word[0] for word in kind.split("-")) if "-" in kind else kind


def grid(cells: list[Cell]) -> tuple[list[str], list[str], dict[tuple[str, str], Cell]]:
    """The kinds of the rows and the columns, and what is in them."""
    rows = list(dict.fromkeys(cell.left for cell in cells))
    columns = list(dict.fromkeys(cell.right for cell in cells))
    return rows, columns, {(cell.left, cell.right): cell for cell in cells}


def short(cell: Cell | None) -> str:
    """The time to direct, or why there is none."""
    if cell is None:
        return ""
    return "–" if cell.median is None else f"{cell.median:.2f}"


def table(cells: list[Cell]) -> Table:
    """The grid for a terminal: green is as it should be."""
    rows, columns, at = grid(cells)
    title = "Seconds to direct (median), from rows to columns; – is the relay"
    short_for = [f"{letters(kind)} {kind}" for kind in dict.fromkeys([*rows, *columns]) if "-" in kind]
    shown = Table(title=title, caption="; ".join(short_for), box=None, padding=(0, 1, 0, 0))
    shown.add_column("", no_wrap=True)
    for column in columns:
        shown.add_column(letters(column), justify="right", no_wrap=True)
    for row in rows:
        colored = []
        for column in columns:
            cell = at.get((row, column))
            color = "red" if cell is not None and cell.shortcomings() else "green"
            colored.append(f"[{color}]{short(cell)}[/{color}]")
        shown.add_row(letters(row), *colored)
    return shown


def markdown(cells: list[Cell], *, runs: int) -> str:
    """The whole report."""
    rows, columns, at = grid(cells)
    lines = [_row(["", *(letters(column) for column in columns)]), _row(["---"] * (len(columns) + 1))]
    lines += [_row([row, *(short(at.get((row, column))) for column in columns)]) for row in rows]
    return PROSE.format(
        easy=EASY_LIMIT,
        hard=HARD_LIMIT,
        share=HARD_SHARE,
        runs=runs,
        cores=os.cpu_count(),
        kinds="\n".join(_row([kind, KINDS[kind].about]) for kind in dict.fromkeys([*rows, *columns])),
        grid="\n".join(lines),
        summary="\n".join(_summary(cells)),
        pairs="\n".join(_row(_details(cell)) for cell in cells),
    )


def _row(words: list[str]) -> str:
    return f"| {' | '.join(words)} |"


def _details(cell: Cell) -> list[str]:
    runs = len(cell.meetings)
    delivered = "" if cell.delivered == runs else f" ({cell.delivered} of {runs})"
    first = "–" if cell.first_ms is None else f"{cell.first_ms:.0f} ms{delivered}"
    count = "" if len(cell.times) in (0, runs) else f" ({len(cell.times)} of {runs})"
    direct = "–" if cell.median is None else f"{cell.median:.2f} s{count}"
    slowest = f"{cell.times[-1]:.2f} s" if cell.times else "–"
    lost = str(cell.lost)
    return [cell.left, cell.right, cell.expected.value, first, lost, direct, slowest, cell.explanation()]


def _summary(cells: list[Cell]) -> list[str]:
    meetings = [meeting for cell in cells for meeting in cell.meetings]
    delivered = sum(cell.delivered for cell in cells)
    said = [f"- First pings answered: {delivered} of {len(meetings)}."]
    for kind, name in ((Expected.EASY, "Easy pairs"), (Expected.HARD, "Hard pairs")):
        runs = sum(len(cell.meetings) for cell in cells if cell.expected is kind)
        times = sorted(time for cell in cells if cell.expected is kind for time in cell.times)
        if times:
            shown = f"median {statistics.median(times):.2f} s, slowest {times[-1]:.2f} s"
            said.append(f"- {name}: direct in {len(times)} of {runs} runs; {shown}.")
    wrong = [(cell, words) for cell in cells for words in cell.shortcomings()]
    if not wrong:
        return [*said, "- Every pair does what is wanted."]
    return [*said, *(f"- Not as wanted: {cell.left} → {cell.right}: {words}." for cell, words in wrong)]


def as_json(cells: list[Cell]) -> list[dict[str, Any]]:
    """Everything that was measured."""
    return [
        {
            "from": cell.left,
            "to": cell.right,
            "wanted": cell.expected.value,
            "shortcomings": cell.shortcomings(),
            "runs": [asdict(meeting) | {"direct": meeting.direct} for meeting in cell.meetings],
        }
        for cell in cells
    ]
