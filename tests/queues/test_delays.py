"""15a: very many delayed records survive a restart, and each comes once, at its time."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

import pylog

SECOND = 1_000_000_000


def fire(data: Path, count: int, seconds: float, lead: float) -> list[int]:
    """Put records due over some seconds, restart, and return how late each came, in ns, sorted."""
    begin = time.time_ns() + round(lead * SECOND)
    due = [begin + round(random.random() * seconds * SECOND) for _ in range(count)]
    with pylog.open(data) as engine, engine.queue("jobs", durability="os") as jobs:
        for number, when in enumerate(due):
            jobs.put(b"%d" % number, at=when)
    late: dict[int, int] = {}
    with pylog.open(data) as engine, engine.queue("jobs") as jobs:
        while len(late) < count:
            batch = jobs.get_many(1000, 60.0)
            assert batch, "nothing is lost"
            now = time.time_ns()
            for delivery in batch:
                number = int(delivery.value)
                assert number not in late, "each comes once"
                late[number] = now - due[number]
            assert jobs.ack_many(batch) == []
        assert jobs.get(0) is None
    return sorted(late.values())


def test_15a_delayed_records_survive_a_restart_and_none_comes_early_or_twice(data: Path) -> None:
    assert fire(data, 3000, 0.5, 0.3)[0] >= 0


@pytest.mark.soak
def test_15a_a_million_delayed_records_come_within_10_ms_of_their_time(data: Path) -> None:
    late = fire(data, 1_000_000, 120.0, 20.0)
    assert late[0] >= 0
    assert late[len(late) * 99 // 100] <= 10_000_000
