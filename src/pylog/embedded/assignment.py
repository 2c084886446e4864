"""The partitions that one consumer reads, taking turns. Never waits.

Not the consumer, which waits, commits and checks who calls. Invariant: a partition that has records is never
kept waiting by another one, whether that is busy or damaged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from logcore.topic_log import TopicLog
from pylog.embedded.partition_cursor import PartitionCursor
from pylog.errors import ConfigError
from pylog.places import place_of, places_of
from pylog.records import Record, RecordBatch, TopicPartition


class Assignment:
    """Cursors by partition, and whose turn it is."""

    def __init__(self) -> None:
        self.cursors: dict[TopicPartition, PartitionCursor] = {}
        self.logs: list[TopicLog] = []
        self.counts = {"records": 0, "batches": 0, "polls": 0, "waits": 0, "commits": 0}
        self._active: list[PartitionCursor] = []
        self._turn = 0

    def take(self, places: list[TopicPartition], opened: Callable[[TopicPartition], PartitionCursor]) -> None:
        """Keep the cursors of what is read already, open the others, drop the rest and the deleted."""
        kept = {place: cursor for place, cursor in self.cursors.items() if not cursor.log.deleted}
        self.cursors = {place: kept.get(place) or opened(place) for place in places}
        self._gather()

    def follow(self, opened: Callable[[str], TopicLog]) -> None:
        """Read-only: go on in topics that writers share by another control file since."""
        for log in self.logs:
            if log.superseded:
                now = opened(log.name)
                for cursor in self.cursors.values():
                    if cursor.log is log:
                        cursor.follow(now)
                self._gather()

    def _gather(self) -> None:
        self.logs = list({id(cursor.log): cursor.log for cursor in self.cursors.values()}.values())
        self.activate()

    def activate(self) -> None:
        """Look again at what is paused."""
        self._active = [cursor for cursor in self.cursors.values() if not cursor.paused]
        self._turn = 0

    def cursor(self, partition: object) -> PartitionCursor:
        """Return the cursor of a partition. Raises ConfigError where it is not assigned."""
        cursor = self.cursors.get(place_of(partition))
        if cursor is None:
            raise ConfigError(f"{partition!r} is not assigned to this consumer")
        return cursor

    def chosen(self, partitions: object) -> list[PartitionCursor]:
        """Return the cursors of these partitions, or of all where there is None."""
        if partitions is None:
            return list(self.cursors.values())
        return [self.cursor(partition) for partition in places_of(partitions)]

    def fetch(self, max_records: int) -> list[Record]:
        """Take what is there, from the partition whose turn it is on."""
        active, count = self._active, len(self._active)
        self.counts["polls"] += 1
        found: list[Record] = []
        first = self._turn
        for step in range(count):
            turn = (first + step) % count
            # moved on before the poll: a damaged partition does not keep the others waiting
            self._turn = turn + 1 if turn + 1 < count else 0
            if not found:
                found = active[turn].poll(max_records)
            else:
                try:
                    found += active[turn].poll(max_records - len(found))
                except Exception:
                    # what the others gave comes first; this one raises again at its next turn
                    self._turn = turn
                    break
            if len(found) >= max_records:
                break
        self.counts["records"] += len(found)
        return found

    def fetch_of_one(self, max_records: int) -> list[Record]:
        """Take from the first partition that has something."""
        self.counts["polls"] += 1
        for cursor in self._turns():
            records = cursor.poll(max_records)
            if records:
                self.counts["records"] += len(records)
                return records
        return []

    def skipped(self) -> bool:
        """Return whether a filter rejected all that the last fetch found, so that there may be more."""
        return any(cursor.skipped for cursor in self._active)

    def next_batch(self) -> RecordBatch | None:
        """Take a batch from the first partition that has one."""
        for cursor in self._turns():
            batch = cursor.next_batch()
            if batch is not None:
                self.counts["batches"] += 1
                self.counts["records"] += batch.record_count
                return batch
        return None

    def _turns(self) -> Iterable[PartitionCursor]:
        active = self._active
        for _ in range(len(active)):
            turn = self._turn
            self._turn = turn + 1 if turn + 1 < len(active) else 0
            yield active[turn]
