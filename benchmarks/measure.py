"""Runs contests: alternating rounds, each contestant on a fresh directory, medians over the rounds.

The machine is never quiet, so a rate alone says little; what is compared is taken within seconds of each
other and the ratio formed round by round. Invariant: files of one turn are gone before the next starts.
"""

from __future__ import annotations

import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.contest import Contest, Contestant, SkippedError, Timing, Unit


@dataclass
class Samples:
    """One figure per round: records/s, or the unit of the contest."""

    figures: dict[int, float] = field(default_factory=dict)
    notes: dict[str, list[float]] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.figures.values())

    def ratio_to(self, other: Samples) -> float | None:
        """Median of the ratios of the rounds that both took part in."""
        shared = self.figures.keys() & other.figures.keys()
        if not shared:
            return None
        return statistics.median(self.figures[n] / other.figures[n] for n in shared)

    def median_notes(self) -> dict[str, float]:
        """The median of each note."""
        return {name: statistics.median(seen) for name, seen in self.notes.items()}


@dataclass
class Outcome:
    """A contest that was run: samples by contestant, and why the others are missing."""

    contest: Contest
    samples: dict[str, Samples]
    skipped: dict[str, str]
    failed: dict[str, str] = field(default_factory=dict)

    def missing(self, name: str) -> str:
        """Why a contestant has no samples, or too few."""
        return self.failed.get(name) or self.skipped.get(name, "")


Progress = Callable[[str], None]


def run_contest(contest: Contest, rounds: int, scratch: Path, progress: Progress) -> Outcome:
    """Let the contestants take turns for `rounds` rounds; whoever cannot take part is left out.

    The round before the first is not counted: memory that a virtual machine never used before is several
    times slower to touch, and would be charged to whoever comes first.
    """
    outcome = Outcome(contest, {}, {})
    rounds = min(rounds, contest.rounds or rounds)
    for number in range(-1 if contest.warm_up else 0, rounds):
        for contestant in in_turn(contest.contestants, number):
            if outcome.missing(contestant.name):
                continue
            progress(f"{contest.name}: round {number + 1} of {rounds}, {contestant.name}")
            try:
                timing = take_turn(contestant, scratch)
            except SkippedError as reason:
                outcome.skipped[contestant.name] = str(reason)
                continue
            except Exception as error:      # the others go on; the run ends with 1 and names it
                outcome.failed[contestant.name] = f"{contestant.name} failed: {type(error).__name__}: {error}"
                outcome.samples.pop(contestant.name, None)
                continue
            if number < 0:
                continue
            samples = outcome.samples.setdefault(contestant.name, Samples())
            samples.figures[number] = figure(contest.unit, contestant.work.count, timing.seconds)
            for name, noted in timing.notes.items():
                samples.notes.setdefault(name, []).append(noted)
    return outcome


def in_turn(contestants: tuple[Contestant, ...], number: int) -> tuple[Contestant, ...]:
    """The order of round `number`: every second one backwards, so that nobody is always first."""
    return contestants[::-1] if number % 2 else contestants


def take_turn(contestant: Contestant, scratch: Path) -> Timing:
    """Prepare, time and clean up one operation once."""
    with prepared(contestant, scratch) as timed:
        gc.collect()
        started = time.perf_counter()
        own = timed()
        elapsed = time.perf_counter() - started
    return own or Timing(elapsed)


@contextmanager
def prepared(contestant: Contestant, scratch: Path) -> Iterator[Callable[[], Timing | None]]:
    """The timed call of a contestant, ready in a directory of its own that is removed afterwards."""
    scratch.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=scratch))
    try:
        with contestant.operation(directory, contestant.work) as timed:
            yield timed
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def figure(unit: Unit, count: int, seconds: float) -> float:
    """What a turn of `count` records in `seconds` is worth in `unit`."""
    if unit == "records/s":
        return count / seconds
    return seconds * {"us": 1e6, "ms": 1e3, "MB": 1.0}[unit]
