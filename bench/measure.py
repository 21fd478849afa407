"""What all benchmarks share: contenders that take turns, what is made of their figures, and how it is shown.

A machine that does other things too changes from one minute to the next, so a figure says little and the
ratio of two that were measured one after the other says much. Hence every round runs each contender once, in
an order that rotates, and a ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

OURS = "ours"
"""What the names of our own contenders begin with."""

QUIET_SHARE = 0.85
"""Of the processor time that must be idle before a measurement begins."""
QUIET_SAMPLE = 0.5  # seconds

Run = Callable[[], Mapping[str, float]]
"""One measurement of one contender: figures by name."""


@dataclass(frozen=True)
class What:
    """One figure that a benchmark measures. `unit` is for a person."""

    key: str
    title: str
    unit: str
    more_is_better: bool = True


@dataclass
class Figure:
    """A figure of every contender: one sample for each round, in the order of the rounds."""

    bench: str
    what: What
    setting: str = ""
    """Under which circumstances, such as `MTU 1420`."""
    samples: dict[str, list[float]] = field(default_factory=dict)

    def median(self, contender: str) -> float:
        return statistics.median(self.samples[contender])

    def spread(self, contender: str) -> float:
        """How far apart the rounds are: (greatest - smallest) / median."""
        values = self.samples[contender]
        middle = statistics.median(values)
        return (max(values) - min(values)) / middle if middle else 0.0

    def ratio(self, ours: str, other: str) -> float | None:
        """Ours as a multiple of the other's: the median over the rounds. None where the other's is zero."""
        pairs = zip(self.samples[ours], self.samples[other], strict=True)
        ratios = [mine / theirs for mine, theirs in pairs if theirs]
        return statistics.median(ratios) if ratios else None

    @property
    def ours(self) -> list[str]:
        return [name for name in self.samples if name.startswith(OURS)]

    @property
    def others(self) -> list[str]:
        return [name for name in self.samples if not name.startswith(OURS)]

    def record(self) -> dict[str, Any]:
        """The figure as JSON has it; `from_record` reads it back."""
        return {
            "bench": self.bench,
            "setting": self.setting,
            "what": vars(self.what),
            "medians": {name: _rounded(self.median(name)) for name in self.samples},
            "spreads": {name: round(self.spread(name), 3) for name in self.samples},
            "ratios": {
                mine: {other: _rounded(ratio) for other in self.others if (ratio := self.ratio(mine, other))}
                for mine in self.ours
            },
            "samples": {name: [_rounded(value) for value in values] for name, values in self.samples.items()},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Figure:
        samples = {name: list(values) for name, values in record["samples"].items()}
        return cls(record["bench"], What(**record["what"]), record["setting"], samples)


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def interleave(
    bench: str,
    whats: Sequence[What],
    contenders: Mapping[str, Run],
    options: argparse.Namespace,
    setting: str = "",
) -> list[Figure]:
    """Every contender once in every round. One that fails is named, and left out of the figures.

    A figure that a contender does not return is one that it does not have: it is left out of that figure.
    `options` are those of `parser`.
    """
    console = Console(stderr=options.json)
    rounds = 1 if options.quick else options.rounds
    patience = 0.0 if options.quick else options.patience
    samples: dict[str, list[Mapping[str, float]]] = {name: [] for name in contenders}
    for number in range(rounds):
        names = list(samples)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wait_until_quiet(patience)
            with console.status(f"{bench} {setting} round {number + 1} of {rounds}: {name}"):
                try:
                    samples[name].append(contenders[name]())
                except (AssertionError, OSError, TimeoutError) as error:
                    console.print(f"[yellow]{bench} {setting}: {name} is left out:[/] {_first_line(error)}")
                    del samples[name]
    figures = []
    for what in whats:
        measured = {
            name: [one[what.key] for one in runs if what.key in one] for name, runs in samples.items()
        }
        complete = {name: values for name, values in measured.items() if len(values) == rounds}
        if complete:
            figures.append(Figure(bench, what, setting, complete))
    return figures


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def wait_until_quiet(patience: float) -> None:
    """Wait until the machine does nothing else, or for as long as `patience`, in seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        idle, total = _processor_times()
        time.sleep(QUIET_SAMPLE)
        idle_then, total_then = _processor_times()
        if idle_then - idle >= QUIET_SHARE * (total_then - total):
            return


def _processor_times() -> tuple[int, int]:
    """(idle, all) ticks of all processors since boot."""
    fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def show(console: Console, title: str, figures: Sequence[Figure]) -> None:
    """A table for each setting: a line for each contender, and our multiple of the others."""
    for setting in dict.fromkeys(figure.setting for figure in figures):
        here = [figure for figure in figures if figure.setting == setting]
        ours = list(dict.fromkeys(name for figure in here for name in figure.ours))
        table = Table(title=f"{title}, {setting}" if setting else title, title_justify="left")
        table.add_column("what")
        table.add_column("contender", no_wrap=True)
        for column in ("median", "spread", *(f"{name} is" for name in ours)):
            table.add_column(column, justify="right")
        for figure in here:
            _add_rows(table, figure, ours)
        console.print(table)


def _add_rows(table: Table, figure: Figure, ours: Sequence[str]) -> None:
    label = f"{figure.what.title}: {figure.what.unit}"
    for name in figure.samples:
        ratios = [shown_ratio(figure, mine, name) for mine in ours]
        table.add_row(label, name, shown(figure.median(name)), f"{figure.spread(name):.0%}", *ratios)
        label = ""
    table.add_section()


def shown(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def shown_ratio(figure: Figure, ours: str, other: str) -> str:
    """Empty where there is nothing to compare."""
    if other.startswith(OURS) or ours not in figure.samples:
        return ""
    ratio = figure.ratio(ours, other)
    return f"{ratio:.2f} ×" if ratio is not None else ""


def parser(module: str, description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """The flags that all benchmarks have."""
    made = argparse.ArgumentParser(
        prog=f"python -m bench.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", action="store_true", help="a line of JSON for each figure instead of a table")
    made.add_argument("--quick", action="store_true", help="one short round: to see that it works")
    made.add_argument("--rounds", type=int, default=rounds, help="default: %(default)s")
    made.add_argument(
        "--patience",
        type=float,
        default=20.0,
        metavar="SECONDS",
        help="how long a run may wait for the machine to be idle (default: %(default)s)",
    )
    return made


def report(options: argparse.Namespace, title: str, figures: Sequence[Figure]) -> None:
    """Print in the way that the command line asks for. `title` is the heading of the tables."""
    if options.json:
        for figure in figures:
            print(json.dumps(figure.record()), flush=True)
    else:
        show(Console(), title, figures)
