"""Prints the table and writes the JSON of a run, and the table once more as Markdown.

The JSON holds every sample of every round, so that a figure can be looked into later; the table holds
medians only.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.measure import Outcome
from benchmarks.verdict import Line

COLUMNS = (
    ("operation", "left"),
    ("record", "right"),
    ("durability", "left"),
    ("rate", "right"),
    ("ceiling", "right"),
    ("ratio", "right"),
    ("goal", "left"),
    ("best peer", "left"),
    ("to peer", "right"),
    ("", "left"),
)
STYLES = {"met": "green", "missed": "bold red", "no goal": "dim", "skipped": "yellow", "failed": "bold red"}


def table(found: list[Line]) -> Table:
    """The one table of a run."""
    made = Table(title="records/s unless a unit is given; ratios are medians of per-round ratios")
    for heading, side in COLUMNS:
        made.add_column(heading, justify="right" if side == "right" else "left", overflow="fold")
    for line in found:
        made.add_row(*cells(line))
    return made


def cells(line: Line) -> list[Text]:
    """One row's cells; the last says met or missed, and by how much."""
    record = f"{line.size} B" + (" zstd" if line.codec == "zstd" else "")
    operation = line.operation + "".join(f"\n  {name} {noted:.1f}" for name, noted in noted_of(line).items())
    peer = f"{line.best_peer} {human(line.best_peer_figure)}" if line.best_peer else ""
    end = line.verdict + (f": {line.missing}" if line.missing else "")
    return [
        Text(operation),
        Text(record),
        Text(line.durability),
        Text(with_unit(line.figure, line.unit)),
        Text(with_unit(line.ceiling_figure, line.unit)),
        Text(times(line.ratio)),
        Text(line.goal),
        Text(peer),
        Text(times(line.best_peer_ratio)),
        Text(end, style=STYLES[line.verdict]),
    ]


def noted_of(line: Line) -> dict[str, float]:
    """Notes of the operation and, marked as such, of its ceiling."""
    return line.notes | {f"bare {name}": noted for name, noted in line.ceiling_notes.items()}


def human(figure: float | None) -> str:
    """A rate in three digits: 12.3 M, 456 k, 789."""
    if figure is None:
        return ""
    for least, name in ((1e6, " M"), (1e3, " k")):
        if figure >= least:
            return f"{figure / least:.3g}{name}" if figure < 1000 * least else f"{figure / least:.0f}{name}"
    return f"{figure:.3g}"


def with_unit(figure: float | None, unit: str) -> str:
    """A figure as the table shows it."""
    if figure is None:
        return ""
    return human(figure) if unit == "records/s" else f"{figure:.1f} {unit}"


def times(ratio: float | None) -> str:
    """A ratio as the table shows it."""
    return "" if ratio is None else f"{ratio:.2f}x"


def write_markdown(path: Path, found: list[Line]) -> None:
    """Write the table as docs/benchmarks.md keeps it."""
    rows = [[heading or "verdict" for heading, _ in COLUMNS], ["---"] * len(COLUMNS)]
    rows += [[cell.plain.replace("\n ", ",") for cell in cells(line)] for line in found]
    path.write_text("".join("| " + " | ".join(row) + " |\n" for row in rows))


def show(console: Console, machine: dict[str, str], found: list[Line], outcomes: list[Outcome]) -> None:
    """Print the machine, the table, and a line for everybody who did not take part."""
    for name, said in machine.items():
        console.print(Text(f"{name}: {said}", style="dim"))
    console.print(table(found))
    for reason in sorted({reason for outcome in outcomes for reason in all_missing(outcome)}):
        console.print(Text(reason, style="yellow"))
    counted = {verdict: sum(line.verdict == verdict for line in found) for verdict in STYLES}
    console.print(", ".join(f"{count} {verdict}" for verdict, count in counted.items() if count))


def all_missing(outcome: Outcome) -> list[str]:
    """A reason for everybody who has no samples."""
    return [*outcome.skipped.values(), *outcome.failed.values()]


def write_json(path: Path, machine: dict[str, str], found: list[Line], outcomes: list[Outcome]) -> None:
    """Write machine, lines and all samples."""
    contests = [
        {
            "name": outcome.contest.name,
            "unit": outcome.contest.unit,
            "contestants": {
                contestant.name: {
                    "records": contestant.work.count,
                    "peer": contestant.peer,
                    "samples": list(samples.figures.values()),
                    "notes": samples.notes,
                }
                for contestant in outcome.contest.contestants
                if (samples := outcome.samples.get(contestant.name))
            },
            "skipped": outcome.skipped,
            "failed": outcome.failed,
        }
        for outcome in outcomes
    ]
    document = {"machine": machine, "lines": [asdict(line) for line in found], "contests": contests}
    path.write_text(json.dumps(document, indent=1) + "\n")
