"""The second face of the suite: each contestant by itself under pytest-benchmark.

Nothing is defined here; contests and operations are the table's. Under pytest there are no alternating
rounds, so compare within a group only, and take ratios from `python -m benchmarks`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contest import Contest, Contestant, SkippedError, Timing
from benchmarks.measure import prepared
from benchmarks.suite import QUICK, contests

ROUNDS = 5


@dataclass(frozen=True)
class Case:
    """One contestant of one contest."""

    contest: Contest
    contestant: Contestant

    def __str__(self) -> str:
        return f"{self.contestant.name} | {self.contest.name}".replace(" ", "_")


def cases(*beginnings: str) -> pytest.MarkDecorator:
    """Parametrize `case` over all contestants of the contests whose names begin so."""
    found = [
        Case(contest, contestant)
        for contest in contests(QUICK)
        if contest.name.startswith(beginnings)
        for contestant in contest.contestants
    ]
    return pytest.mark.parametrize("case", found, ids=str)


def run_case(benchmark: Any, case: Case, scratch: Path) -> None:
    """Time the case's operation on a fresh directory each round; skip with the line that says why."""
    benchmark.group = case.contest.name
    benchmark.extra_info.update(
        records=case.contestant.work.count,
        size=case.contest.size,
        codec=case.contest.codec,
        durability=case.contest.durability,
    )
    stack = ExitStack()

    def setup() -> tuple[tuple[Callable[[], Timing | None]], dict[str, Any]]:
        stack.close()
        return (stack.enter_context(prepared(case.contestant, scratch)),), {}

    def timed(operation: Callable[[], Timing | None]) -> Timing | None:
        return operation()

    try:
        with stack:
            own = benchmark.pedantic(timed, setup=setup, rounds=case.contest.rounds or ROUNDS)
    except SkippedError as reason:
        pytest.skip(str(reason))
    if own is not None:         # its own clock (of the last round): the time of the call says little
        benchmark.extra_info.update(own.notes, **{case.contest.unit: own.seconds})
