"""`python -m benchmarks`: run the contests, print one table, keep JSON and a plot."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from rich.console import Console

from benchmarks import machine, plot, probe, report
from benchmarks.contest import Contest, SkippedError
from benchmarks.measure import Outcome, run_contest
from benchmarks.suite import FULL, GROWTH, QUICK, contests, growth
from benchmarks.verdict import Line, lines

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; return 0 for any figures, 1: an operation failed, 2: no match, 130: stopped."""
    options = parse(arguments)
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    everything = growth(GROWTH) if options.growth else contests(QUICK if options.quick else FULL)
    chosen = [contest for contest in everything if matches(contest, options.only)]
    status = Console(stderr=True)
    if not chosen:
        status.print(f"no contest matches {options.only!r}; --list shows all")
        return 2
    if options.list:
        for contest in chosen:
            print(f"{contest.name}: " + "; ".join(row.operation for row in contest.rows))
        return 0
    facts = machine.describe(out)
    outcomes: list[Outcome] = []
    interrupted = False
    try:
        run_all(chosen, options.rounds or (2 if options.quick else 3), out, status, outcomes)
    except KeyboardInterrupt:
        interrupted = True
    found = [line for outcome in outcomes for line in lines(outcome)]
    facts["load when done"] = machine.load()
    report.show(console_for(), facts, found, outcomes)
    keep(out, facts, found, outcomes, status)
    return 130 if interrupted else 1 if any(outcome.failed for outcome in outcomes) else 0


def console_for() -> Console:
    """Standard output; on a pipe wide enough that no row is cut."""
    return Console() if sys.stdout.isatty() else Console(width=200)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer records and rounds: for a look, not for a claim")
    add("--growth", action="store_true", help="the growth rows alone: 100 M records (14 GB of disk), 5 GB")
    add("--only", metavar="PATTERN", help="contests whose name or rows match, e.g. 'wake' or '*zstd*'")
    add("--rounds", type=int, metavar="N", help="rounds of each contest")
    add("--out", type=Path, default=RESULTS, metavar="DIR", help="where results are kept")
    add("--list", action="store_true", help="name the contests and run nothing")
    return parser.parse_args(arguments)


def matches(contest: Contest, pattern: str | None) -> bool:
    """True where the pattern is part of, or a glob for, the contest's name or one of its rows."""
    names = [contest.name, *(row.operation for row in contest.rows)]
    return pattern is None or any(pattern in name or fnmatch(name, pattern) for name in names)


def run_all(chosen: list[Contest], rounds: int, out: Path, status: Console, outcomes: list[Outcome]) -> None:
    """Run the contests in a directory next to the results, so on the same file system."""
    scratch = Path(tempfile.mkdtemp(prefix="data-", dir=out))
    try:
        with status.status("building the ceilings") as shown:
            for name in ("rows", "waits"):
                probe.load(name)
            for contest in chosen:
                outcomes.append(run_contest(contest, rounds, scratch, shown.update))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def keep(
    out: Path, facts: dict[str, str], found: list[Line], outcomes: list[Outcome], status: Console
) -> None:
    """Write JSON and plot, and say where."""
    name = facts["taken"].replace(" UTC", "").replace(" ", "-").replace(":", "")
    report.write_json(out / f"{name}.json", facts, found, outcomes)
    report.write_markdown(out / f"{name}.md", found)
    status.print(f"kept {out / name}.json and .md", highlight=False)
    try:
        plot.draw(out / f"{name}.png", found, facts)
        status.print(f"kept {out / name}.png", highlight=False)
    except SkippedError as reason:
        status.print(str(reason))


if __name__ == "__main__":
    sys.exit(main())
