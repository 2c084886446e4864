"""Contests of committing: what one commit of a group's member costs, seen by all processes on return.

A row is the time of one commit; its note is commits a second. Each writes both copies of the offset, checked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from benchmarks.contest import Contest, Contestant, Goal, Operation, Row, Timed, Timing
from benchmarks.suite.opening import TOPIC, TopicShape, engine_with_topic
from benchmarks.workload import Workload, workload

Durability = Literal["os", "sync"]
Method = Literal["commit", "commit_async"]


def committing(durability: Durability, method: Method, partitions: int = 1) -> Operation:
    """One poll, then as many commits as there are records, by the only member of a group; the last waits."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        shape = TopicShape(partitions=partitions, durability=durability)
        with engine_with_topic(directory, shape) as engine:
            engine.append_many(TOPIC, work.values)
            with engine.consumer(TOPIC, group="g", auto_offset_reset="earliest") as consumer:
                consumer.poll(1)
                commit = getattr(consumer, method)

                def timed() -> Timing:
                    started = time.perf_counter()
                    for _ in range(work.count):
                        commit()
                    consumer.commit()
                    seconds = (time.perf_counter() - started) / (work.count + 1)
                    return Timing(seconds, {"per_second": 1 / seconds})

                yield timed

    return operation


def commits(count: int, slow: float) -> Contest:
    """commit() and commit_async(), with and without a sync."""
    many, few = workload(100, count), workload(100, int(2_000 * slow))
    return Contest(
        name="commits",
        size=100,
        codec="raw",
        durability="os, sync",
        contestants=(
            Contestant("os", committing("os", "commit"), many),
            Contestant("os, async", committing("os", "commit_async"), many),
            Contestant("os, 4 partitions", committing("os", "commit", partitions=4), many),
            Contestant("sync", committing("sync", "commit"), few),
            Contestant("sync, async", committing("sync", "commit_async"), few),
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
