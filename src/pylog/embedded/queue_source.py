"""EmbeddedQueueSource: one queue over one topic of an opened data directory, shared by all its processes.

Chooses the partition and waits; what is leased where is in the delivery tables. Invariant: it keeps nothing
of its own that another process would miss, so that the death of this one loses nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from logcore.deliveries import DeliveryTable, Lease
from logcore.lease_feed import LeaseFeed
from logcore.offsets import OffsetTable
from logcore.processes import fork_count
from logcore.topic_leases import TopicLeases
from pylog.clock import Deadline, SystemClock
from pylog.config import check_count, check_seconds
from pylog.embedded.priority_order import PriorityOrder
from pylog.embedded.queue_files import QueueDocument, QueueFiles, commit_floor
from pylog.errors import (
    ClosedError,
    ConfigError,
    DurabilityError,
    LeaseLostError,
    LockTimeoutError,
    OffsetOutOfRangeError,
    PylogError,
    UnknownTopicError,
)
from pylog.queue_options import DUE_HEADER, DeliveryState, QueueConfig, QueueCounts, QueueEntry, stated
from pylog.records import Record

if TYPE_CHECKING:
    from pylog.embedded.arrivals import Arrivals
    from pylog.embedded.engine import EmbeddedEngine
    from pylog.queue_source import Lease as AnyLease

logger = logging.getLogger("pylog")

MOST_LEASES = 1 << 20
SYNC_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 1.0
STATES: dict[int, DeliveryState] = {0: "finished", 1: "in_flight", 2: "ready", 3: "blocked", 4: "delayed"}


class EmbeddedQueueSource(TopicLeases):
    """Leases the records of a topic one by one; see pylog.queue_source.QueueSource.

    `lease`, `ack` and `ack_many` are the native core's own methods.
    """

    def __init__(self, engine: EmbeddedEngine, files: QueueFiles, document: QueueDocument) -> None:
        self._engine = engine
        self._files = files
        self._document = document
        self._closed = False
        levels = document.config.priorities
        try:
            partitions = engine._partitions_of(document.topic)
        except UnknownTopicError as error:
            error.priorities = levels
            raise
        if partitions % levels:
            raise ConfigError(
                f"priorities={levels} needs a multiple of {levels} partitions: topic {document.topic!r} has "
                f"{partitions}"
            )
        self._band = partitions // levels
        self._begin()

    def _begin(self) -> None:
        """Become this process's source: also in a forked child, which opens its own tables."""
        self._forks = fork_count()
        self._lock = threading.RLock()
        clock = self._engine._clock
        levels = self.config.priorities
        self._begin_anew(self._band * levels, levels, None if isinstance(clock, SystemClock) else clock)
        self._floors: OffsetTable | None = None
        self._order = PriorityOrder(self._document.config)

    # ---- what it is -------------------------------------------------------------------------------------

    @property
    def queue(self) -> str:
        """The name of the queue."""
        return self._files.queue

    @property
    def topic(self) -> str:
        """The name of the topic."""
        return self._document.topic

    @property
    def config(self) -> QueueConfig:
        """The options that hold for all who work the queue."""
        return self._document.config

    @property
    def notes(self) -> Mapping[str, Any]:
        """What was stored with the queue for who opens it."""
        return self._document.notes

    def partition_for(self, key: bytes | None, level: int = 0) -> int | None:
        """Return where to append a record of a level; None: wherever the topic's partitioner puts it."""
        check_count(level, "level", 0, self.config.priorities - 1)
        if self.config.priorities == 1:
            return None
        if self._band == 1:
            return level
        if key is None:
            return level * self._band + self._next_turn() % self._band
        return level * self._band + self._engine._log(self.topic).partition_for(key) % self._band

    # ---- tables -----------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the queue was closed")
        self._engine._check_open()
        if self._forks != fork_count():
            self._begin()
        self._follow_partitions()

    def _follow_partitions(self) -> None:
        """Lease from partitions that the topic got meanwhile, too; one with levels gets none."""
        with suppress(UnknownTopicError):  # a lease from what is there says so
            log = self._engine._log(self.topic)
            if log.partitions > self._band and self.config.priorities == 1:
                with self._lock:
                    self._grown(log.partitions)
                    self._band = log.partitions
                    if self._floors is not None:
                        self._floors = self._files.floors(log)

    def _feed(self, partition: int) -> LeaseFeed:
        found = self._known(partition)
        if found is not None:
            return found
        self._check_open()
        with self._lock:
            found = self._known(partition)
            if found is None:
                if not self._engine.read_only:
                    self._engine._finish_transactions()  # a dead process may have acked here in one
                log = self._engine._log(self.topic)
                if self._floors is None:
                    self._floors = self._files.floors(log)
                table = self._files.table(log, partition, self.config, self._floors)
                if table.began == "damaged":
                    logger.warning("%s was damaged: the queue begins again at its floor", table.path)
                found = LeaseFeed(table, DUE_HEADER.encode(), partition // self._band)
                self._know(partition, found)
        return found

    def _table(self, partition: int) -> DeliveryTable:
        return self._feed(partition).table

    def _partitions(self, level: int) -> range:
        return range(level * self._band, (level + 1) * self._band)

    def _everything(self) -> list[LeaseFeed]:
        return [self._feed(partition) for partition in range(self._band * self.config.priorities)]

    # ---- leases -----------------------------------------------------------------------------------------

    def _lease(self, max_records: int, timeout: float | None, start: bool) -> list[Lease]:
        """Lease what is not at hand: by level, after a wait, or from a table that is not open here yet."""
        check_count(max_records, "max_records", 1, MOST_LEASES)
        self._check_open()
        self._engine._writable("lease records")
        found = self._take(max_records, start)
        if not found:
            if timeout != 0:
                found = self._wait(max_records, start, check_seconds(timeout, "timeout"))
            elif self._reclaim():
                found = self._take(max_records, start)
        return found

    def _take(self, most: int, start: bool) -> list[Lease]:
        now = self._engine._clock.time_ns()
        found: list[Lease] = []
        for level in self._order.levels(lambda level: self._head(level, now)):
            try:
                found += self._take_level(level, most - len(found), now, start)
            except PylogError:
                if not found:
                    raise
                break  # the error will come again
            if len(found) >= most:
                break
        return found

    def _head(self, level: int, now: int) -> int | None:
        """Return the timestamp of what would be leased first of a level, None where nothing would."""
        found: list[int] = []
        for partition in self._partitions(level):
            feed = self._feed(partition)
            record = feed.head(now) if feed.at_hand() else None
            if record is not None:
                found.append(record.timestamp)
        return min(found, default=None)

    def _bury(self, table: DeliveryTable) -> bool:
        """Free what dead processes have in flight, after what they had acked in a transaction."""
        self._engine._finish_transactions()
        return table.reclaim_now(bury=True)

    def _reclaim(self) -> bool:
        """Look after leases that ended by themselves; True where there were any."""
        found = False
        for feed in self._everything():
            if feed.table.counts()[3]:
                found |= feed.table.reclaim_now()
                if feed.table.dead_seen:
                    found |= self._bury(feed.table)
        return found

    def _wait(self, most: int, start: bool, timeout: float | None) -> list[Lease]:
        deadline = Deadline(self._engine._clock, timeout)
        registry = self._engine._registry
        while True:
            # the order matters: remember our word, say that we wait, look again, sleep until the word changes
            word = registry.word()
            pause = self.announce()
            found = self._take(most, start)
            if not found and self._reclaim():
                found = self._take(most, start)
            if found or deadline.passed():
                return found
            registry.sleep(word, deadline.left(pause))
            if self._closed or self._engine.closed:
                raise ClosedError("the queue was closed while somebody waited for a record")

    def start(self, lease: AnyLease) -> None:
        """Count a delivery; one that was started already is not counted again."""
        self._change(lease, "start")

    def nack(self, lease: AnyLease, delay: float = 0.0) -> None:
        """Give a record back: ready again in `delay` seconds of the wall clock. The count stays."""
        seconds = check_seconds(delay, "delay")
        if seconds is None:
            raise ConfigError("delay is a number of seconds")
        due = self._engine._clock.time_ns() + round(seconds * 1e9) if seconds else 0
        self._change(lease, "nack", min(due, (1 << 63) - 1))
        self._nacked += 1

    def release(self, leases: Iterable[AnyLease]) -> None:
        """Give records back as if they had not been leased: ready at once, and an attempt is not burnt."""
        self._check_open()
        for partition, group in self._by_partition(leases).items():
            self._released += self._table(partition).release(group)

    def extend(self, lease: AnyLease, seconds: float | None = None) -> None:
        """Let a delivery take so many seconds from now; None: max_processing once more."""
        self._change(lease, "extend", check_seconds(seconds, "seconds"))

    def _change(self, lease: AnyLease, what: str, *values: Any) -> None:
        if lease.__class__ is not Lease:
            raise TypeError(f"expected a lease of this queue, not {type(lease).__name__}")
        try:
            kept = getattr(lease.table, what)(lease, *values)
        except ClosedError:  # or leased before a fork
            self._check_open()
            kept = False
        if not self._expects_flush:
            self._expect_flush()
        if not kept:
            self._lost += 1
            raise LeaseLostError(
                f"queue {self.queue!r}: {self.topic}-{lease.partition} offset {lease.record.offset} is not "
                "in flight here any more: it was finished, given to somebody else or leased before a fork",
                topic=self.topic,
                partition=lease.partition,
                offset=lease.record.offset,
            )

    def _by_partition(self, leases: Iterable[AnyLease]) -> dict[int, list[Lease]]:
        groups: dict[int, list[Lease]] = {}
        for lease in leases:
            if not isinstance(lease, Lease):
                raise TypeError(f"expected leases of this queue, not {type(lease).__name__}")
            groups.setdefault(lease.partition, []).append(lease)
        return groups

    # ---- waiting in an event loop -----------------------------------------------------------------------

    @property
    def arrivals(self) -> Arrivals | None:
        """What an event loop waits by; None where the engine is read-only."""
        return self._engine.arrivals

    def announce(self) -> float:
        """Say that somebody waits for a record; returns the seconds after which to look again anyway."""
        self._check_open()
        self._engine._log(self.topic).mark_waiting()
        now = self._engine._clock.time_ns()
        waits = (feed.table.next_look(now) for feed in self._everything())
        return min(LONGEST_WAIT_SECONDS, *waits) if self._band * self.config.priorities else 0.0

    # ---- looking ----------------------------------------------------------------------------------------

    def counts(self) -> list[QueueCounts]:
        """Return how many records of each level are in each state."""
        self._check_open()
        found = []
        for level in range(self.config.priorities):
            sums = [0, 0, 0, 0, 0]
            for partition in self._partitions(level):
                table = self._table(partition)
                unseen = max(self._engine.log_end_offset(self.topic, partition) - table.scanned(), 0)
                counted = table.counts()
                sums = [a + b for a, b in zip(sums, counted, strict=True)]
                sums[0] += unseen
            found.append(QueueCounts(level, *sums))
        return found

    def oldest(self, level: int) -> int | None:
        """Return the timestamp (ns) of the first record of a level that is not finished, or None."""
        self._check_open()
        check_count(level, "level", 0, self.config.priorities - 1)
        found = [
            record.timestamp
            for partition in self._partitions(level)
            for record in islice(self._read(partition, self._table(partition).floor()[0]), 1)
        ]
        return min(found, default=None)

    def next_due(self) -> int | None:
        """Return when the first delayed record comes due, ns since 1970, or None."""
        self._check_open()
        dues = [feed.table.next_due() for feed in self._everything()]
        return min((due for due in dues if due is not None), default=None)

    def peek(self, max_records: int = 10, state: DeliveryState | None = None) -> list[QueueEntry]:
        """Return records that are not finished, by level (the most urgent first) and offset."""
        self._check_open()
        check_count(max_records, "max_records", 1, MOST_LEASES)
        found: list[QueueEntry] = []
        for level in reversed(range(self.config.priorities)):
            for partition in self._partitions(level):
                entries = (entry for entry in self._entries(partition) if state in (None, entry.state))
                found += islice(entries, max_records - len(found))
        return found

    def _entries(self, partition: int) -> Iterator[QueueEntry]:
        feed = self._feed(partition)
        scanned = feed.table.scanned()
        for offset, state, count, when in feed.table.entries(MOST_LEASES):
            record = feed.record(offset)
            if record is not None:
                yield QueueEntry(record, STATES[state], count, when if STATES[state] == "delayed" else None)
        now = self._engine._clock.time_ns()
        for record in self._read(partition, scanned):
            when = stated(record, DUE_HEADER) or 0
            yield (
                QueueEntry(record, "delayed", 0, when) if when > now else QueueEntry(record, "ready", 0, None)
            )

    def _read(self, partition: int, offset: int) -> Iterator[Record]:
        start = max(offset, self._engine.log_start_offset(self.topic, partition))
        with suppress(OffsetOutOfRangeError):
            yield from self._engine.read(self.topic, partition, start)

    def state_of(self, partition: int, offset: int) -> DeliveryState:
        """Return the state of one record: "finished" also where it is gone from the log."""
        self._check_open()
        end = self._engine.log_end_offset(self.topic, partition)
        start = self._engine.log_start_offset(self.topic, partition)
        if not 0 <= offset < end:
            raise OffsetOutOfRangeError(
                f"offset {offset} of {self.topic}-{partition} is outside [0, {end})",
                offset=offset,
                log_start_offset=start,
                log_end_offset=end,
            )
        table = self._table(partition)
        if offset >= table.scanned():
            return next(iter(self._entries_at(partition, offset)), "finished")
        return STATES[table.state_of(offset)]

    def _entries_at(self, partition: int, offset: int) -> Iterator[DeliveryState]:
        for entry in self._entries(partition):
            if entry.record.offset >= offset:
                if entry.record.offset == offset:
                    yield entry.state
                return

    def floor(self, partition: int) -> int:
        """Return the offset below which every record of a partition is finished."""
        self._check_open()
        return self._table(partition).floor()[0]

    # ---- the rest ---------------------------------------------------------------------------------------

    def purge(self) -> int:
        """Finish every record that is there now and not in flight; returns how many."""
        self._check_open()
        self._engine._writable("purge queues")
        purged = 0
        for feed in self._everything():
            end = self._engine.log_end_offset(self.topic, feed.table.partition)
            purged += feed.table.purge(end)
        self._expect_flush()
        return purged

    def sync(self) -> None:
        """Return when a power cut can undo nothing that was acked, nacked or counted before."""
        self._check_open()
        self._engine._writable("sync queues")
        self._sync()

    def _sync(self) -> bool:
        """Sync the tables that changed; True where any had."""
        changed = False
        for feed in self._opened():
            if feed.table.sync() and self._floors is not None:
                changed = True
                commit_floor(self._floors, feed.table)
        if changed and self._floors is not None:
            self._floors.sync()
        return changed

    def _expect_flush(self) -> None:
        self._expects_flush = True
        self._engine._flush_after(self, SYNC_SECONDS)

    def flush_lingering(self) -> bool:
        """Sync in the background, every second while anything changes; a failure poisons the table."""
        if self._forks != fork_count() or self._closed:
            return True
        with suppress(DurabilityError, ClosedError, LockTimeoutError):
            self._follow_partitions()  # while those that are known have always something
            if self._sync():
                self._engine._flush_after(self, SYNC_SECONDS)
                return True
        self._expects_flush = False
        return True

    def metrics(self) -> dict[str, int]:
        """Return counters since it was opened: leased, acked, nacked, released, lost, reclaimed."""
        reclaimed = sum(feed.table.reclaimed for feed in self._opened())
        return {**self._counted(), "reclaimed": reclaimed}

    def close(self) -> None:
        """Give back what is in flight here, sync, and end, once.

        Where the queue is open here a second time, nobody knows whose it is: the last one gives it back.
        """
        if self._closed:
            return
        self._closed = True
        if self._forks != fork_count():
            return
        self._engine._members.discard(self)
        try:
            if not self._engine.read_only:
                if not self._is_open_again():
                    for feed in self._opened():
                        feed.table.end_own()
                self._sync()
        except LockTimeoutError as error:
            logger.warning("queue %s is closed without a last sync: %s", self.queue, error)
        finally:
            for feed in self._opened():
                feed.table.close()
            if self._floors is not None:
                self._floors.close()

    def _is_open_again(self) -> bool:
        others = [other for other in self._engine._members if isinstance(other, EmbeddedQueueSource)]
        return any(other.queue == self.queue and not other._closed for other in others)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
