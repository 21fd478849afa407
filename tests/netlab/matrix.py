"""`make natlab`: every kind of place meets every other, and a report says how and how fast.

All places are there at once, each kind twice: a left one, which speaks first, and a right one. Every left
node meets every right node, and has never talked to it before; the nodes have joined and checked their
networks long before. Pairs without a node in common are measured at the same time.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from tests.netlab.host import PROJECT
from tests.netlab.lab import Lab
from tests.netlab.matrix_report import as_json, markdown, table
from tests.netlab.meeting import Cell, Expected, Meeting, expected, meet
from tests.netlab.natmesh import NatMesh
from tests.netlab.networks import KINDS, MATRIX_KINDS

Pair = tuple[str, str]

LAB_NAME = "matrix"
REPORT = PROJECT / "docs" / "natlab.md"

# Seconds after which a pair is given up: half as long again as the slowest may take, and for those that
# should stay on the relay long enough to see that they do.
LIMITS = {Expected.EASY: 8.0, Expected.HARD: 8.0, Expected.RELAY: 5.0}

# A pair keeps a core busy for a moment and then waits.
JOBS = 2


class Matrix:
    """The pairs to measure, and the mesh in which they meet."""

    def __init__(self, lab: Lab, pairs: list[Pair], *, jobs: int = JOBS) -> None:
        self._jobs = jobs
        self._meetings: dict[Pair, list[Meeting]] = {pair: [] for pair in pairs}
        self.mesh = NatMesh(lab)
        for left in dict.fromkeys(left for left, _ in pairs):
            self.mesh.add(f"a-{left}", KINDS[left].site)
        for right in dict.fromkeys(right for _, right in pairs):
            self.mesh.add(f"b-{right}", KINDS[right].site)

    def run(self, pairs: Iterable[Pair] | None = None) -> Iterator[tuple[Pair, Meeting]]:
        """Every pair, or only these of them, once, as they end.

        Before a pair meets again the nodes have to be started anew.
        """
        for batch in disjoint(list(self._meetings if pairs is None else pairs)):
            with ThreadPoolExecutor(self._jobs) as executor:
                for pair, meeting in zip(batch, executor.map(self._meet, batch), strict=True):
                    self._meetings[pair].append(meeting)
                    yield pair, meeting

    def _meet(self, pair: Pair) -> Meeting:
        left, right = pair
        members = self.mesh.members
        limit = LIMITS[expected(KINDS[left], KINDS[right])]
        return meet(members[f"a-{left}"], members[f"b-{right}"], limit)

    def cells(self) -> list[Cell]:
        """What was seen until now."""
        return [
            Cell(left, right, expected(KINDS[left], KINDS[right]), tuple(meetings))
            for (left, right), meetings in self._meetings.items()
            if meetings
        ]


def disjoint(pairs: list[Pair]) -> list[list[Pair]]:
    """The pairs in batches, in each of which no node is in two."""
    batches: list[list[Pair]] = []
    for left, right in pairs:
        for batch in batches:
            if all(left != other_left and right != other_right for other_left, other_right in batch):
                batch.append((left, right))
                break
        else:
            batches.append([(left, right)])
    return batches


def all_pairs() -> list[Pair]:
    """Every kind of the matrix with every other, and in both directions."""
    return [(left, right) for left in MATRIX_KINDS for right in MATRIX_KINDS]


def measure(console: Console, pairs: list[Pair], *, runs: int, jobs: int) -> list[Cell]:
    """All runs, with a line for each meeting."""
    with Lab(LAB_NAME) as lab:
        with console.status("building the networks"):
            matrix = Matrix(lab, pairs, jobs=jobs)
        with console.status("starting a coordinator and all nodes"):
            matrix.mesh.start()
        for run in range(runs):
            if run:
                with console.status("starting all nodes anew"):
                    matrix.mesh.restart_nodes()
            for pair, meeting in matrix.run():
                console.print(describe(pair, meeting), soft_wrap=True)
        return matrix.cells()


def describe(pair: Pair, meeting: Meeting) -> str:
    """One line."""
    first = meeting.pings.first_ms
    fate = "[red]first ping lost[/red]" if first is None else f"first ping {first:.0f} ms"
    lost = f", [red]{meeting.pings.lost} lost[/red]" if meeting.pings.lost else ""
    end = (
        f"relay: {meeting.reason}"
        if meeting.direct is None
        else f"{meeting.technique}: {meeting.direct:.2f} s"
    )
    return f"{pair[0]} → {pair[1]}: {fate}{lost}, {end}"


def read_pair(text: str) -> Pair:
    """`left,right`."""
    left, _, right = text.partition(",")
    for kind in (left, right):
        if kind not in KINDS:
            raise argparse.ArgumentTypeError(f"{kind!r} is not one of {', '.join(KINDS)}")
    return left, right


def main() -> int:
    """The exit status: whether every pair does what it should."""
    parser = argparse.ArgumentParser(prog="make natlab", description=__doc__)
    parser.add_argument("--runs", type=int, default=1, help="how often every pair meets; default 1")
    parser.add_argument(
        "--pairs", type=read_pair, nargs="+", metavar="LEFT,RIGHT", help="these pairs only; default all"
    )
    parser.add_argument("--jobs", type=int, default=JOBS, help=f"pairs at a time; default {JOBS}")
    parser.add_argument("--json", action="store_true", help="print all measurements as JSON")
    parser.add_argument(
        "--report", type=Path, help=f"write a report there; default with all pairs: {REPORT.name}"
    )
    arguments = parser.parse_args()
    console = Console(highlight=False, stderr=arguments.json)
    if os.geteuid() != 0:
        console.print("make natlab needs root: it makes network namespaces.", style="red")
        return 1
    try:
        pairs = arguments.pairs or all_pairs()
        cells = measure(console, pairs, runs=arguments.runs, jobs=arguments.jobs)
    except AssertionError as failure:  # what the lab raises when something does not come true
        notes = getattr(failure, "__notes__", ())
        console.print("\n".join([str(failure), *notes]), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    if arguments.json:
        print(json.dumps(as_json(cells), indent=1))
    console.print(table(cells))
    wrong = [(cell, words) for cell in cells for words in cell.shortcomings()]
    for cell, words in wrong:
        console.print(f"[red]✗[/red] {cell.left} → {cell.right}: {words} ({cell.explanation()})")
    report = arguments.report or (None if arguments.pairs else REPORT)
    if report is not None:
        report.write_text(markdown(cells, runs=arguments.runs))
        console.print(f"written: {report}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
