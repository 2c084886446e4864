"""Contests of committing: what one commit of a group's member costs, seen by all processes on return.

A row is the time of one commit; its note is commits a second. Each writes both copies of the offset, checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from benchmarks.contest import Contest, Contestant, Goal, Operation, Row, Timed, Timing
from benchmarks.suite.opening import TOPIC, TopicShape, engine_with_topic
from benchmarks.workload import Workload, workload

Durability = Literal["os", "sync"]


def committing(durability: Durability, commit: Callable[[Any], None], partitions: int = 1) -> Operation:
    """One poll, then as many commits as there are records, by the only member of a group; the last waits."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        shape = TopicShape(partitions=partitions, durability=durability)
        with engine_with_topic(directory, shape) as engine:
            engine.append_many(TOPIC, work.values)
            with engine.consumer(TOPIC, group="g", auto_offset_reset="earliest") as consumer:

                consumer.poll(1)

                def timed() -> Timing:
                    started = time.perf_counter()
                    for _ in range(work.count):
                        commit(consumer)
                    consumer.commit()
                    seconds = (time.perf_counter() - started) / (work.count + 1)
                    return Timing(seconds, {"per_second": 1 / seconds})

                yield timed

    return operation


def positions(consumer: Any) -> None:
    """What was polled so far."""
    consumer.commit()


def positions_async(consumer: Any) -> None:
    """What was polled so far, without waiting for the disk."""
    consumer.commit_async()


def commits(count: int, slow: float) -> Contest:
    """commit() and commit_async(), with and without a sync."""
    many, few = workload(100, count), workload(100, int(2_000 * slow))
    return Contest(
        name="commits",
        size=100,
        codec="raw",
        durability="os, sync",
        contestants=(
            Contestant("os", committing("os", positions), many),
            Contestant("os, async", committing("os", positions_async), many),
            Contestant("os, 4 partitions", committing("os", positions, partitions=4), many),
            Contestant("sync", committing("sync", positions), few),
            Contestant("sync, async", committing("sync", positions_async), few),
        ),
        rows=(
            Row("commit(), 1 partition, os", "os", None, Goal(most=1)),
            Row("commit_async(), 1 partition, os", "os, async"),
            Row("commit(), 4 partitions, os", "os, 4 partitions", None, Goal(most=4)),
            Row("commit(), 1 partition, sync", "sync"),
            Row("commit_async(), 1 partition, sync", "sync, async"),
        ),
        unit="us",
        warm_up=False,
    )
