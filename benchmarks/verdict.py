"""What a row of the table says once its contest was run: figures, ratios, and whether the goal is met.

Ratios are medians over the rounds of ratios within a round, so they need not be the ratios of the medians
that stand beside them.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.contest import Row, Unit
from benchmarks.measure import Outcome, Samples


@dataclass(frozen=True)
class Line:
    """One finished line of the table; None where there is nothing to say."""

    operation: str
    size: int
    codec: str
    durability: str
    unit: Unit
    goal: str
    rounds: int = 0
    figure: float | None = None
    ceiling: str | None = None
    ceiling_figure: float | None = None
    ratio: float | None = None
    best_peer: str | None = None
    best_peer_figure: float | None = None
    best_peer_ratio: float | None = None
    peer_ratios: dict[str, float] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)
    ceiling_notes: dict[str, float] = field(default_factory=dict)
    verdict: Literal["met", "missed", "no goal", "skipped", "failed"] = "no goal"
    missing: str = ""       # what was missed and by how much, or why it was skipped


def lines(outcome: Outcome) -> list[Line]:
    """The lines of a contest that was run."""
    return [line(outcome, row) for row in outcome.contest.rows]


def line(outcome: Outcome, row: Row) -> Line:
    """One row, judged."""
    contest = outcome.contest
    ours = outcome.samples.get(row.contestant)
    ceiling = outcome.samples.get(row.ceiling) if row.ceiling else None
    peers = {name: outcome.samples[name] for name in row.peers if name in outcome.samples}
    best = max(peers, key=lambda name: peers[name].median, default=None)
    ratios = {name: ratio for name, peer in peers.items() if ours and (ratio := ours.ratio_to(peer))}
    misses = judge(row, ours, ceiling, ratios) if ours else []
    goal = str(row.goal)
    absent: Literal["failed", "skipped"] = "failed" if row.contestant in outcome.failed else "skipped"
    return Line(
        operation=row.operation,
        size=contest.size,
        codec=contest.codec,
        durability=contest.durability,
        unit=contest.unit,
        goal=goal,
        rounds=len(ours.figures) if ours else 0,
        figure=ours.median if ours else None,
        ceiling=row.ceiling,
        ceiling_figure=ceiling.median if ceiling else None,
        ratio=ours.ratio_to(ceiling) if ours and ceiling else None,
        best_peer=best,
        best_peer_figure=peers[best].median if best else None,
        best_peer_ratio=ratios.get(best) if best else None,
        peer_ratios=ratios,
        notes=ours.median_notes() if ours else {},
        ceiling_notes=ceiling.median_notes() if ceiling else {},
        verdict=absent if ours is None else "missed" if misses else "met" if goal else "no goal",
        missing="; ".join(misses) if ours else outcome.missing(row.contestant),
    )


def judge(row: Row, ours: Samples, ceiling: Samples | None, peers: dict[str, float]) -> list[str]:
    """What of the row's goal is missed, each with its figure; a peer that did not run is not judged."""
    goal, misses = row.goal, []
    if goal.ratio is not None and ceiling and (ratio := ours.ratio_to(ceiling) or 0.0) < goal.ratio:
        misses.append(f"{ratio:.2f}x of {goal.ratio:g}x")
    if goal.above is not None and ceiling and (above := excess(ours, ceiling)) > goal.above:
        misses.append(f"bare + {above:.1f}")
    if goal.most is not None and ours.median > goal.most:
        misses.append(f"{ours.median:.1f} of {goal.most:g}")
    if goal.least is not None and ours.median < goal.least:
        misses.append(f"{ours.median:,.0f} of {goal.least:,.0f}")
    for name, least in goal.peers.items():
        if name in peers and peers[name] < least:
            misses.append(f"{name} {peers[name]:.2f}x of {least:g}x")
    return misses


def excess(ours: Samples, ceiling: Samples) -> float:
    """Median over the rounds of how much more ours took than the ceiling."""
    shared = ours.figures.keys() & ceiling.figures.keys()
    return statistics.median(ours.figures[n] - ceiling.figures[n] for n in shared)
