"""Prometheus's text format, version 0.0.4: how our programs show their counters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Sample(NamedTuple):
    """One line. Those of one name are to follow each other."""

    name: str
    kind: str
    """`counter` or `gauge`."""
    help: str
    labels: Mapping[str, str]
    value: int


def exposition(samples: Iterable[Sample]) -> str:
    """The text that a scraper reads."""
    lines: list[str] = []
    described = ""
    for sample in samples:
        if sample.name != described:
            described = sample.name
            lines.append(f"# HELP {sample.name} {sample.help}")
            lines.append(f"# TYPE {sample.name} {sample.kind}")
        labels = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in sample.labels.items())
        series = f"{sample.name}{{{labels}}}" if labels else sample.name
        lines.append(f"{series} {sample.value}")
    return "\n".join(lines) + "\n"
