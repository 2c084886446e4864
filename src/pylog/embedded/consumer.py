"""EmbeddedConsumer: reads partitions of one engine, waits for records, and remembers how far.

A group has one subscribed member at a time. Invariant: what the application was not given yet is never behind
a position, and so never behind what commit() commits.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, get_args

from logcore.processes import fork_count
from pylog.clock import Deadline
from pylog.config import (
    Isolation,
    OffsetReset,
    OnTruncate,
    check_choice,
    check_count,
    check_seconds,
)
from pylog.embedded.assignment import Assignment, nanoseconds, place_of, places_of
from pylog.embedded.commits import GroupOffsets
from pylog.embedded.partition_cursor import PartitionCursor
from pylog.embedded.reading import check_offset
from pylog.errors import ClosedError, ConfigError, ReadOnlyError, UnsupportedError
from pylog.records import DecodedRecord, OffsetAndTimestamp, Record, RecordBatch, TopicPartition
from pylog.serdes import serde_for

if TYPE_CHECKING:
    from pylog.embedded.arrivals import Arrivals
    from pylog.embedded.engine import EmbeddedEngine
    from pylog.engine import Partitions, TruncateCallback
    from pylog.serdes import Serde

GLOB = frozenset("*?[")
RECORDS_AHEAD = 500
"""How many records iteration takes from a partition at once."""
MOST_RECORDS = 1 << 20
SYNCED_POLL_SECONDS = 0.02
"""With isolation="synced": a sync wakes nobody, so look again after this."""
READ_ONLY_POLL_SECONDS = 0.05
"""Who writes nothing cannot ask to be woken."""


class Batches:
    """An iterator of RecordBatch that is an Arrow stream as well.

    Whoever reads the stream (DuckDB, say) pulls on threads of its own, one at a time: a pull has the consumer
    to itself and lets go of it, so that the next may come from any thread.
    """

    def __init__(self, batches: Iterator[RecordBatch], let_go: Callable[[], None]) -> None:
        self._batches = batches
        self._let_go = let_go

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RecordBatch:
        return next(self._batches)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        from logcore.arrow import export_stream

        self._let_go()
        return export_stream(self._pulled())

    def _pulled(self) -> Iterator[RecordBatch]:
        try:
            for batch in self._batches:
                self._let_go()
                yield batch
        finally:
            self._let_go()


class EmbeddedConsumer:
    """A consumer of an EmbeddedEngine. Belongs to the thread that uses it first, and raises in others."""

    def __init__(
        self,
        engine: EmbeddedEngine,
        *,
        group: str | None,
        auto_offset_reset: OffsetReset,
        isolation: Isolation,
        timeout: float | None,
        on_truncate: OnTruncate | TruncateCallback,
        key_serde: str | Serde | None,
        value_serde: str | Serde | None,
    ) -> None:
        self._closed = True
        self._engine = engine
        self._registry = engine._registry
        self._forks = fork_count()
        self._thread: int | None = None
        self._reset = check_choice(auto_offset_reset, "auto_offset_reset", get_args(OffsetReset))
        self._synced = check_choice(isolation, "isolation", get_args(Isolation)) == "synced"
        self._longest_wait = SYNCED_POLL_SECONDS if self._synced else 1.0
        if engine.read_only:
            self._longest_wait = READ_ONLY_POLL_SECONDS
        self._timeout = check_seconds(timeout, "timeout")
        if not callable(on_truncate):
            check_choice(on_truncate, "on_truncate", get_args(OnTruncate))
        self._on_truncate = on_truncate
        self._key_serde = serde_for(key_serde, "key_serde")
        self._value_serde = serde_for(value_serde, "value_serde")
        self._decodes = self._key_serde is not None or self._value_serde is not None
        self._assigned = Assignment()
        # what iteration took and the application was not given yet: of one partition
        self._ahead: list[Any] = []
        self._given = 0
        self._offsets = None if group is None else GroupOffsets(engine, group)
        self._closed = False

    # ---- who may call -----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._closed or self._engine.closed:
            raise ClosedError("the consumer was closed")
        if self._forks != fork_count():
            raise ClosedError("the consumer was inherited through a fork: open one in the child")
        thread = threading.get_ident()
        if self._thread != thread:
            if self._thread is not None:
                raise UnsupportedError("a consumer belongs to the thread that used it first: use one each")
            self._thread = thread

    def _let_go(self) -> None:
        """Belong to the thread that comes next, where this one has the consumer."""
        if self._thread == threading.get_ident():
            self._thread = None

    # ---- what is read -----------------------------------------------------------------------------------

    def subscribe(self, topics: str | Iterable[str]) -> None:
        """Read all partitions of one topic or several, from the group's committed offsets on.

        Raises:
            UnknownTopicError: one of them is not there.
            UnsupportedError: the group has a subscribed member already, or a pattern is given.
        """
        self._check()
        self._subscribe(topics)

    def _subscribe(self, topics: str | Iterable[str]) -> None:
        names = [topics] if isinstance(topics, str | re.Pattern) else list(topics)
        if any(isinstance(name, re.Pattern) or not GLOB.isdisjoint(name) for name in names):
            raise UnsupportedError("this release of pylog subscribes to no patterns yet: name the topics")
        if not names:
            raise ConfigError("subscribe() needs a topic; unsubscribe() reads nothing")
        places = [TopicPartition(name, p) for name in names for p in range(self._engine._partitions_of(name))]
        if self._offsets is not None:
            self._offsets.join()
        self._take(places)

    def assign(self, partitions: Partitions) -> None:
        """Read exactly these (topic, partition) pairs; the group's committed offsets are still used.

        Raises:
            UnknownTopicError, TypeError, ConfigError: there is no such partition.
        """
        self._check()
        places = places_of(partitions)
        for topic, partition in places:
            check_count(partition, "partition", 0, self._engine._partitions_of(topic) - 1)
        if self._offsets is not None:
            self._offsets.leave()
        self._take(places)

    def unsubscribe(self) -> None:
        """Read nothing, and let another member of the group subscribe."""
        self._check()
        self._take([])
        if self._offsets is not None:
            self._offsets.leave()

    def _take(self, places: list[TopicPartition]) -> None:
        self._give_back()
        self._assigned.take(places, self._open_cursor)

    def _open_cursor(self, place: TopicPartition) -> PartitionCursor:
        log = self._engine._log(place.topic)
        committed = None if self._offsets is None else self._offsets.committed(log, place.partition)
        return PartitionCursor(
            log,
            place.partition,
            committed=committed,
            reset=self._reset,
            synced=self._synced,
            on_truncate=self._on_truncate,
        )

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

    # ---- reading ----------------------------------------------------------------------------------------

    def poll(self, max_records: int = RECORDS_AHEAD, timeout: float | None = 0.0) -> list[Record]:
        """Return up to max_records, of one partition or several; an empty list where none came in time.

        Args:
            timeout: Seconds to wait for the first record; 0 does not wait, None waits for ever.

        Raises:
            CorruptionError, LogTruncatedError, OffsetOutOfRangeError, SerializationError, ClosedError
        """
        self._check()
        if max_records.__class__ is not int or not 0 < max_records <= MOST_RECORDS:
            check_count(max_records, "max_records", 1, MOST_RECORDS)
        if self._ahead:
            return self._rest(max_records)
        records = self._at_hand().fetch(max_records)
        if not records and timeout != 0:
            seconds = check_seconds(timeout, "timeout")
            records = self._wait(lambda: self._at_hand().fetch(max_records), seconds) or []
        return self._decoded(records) if self._decodes else records

    def _at_hand(self) -> Assignment:
        """Return what is assigned, as it is shared now."""
        if self._engine.read_only:
            self._assigned.follow(self._engine._log)
        return self._assigned

    def _wait(self, fetch: Callable[[], Any], timeout: float | None) -> Any:
        """Call fetch until it returns something, sleeping while nobody appends; None when the time is up."""
        deadline = Deadline(self._engine._clock, timeout)
        registry = self._registry
        while not deadline.passed():
            # the order matters: remember our word, say that we wait, look again, sleep until the word changes
            word = registry.word()
            longest = self.announce()
            found = fetch()
            if found:
                return found
            self._assigned.counts["waits"] += 1
            registry.sleep(word, deadline.left(longest))
            if self._engine.closed:
                raise ClosedError("the engine was closed while a consumer waited")
            found = fetch()
            if found:
                return found
        return None

    def _decoded(self, records: list[Record]) -> list[Any]:
        return [DecodedRecord(record, self._key_serde, self._value_serde) for record in records]

    def __iter__(self) -> Iterator[Record]:
        """Yield records; ends only where the consumer was given a timeout and nothing came for so long."""

        def fetch() -> list[Record]:
            return self._at_hand().fetch_of_one(RECORDS_AHEAD)

        while True:
            self._check()
            if self._given >= len(self._ahead):
                self._ahead, self._given = [], 0
                records = fetch()
                if not records:
                    records = self._wait(fetch, self._timeout)
                    if not records:
                        return
                self._ahead = self._decoded(records) if self._decodes else records
            ahead = self._ahead
            while self._given < len(ahead):
                record = ahead[self._given]
                self._given += 1
                yield record
                if ahead is not self._ahead:
                    break

    def _rest(self, max_records: int) -> list[Any]:
        """Take what iteration left over."""
        found = self._ahead[self._given : self._given + max_records]
        self._given += len(found)
        if self._given >= len(self._ahead):
            self._ahead, self._given = [], 0
        return found

    def _give_back(self) -> None:
        """Stand again before what iteration took and the application was not given."""
        if self._given < len(self._ahead):
            record = self._ahead[self._given]
            self._assigned.cursors[TopicPartition(record.topic, record.partition)].position = record.offset
        self._ahead, self._given = [], 0

    def batches(self, timeout: float | None = None) -> Batches:
        """Yield columnar batches without a copy; ends where nothing came for timeout seconds.

        What it returns is also an Arrow stream, that pyarrow, Polars and DuckDB read: give a timeout then.

        Batches come whole: after a seek into the middle of one, `batch.offsets` tells which rows are earlier.

        Args:
            timeout: Seconds; left out: the consumer's own.
        """
        self._check()
        waiting = self._timeout if timeout is None else check_seconds(timeout, "timeout")
        self._give_back()
        return Batches(self._batches(waiting), self._let_go)

    def _batches(self, timeout: float | None) -> Iterator[RecordBatch]:
        while True:
            self._check()
            batch = self._at_hand().next_batch()
            if batch is None:
                batch = self._wait(lambda: self._at_hand().next_batch(), timeout)
                if batch is None:
                    return
            yield batch

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
        for partition, time in times.items():
            topic, number = place_of(partition)
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

    # ---- commits ----------------------------------------------------------------------------------------

    def _group(self) -> GroupOffsets:
        if self._offsets is None:
            raise ConfigError("the consumer has no group: give group= to commit offsets")
        return self._offsets

    def committed(self, partition: TopicPartition | tuple[str, int]) -> int | None:
        """Return the group's committed offset, the next to read; None where there is none."""
        self._check()
        topic, number = place_of(partition)
        log = self._engine._log(topic)
        check_count(number, "partition", 0, log.partitions - 1)
        found = self._group().committed(log, number)
        return None if found is None else found[0]

    def commit(self, offsets: Mapping[TopicPartition | tuple[str, int], int] | None = None) -> None:
        """Commit the given offsets (next to read), or those of all that the application was given so far.

        Seen by all processes on return; on disk as the topic's durability says: at once with "sync", within
        sync_interval_ms with "interval", and at close().

        Raises:
            ConfigError: the consumer has no group, or the partition is not assigned.
            OffsetOutOfRangeError: the log has no such offset.
            FencedError: somebody newer has the partition.
            DurabilityError: the disk failed.
        """
        self._check()
        group = self._group()
        if self._engine.read_only:
            raise ReadOnlyError("an engine opened with read_only=True commits nothing")
        if offsets is None:
            cursors = [cursor for cursor in self._assigned.cursors.values() if not cursor.unset]
            wanted = [(cursor, self._position(cursor)) for cursor in cursors]
        else:
            wanted = [(self._assigned.cursor(place), offset) for place, offset in offsets.items()]
            for cursor, offset in wanted:
                check_offset(cursor.log, cursor.partition, offset)
        group.commit((cursor.log, cursor.partition, offset, cursor.epoch) for cursor, offset in wanted)
        self._assigned.counts["commits"] += 1

    # ---- asyncio, figures, the end ----------------------------------------------------------------------

    @property
    def arrivals(self) -> Arrivals | None:
        """What an event loop waits by, None where it has to poll; see pylog.aio."""
        return self._engine.arrivals

    def announce(self) -> float:
        """Say that somebody waits for records of these partitions: look once more, then wait for `arrivals`.

        Returns the seconds after which to look again, whether something was announced or not.
        """
        self._check()
        for log in self._assigned.logs:
            log.mark_waiting()
        return self._longest_wait

    def metrics(self) -> dict[str, int]:
        """Return records, batches, polls, waits and commits since it was opened."""
        self._check()
        return {**self._assigned.counts, "partitions": len(self._assigned.cursors)}

    def close(self) -> None:
        """End, and let another member of the group subscribe. Commits nothing; what was committed is synced.

        Any thread may close it. In a forked child nothing of the parent's is touched.
        """
        if self._closed:
            return
        self._closed = True
        self._engine._members.discard(self)
        self._assigned = Assignment()
        self._ahead, self._given = [], 0
        if self._offsets is not None and self._forks == fork_count():
            self._offsets.close()

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
