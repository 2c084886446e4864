"""Contests of transactions: how many commit a second, and what consume-transform-produce makes of them.

A synced transaction stands beside one fdatasync of as many bytes, though it takes several: of the redo
record, of its directory's entry and of every part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from benchmarks.contest import Contest, Contestant, Operation, Row, Timed
from benchmarks.probe import operations as ceilings
from benchmarks.suite.opening import TOPIC, TopicShape, engine_with_topic
from benchmarks.workload import Workload, workload

Durability = Literal["os", "interval", "sync"]
OUT = "out"
INPUTS = 100


def parts(count: int, durability: Durability) -> Operation:
    """One record into each of `count` partitions, committed together."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        shape = TopicShape(partitions=count, durability=durability)
        with engine_with_topic(directory, shape) as engine:

            def timed() -> None:
                transaction_of, partitions = engine.transaction, range(count)
                for value in work.values:
                    with transaction_of() as transaction:
                        for partition in partitions:
                            transaction.append(TOPIC, value, partition=partition)

            yield timed

    return operation


def transform(durability: Durability) -> Operation:
    """Read, append an output for each input, commit both: INPUTS records a transaction."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        shape = TopicShape(durability=durability)
        with engine_with_topic(directory, shape) as engine:
            engine.create_topic(OUT, **shape.options())
            engine.append_many(TOPIC, work.values, work.keys)
            with engine.consumer(TOPIC, group="g", auto_offset_reset="earliest") as consumer:

                def timed() -> None:
                    while records := consumer.poll(INPUTS):
                        with engine.transaction() as transaction:
                            for record in records:
                                transaction.append(OUT, record.value, record.key)
                            transaction.commit_offsets(consumer)

                yield timed

    return operation


def committing(durability: Durability, count: int, records: int) -> Contest:
    """Transactions of two and of eight parts, and consume-transform-produce, under one durability."""
    work = workload(100, count)
    probe = "C fdatasync" if durability == "sync" else None
    ceiling = (Contestant("C fdatasync", ceilings.synced_append, work),) if probe else ()
    return Contest(
        name=f"transactions, {durability}",
        size=100,
        codec="raw",
        durability=durability,
        contestants=(
            *ceiling,
            Contestant("two parts", parts(2, durability), work),
            Contestant("eight parts", parts(8, durability), work),
            Contestant("transform", transform(durability), workload(100, records)),
        ),
        rows=(
            Row("transactions of 2 parts", "two parts", probe),
            Row("transactions of 8 parts", "eight parts", probe),
            Row(f"consume, transform, produce: records, {INPUTS} a transaction", "transform"),
        ),
        warm_up=False,
    )


def transactions(slow: float) -> list[Contest]:
    """All three durabilities."""
    return [
        committing("os", int(10_000 * slow), int(200_000 * slow)),
        committing("interval", int(5_000 * slow), int(100_000 * slow)),
        committing("sync", int(1_000 * slow), int(20_000 * slow)),
    ]
