"""The vocabulary of the benchmarks: operation, contestant, row, goal, contest.

An *operation* prepares itself outside the clock and yields the call that is timed. A *contest* is a set of
contestants that take turns within one run; a *row* of the table names one of them, the one that is its
ceiling and those that are its peers. Invariant: only contestants of one contest are ever compared.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from benchmarks.workload import Workload


@dataclass(frozen=True)
class Timing:
    """What an operation measured with a clock of its own: seconds, and figures worth a note."""

    seconds: float
    notes: dict[str, float] = field(default_factory=dict)


Timed = Callable[[], Timing | None]
Operation = Callable[[Path, Workload], AbstractContextManager[Timed]]
Unit = Literal["records/s", "us", "ms", "MB"]


class SkippedError(Exception):
    """Something is not installed or not there yet; the message is the clear line about it."""


@dataclass(frozen=True)
class Contestant:
    """An operation under a name, with the records it gets."""

    name: str
    operation: Operation
    work: Workload
    peer: bool = False


@dataclass(frozen=True)
class Goal:
    """What a row must reach.

    `ratio` is the least of rate / ceiling; `above` the most that a time may exceed its ceiling, `most` the
    most it may be, both in the row's unit; `least` the least that a rate may be; `peers` the least of
    rate / that peer's rate.
    """

    ratio: float | None = None
    above: float | None = None
    most: float | None = None
    least: float | None = None
    peers: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = []
        if self.ratio is not None:
            parts.append(f">= {self.ratio:g}x")
        if self.above is not None:
            parts.append(f"<= bare + {self.above:g}")
        if self.most is not None:
            parts.append(f"<= {self.most:g}")
        if self.least is not None:
            parts.append(f">= {self.least:,.0f}")
        parts += [f"{name} >= {least:g}x" for name, least in self.peers.items()]
        return ", ".join(parts)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    operation: str
    contestant: str
    ceiling: str | None = None
    goal: Goal = field(default_factory=Goal)
    peers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contest:
    """Contestants that take turns, and the rows drawn from them."""

    name: str
    size: int
    codec: Literal["raw", "zstd"]
    durability: str
    contestants: tuple[Contestant, ...]
    rows: tuple[Row, ...]
    unit: Unit = "records/s"
    rounds: int | None = None       # where one round is costly: fewer than the run's
    warm_up: bool = True            # one round more, first, that counts for nothing
