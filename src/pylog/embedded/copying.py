"""Copying a topic into another one, which may have other partitions.

Each partition of the source is an idempotent producer of the destination, and offsets are its sequences: a
copy that was killed goes on, and whatever it brings once more is dropped. Invariant: the records of a key
arrive in their order, also where the source had got more partitions and they stand in several.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

from logcore.topic_log import TopicLog
from pylog.embedded.reading import records_until
from pylog.errors import ConfigError
from pylog.records import CopyReport, Record, TopicDescription

if TYPE_CHECKING:
    from pylog.embedded.engine import EmbeddedEngine
    from pylog.embedded.producer import EmbeddedProducer


def copy_topic(
    engine: EmbeddedEngine, source: str, destination: str, partitions: int | None
) -> CopyReport:
    """Copy what is there now: see EmbeddedEngine.copy_topic."""
    if source == destination:
        raise ConfigError(f"a copy of topic {source!r} needs another name")
    found = engine.describe_topic(source)
    if destination in engine.list_topics():
        made = engine.create_topic(destination, partitions=partitions)
    else:
        made = engine.create_topic(
            destination,
            partitions=partitions or found.partitions,
            partitioner=found.partitioner,  # type: ignore[arg-type]  # one that a topic has
            **found.config.as_dict(),  # type: ignore[arg-type]
        )
    with ExitStack() as stack:
        copy = TopicCopy(engine, found, made, stack)
        copy.run()
        report = copy.report()
    engine.sync(destination)
    return report


class TopicCopy:
    """One run of a copy."""

    def __init__(
        self, engine: EmbeddedEngine, source: TopicDescription, made: TopicDescription, stack: ExitStack
    ) -> None:
        self._engine = engine
        self._source = source
        self._made = made
        self._stack = stack
        self._log: TopicLog = engine._log(source.name)
        self._ends = {p: self._log.log_end_offset(p) for p in range(self._log.partitions)}
        self._producers: dict[int, EmbeddedProducer] = {}

    def run(self) -> None:
        """Copy what stood in other partitions before the source grew in the order of time, then the rest."""
        moved = {p: self._end_of_moved(p) for p in self._ends}
        before = [self._records(p, end) for p, end in moved.items() if end > self._start(p)]
        current: int | None = None
        for record in heapq.merge(*before, key=lambda record: record.timestamp):
            if current is not None and record.partition != current:
                self._producer(current).flush()  # the same key may come next, from another partition
            current = record.partition
            self._send(record)
        for producer in self._producers.values():
            producer.flush()
        for partition, end in self._ends.items():
            for record in self._records(partition, end):
                self._send(record)
            self._producer(partition).flush()

    def _producer(self, partition: int) -> EmbeddedProducer:
        found = self._producers.get(partition)
        if found is None:
            identity = f"copy.{self._source.uuid[:16]}.{self._made.uuid[:16]}.{partition}"
            found = self._stack.enter_context(self._engine.producer(producer_id=identity))
            self._producers[partition] = found
        return found

    def _start(self, partition: int) -> int:
        """Return the first offset that may be missing."""
        copied: int = self._producer(partition).resume_from(self._made.name)
        return max(copied, self._log.log_start_offset(partition))

    def _end_of_moved(self, partition: int) -> int:
        """Return the end of the last record that stands where its key would not put it now."""
        moved = 0
        if self._log.partitions == 1:
            return moved
        reader = self._log.reader(partition, self._start(partition))
        while reader.offset < self._ends[partition]:
            batch = reader.next_batch()
            if batch is None:
                break
            for offset, key in zip(batch.offsets, batch.keys(), strict=True):
                if key is not None and self._log.partition_for(key) != partition:
                    moved = int(offset) + 1
        return min(moved, self._ends[partition])

    def _records(self, partition: int, end: int) -> Iterator[Record]:
        return records_until(self._log, {partition: end}, self._start(partition), False)

    def _send(self, record: Record) -> None:
        self._producer(record.partition).send(
            self._made.name,
            record.value,
            record.key,
            headers=record.headers,
            timestamp=record.timestamp,
            sequence=record.offset,
        )

    def report(self) -> CopyReport:
        """Say what was done."""
        counted = [producer.metrics() for producer in self._producers.values()]
        return CopyReport(
            self._source.name,
            self._made.name,
            self._made.partitions,
            sum(found["records_written"] for found in counted),
            sum(found["duplicates_dropped"] for found in counted),
        )
