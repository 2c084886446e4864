"""Where a consumer stands: what is assigned to it, its positions, seeking, pausing, and who may call.

The part of a consumer that neither waits nor knows of a group. Invariant: what the application was not given
yet is never behind a position.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from threading import get_ident
from typing import TYPE_CHECKING, Any

from logcore.processes import fork_count
from pylog.embedded.assignment import Assignment
from pylog.embedded.partition_cursor import PartitionCursor
from pylog.errors import ClosedError, UnsupportedError
from pylog.places import by_place, nanoseconds, places_of
from pylog.records import OffsetAndTimestamp, TopicPartition

if TYPE_CHECKING:
    from pylog.embedded.engine import EmbeddedEngine
    from pylog.engine import Partitions


class PositionedReader:
    """What EmbeddedConsumer stands on. Belongs to the thread that uses it first, and raises in others."""

    def __init__(self, engine: EmbeddedEngine, *, synced: bool) -> None:
        self._closed = True
        self._engine = engine
        self._registry = engine._registry
        self._forks = fork_count()
        self._thread: int | None = None
        self._synced = synced
        self._assigned = Assignment()
        # what iteration took and the application was not given yet: of one partition
        self._ahead: list[Any] = []
        self._given = 0

    # ---- who may call -----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._closed or self._engine.closed:
            raise ClosedError("the consumer was closed")
        if self._forks != fork_count():
            raise ClosedError("the consumer was inherited through a fork: open one in the child")
        thread = get_ident()
        if self._thread != thread:
            if self._thread is not None:
                raise UnsupportedError("a consumer belongs to the thread that used it first: use one each")
            self._thread = thread

    def _let_go(self) -> None:
        """Belong to the thread that comes next, where this one has the consumer."""
        if self._thread == get_ident():
            self._thread = None

    # ---- what is read -----------------------------------------------------------------------------------

    def assignment(self) -> list[TopicPartition]:
        """Return what is read now."""
        self._check()
        return list(self._assigned.cursors)

    def pause(self, partitions: Partitions | None = None) -> None:
        """Give nothing of these partitions, or of all, until resume()."""
        self._set_paused(partitions, True)

    def resume(self, partitions: Partitions | None = None) -> None:
        """Undo pause()."""
        self._set_paused(partitions, False)

    def _set_paused(self, partitions: Partitions | None, paused: bool) -> None:
        self._check()
        self._give_back()
        for cursor in self._assigned.chosen(partitions):
            cursor.paused = paused
        self._assigned.activate()

    def paused(self) -> list[TopicPartition]:
        """Return what is paused."""
        self._check()
        return [place for place, cursor in self._assigned.cursors.items() if cursor.paused]

    def _give_back(self) -> None:
        """Stand again before what iteration took and the application was not given."""
        if self._given < len(self._ahead):
            record = self._ahead[self._given]
            self._assigned.cursors[TopicPartition(record.topic, record.partition)].position = record.offset
        self._ahead, self._given = [], 0

    # ---- positions --------------------------------------------------------------------------------------

    def position(self, partition: TopicPartition | tuple[str, int]) -> int:
        """Return the offset of the next record that the application is given."""
        self._check()
        return self._position(self._assigned.cursor(partition))

    def _position(self, cursor: PartitionCursor) -> int:
        if self._given < len(self._ahead):
            record = self._ahead[self._given]
            if record.partition == cursor.partition and record.topic == cursor.log.name:
                return int(record.offset)
        return cursor.position

    def seek(self, partition: TopicPartition | tuple[str, int], offset: int) -> None:
        """Go on at an offset. Raises OffsetOutOfRangeError outside [log_start_offset, log_end_offset]."""
        self._check()
        cursor = self._assigned.cursor(partition)
        self._give_back()
        cursor.seek(offset)

    def seek_to_beginning(self, partitions: Partitions | None = None) -> None:
        """Go on at the log start offset of the partitions, or of all."""
        self._check()
        self._give_back()
        for cursor in self._assigned.chosen(partitions):
            cursor.seek(cursor.log.log_start_offset(cursor.partition))

    def seek_to_end(self, partitions: Partitions | None = None) -> None:
        """Go on at the log end offset of the partitions, or of all."""
        self._check()
        self._give_back()
        for cursor in self._assigned.chosen(partitions):
            cursor.seek(cursor.log.log_end_offset(cursor.partition))

    def seek_to_time(self, time: int | datetime, partitions: Partitions | None = None) -> None:
        """Go on at the first record with a timestamp at or after `time`, or at the end where none has.

        Args:
            time: Nanoseconds since 1970, or a datetime with a time zone.
        """
        self._check()
        timestamp = nanoseconds(time)
        self._give_back()
        for cursor in self._assigned.chosen(partitions):
            end = cursor.log.log_end_offset(cursor.partition)
            found = cursor.offset_for_time(timestamp)
            cursor.seek(end if found is None else found)

    def offsets_for_times(
        self, times: Mapping[TopicPartition | tuple[str, int], int | datetime]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """Return for each partition its first record at or after the time, or None where it has none."""
        self._check()
        found: dict[TopicPartition, OffsetAndTimestamp | None] = {}
        for (topic, number), time in by_place(times, "times"):
            log = self._engine._log(topic)
            reader = log.reader(number, log.log_start_offset(number), synced_only=self._synced)
            offset = reader.offset_for_time(nanoseconds(time))
            if offset is None:
                found[TopicPartition(topic, number)] = None
                continue
            reader.seek(offset)
            records = reader.poll(1)
            found[TopicPartition(topic, number)] = OffsetAndTimestamp(offset, records[0].timestamp)
        return found

    def beginning_offsets(self, partitions: Partitions | None = None) -> dict[TopicPartition, int]:
        """Return the log start offset of each, or of all that is assigned."""
        self._check()
        places = list(self._assigned.cursors) if partitions is None else places_of(partitions)
        return {place: self._engine.log_start_offset(*place) for place in places}

    def end_offsets(self, partitions: Partitions | None = None) -> dict[TopicPartition, int]:
        """Return the log end offset of each, or of all that is assigned."""
        self._check()
        places = list(self._assigned.cursors) if partitions is None else places_of(partitions)
        return {place: self._engine.log_end_offset(*place) for place in places}
