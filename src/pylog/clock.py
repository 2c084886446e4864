"""The clock that is passed in wherever pylog itself asks for the time, so that tests need no sleep.

Not the clock of the native core, which stamps records and times syncs by itself. Invariant: `monotonic` never
goes back.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What pylog wants to know about time."""

    def time_ns(self) -> int:
        """Return the wall clock in nanoseconds since 1970: for what people read."""

    def monotonic(self) -> float:
        """Return seconds that only grow: for deadlines."""


class SystemClock:
    """The machine's own clock."""

    def time_ns(self) -> int:
        """Return the wall clock in nanoseconds since 1970."""
        return time.time_ns()

    def monotonic(self) -> float:
        """Return CLOCK_MONOTONIC in seconds."""
        return time.monotonic()


class Deadline:
    """A point in time from which a blocking call returns, or never."""

    __slots__ = ("_at", "_clock")

    def __init__(self, clock: Clock, timeout: float | None) -> None:
        self._clock = clock
        self._at = None if timeout is None else clock.monotonic() + timeout

    def left(self, at_most: float) -> float:
        """Return the seconds that are left, never negative, never more than `at_most`."""
        if self._at is None:
            return at_most
        return min(at_most, max(0.0, self._at - self._clock.monotonic()))

    def passed(self) -> bool:
        """Return whether the time is up."""
        return self._at is not None and self._clock.monotonic() >= self._at
