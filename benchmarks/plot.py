"""Draws a run: each rate as a share of its ceiling, with its goal and its best peer.

matplotlib is needed for this alone; without it the run still prints and writes its JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.contest import SkippedError
from benchmarks.verdict import Line

COLOURS = {"met": "#2a9d5c", "missed": "#c8413b", "no goal": "#6b7a8f"}


def draw(path: Path, found: list[Line], machine: dict[str, str]) -> None:
    """Write the plot of all rates that have a ceiling.

    Raises:
        SkippedError: matplotlib is not installed, or there is nothing to draw.
    """
    try:
        import matplotlib  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        raise SkippedError("the plot is skipped: the package `matplotlib` is not installed") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found, unused-ignore]

    drawn = [line for line in found if line.unit == "records/s" and line.ratio is not None]
    if not drawn:
        raise SkippedError("the plot is skipped: no rate was taken beside a ceiling")
    figure, axes = pyplot.subplots(figsize=(10, 1.5 + 0.32 * len(drawn)), layout="constrained")
    for place, line in enumerate(drawn):
        draw_line(axes, place, line)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(range(len(drawn)), [label(line) for line in drawn], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("rate as a multiple of its ceiling (bar: pylog, cross: best peer)")
    axes.set_title(f"pylog {machine['commit']}, {machine['processor']}, {machine['taken']}", fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def label(line: Line) -> str:
    """The name of a bar."""
    return f"{line.operation}, {line.size} B {line.codec}, {line.durability}"


def draw_line(axes: Any, place: int, line: Line) -> None:
    """One bar, and a cross where the best peer stands."""
    assert line.ratio is not None
    axes.barh(place, line.ratio, color=COLOURS.get(line.verdict, COLOURS["no goal"]), height=0.7)
    axes.text(line.ratio, place, f" {line.ratio:.2f}x", va="center", fontsize=7)
    if line.best_peer_ratio:
        axes.plot(line.ratio / line.best_peer_ratio, place, "x", color="black", markersize=6)
