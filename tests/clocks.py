"""A clock for tests: the machine's own, turned forward."""

from __future__ import annotations

import time

DAY_MS = 86_400_000


class TurnedClock:
    """`passed_ms`: time that goes by; `turned_ms`: what somebody set the wall clock forward by."""

    def __init__(self) -> None:
        self.turned_ms = self.passed_ms = 0

    def time_ns(self) -> int:
        return time.time_ns() + (self.turned_ms + self.passed_ms) * 1_000_000

    def monotonic(self) -> float:
        return time.monotonic() + self.passed_ms / 1000

    def pass_days(self, days: float) -> None:
        self.passed_ms += int(days * DAY_MS)


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def time_ns(self) -> int:
        return round(self.now * 1_000_000_000)

    def monotonic(self) -> float:
        return self.now
