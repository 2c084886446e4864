"""Reading back: records one by one out of poll(1000), and columnar batches.

The topic is written by one engine and read by another that is opened after it was closed, so that the pages
are in memory (as the ceiling's are) and the mapping is new (as the ceiling's is): each batch is verified.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.contest import Operation, Timed, Timing
from benchmarks.processes import children
from benchmarks.suite.opening import TOPIC, TopicShape, open_engine, write_topic
from benchmarks.workload import Workload

POLL = 1000


@contextmanager
def written_topic(directory: Path, shape: TopicShape, work: Workload) -> Iterator[Any]:
    """A consumer at the beginning of a topic that holds the workload."""
    write_topic(directory, shape, work)
    with open_engine(directory) as engine, engine.consumer() as consumer:
        consumer.assign([(TOPIC, partition) for partition in range(shape.partitions)])
        consumer.seek_to_beginning()
        yield consumer


def poll(shape: TopicShape) -> Operation:
    """`poll(1000)`, the value of every record taken."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        with written_topic(directory, shape, work) as consumer:

            def timed() -> None:
                left = work.count
                while left > 0:
                    records = consumer.poll(POLL, timeout=1.0)
                    for record in records:
                        record.value  # noqa: B018
                    left -= len(records)

            yield timed

    return operation


def batches(shape: TopicShape) -> Operation:
    """`batches()`, the value lengths of every batch summed."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        with written_topic(directory, shape, work) as consumer:

            def timed() -> None:
                left, total = work.count, 0
                for batch in consumer.batches(timeout=1.0):
                    lengths = batch.value_lengths
                    total += int(lengths.sum())
                    left -= len(lengths)
                    if left <= 0:
                        break
                if total != work.count * work.size:
                    raise AssertionError(f"read {total} bytes instead of {work.count * work.size}")

            yield timed

    return operation


def reader_memory(shape: TopicShape) -> Operation:
    """Private memory (RssAnon, in MB) of a process that polls through the topic, at its highest."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        write_topic(directory, shape, work)
        with children(1, read_and_report, directory, work.count) as (reader,):

            def timed() -> Timing:
                reader.send("go")
                first, highest = reader.receive()
                return Timing(highest, {"before_reading_mb": first})

            yield timed

    return operation


def read_and_report(number: int, directory: Path, count: int, pipe: Connection) -> None:
    """The reading process."""
    with open_engine(directory) as engine, engine.consumer() as consumer:
        consumer.assign([(TOPIC, 0)])
        consumer.seek_to_beginning()
        pipe.send("ready")
        pipe.recv()
        first = highest = private_megabytes()
        turns = 0
        while count > 0:
            records = consumer.poll(POLL, timeout=1.0)
            for record in records:
                record.value  # noqa: B018
            count -= len(records)
            turns += 1
            if turns % 50 == 0:
                highest = max(highest, private_megabytes())
        pipe.send((first, max(highest, private_megabytes())))


def private_megabytes() -> float:
    """RssAnon of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no RssAnon in /proc/self/status")
