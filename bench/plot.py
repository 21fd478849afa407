"""The picture of the report: bars of every contender, with their spread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from bench.measure import Figure

OURS_COLOURS = ("#1b6ca8", "#7fb2d9")
OTHER_COLOURS = ("#e08e45", "#b5651d", "#9aa38f", "#5f6b5a", "#c9b458")

PANELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("tunnel", "TCP through one tunnel, Mbit/s", ("there", "back", "four", "both")),
    ("tunnel", "UDP of 64 bytes, packets/s", ("small",)),
    ("tunnel", "ping, ms (less is better)", ("ping", "loaded")),
    ("aead", "1,280-byte packets on one core, Gbit/s", ("seal", "open")),
)
SHORT = {
    "there": "1 stream",
    "back": "1 back",
    "four": "4 streams",
    "both": "both ways",
    "small": "small",
    "ping": "idle",
    "loaded": "loaded",
}


def draw(figures: Sequence[Figure], path: Path) -> None:
    """Write the picture as PNG. A panel without figures is left out."""
    panels = [
        (title, found)
        for bench, title, keys in PANELS
        if (found := [one for one in figures if one.bench == bench and one.what.key in keys])
    ]
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    picture = Picture(figsize=(10, 3.1 * len(panels)), layout="constrained", dpi=110)
    axes = picture.subplots(len(panels), squeeze=False)[:, 0]
    for ax, (title, found) in zip(axes, panels, strict=True):
        _panel(ax, title, found)
    picture.savefig(path, metadata={"Software": None})


def _panel(ax: Axes, title: str, figures: Sequence[Figure]) -> None:
    names = list(dict.fromkeys(name for figure in figures for name in figure.samples))
    width = 0.8 / len(names)
    for place, name in enumerate(names):
        have = [(group, figure) for group, figure in enumerate(figures) if name in figure.samples]
        heights = [figure.median(name) for _, figure in have]
        low = [figure.median(name) - min(figure.samples[name]) for _, figure in have]
        high = [max(figure.samples[name]) - figure.median(name) for _, figure in have]
        ax.bar(
            [group + (place - (len(names) - 1) / 2) * width for group, _ in have],
            heights,
            width * 0.95,
            yerr=[low, high],
            error_kw={"elinewidth": 0.8, "ecolor": "#444444"},
            color=_colour(name, names),
            label=name,
        )
    ax.set_xticks(range(len(figures)), [_label(figure) for figure in figures])
    ax.set_title(title, loc="left", fontweight="bold")
    ax.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _label(figure: Figure) -> str:
    short = SHORT.get(figure.what.key, figure.what.title)
    return f"{short}\n{figure.setting}" if figure.setting else short


def _colour(name: str, names: Sequence[str]) -> str:
    ours = [one for one in names if one.startswith("ours")]
    if name in ours:
        return OURS_COLOURS[ours.index(name) % len(OURS_COLOURS)]
    others = [one for one in names if one not in ours]
    return OTHER_COLOURS[others.index(name) % len(OTHER_COLOURS)]
