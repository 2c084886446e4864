"""Transactions of an opened data directory: appends and committed offsets that become visible all or nothing.

Records are buffered here until commit; redo.pyx commits. Finishes also what dead owners began. Invariant: a
redo record is removed only when every part of it is applied and as durable as the transaction promised.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from logcore.builder import BatchBuilder
from logcore.deliveries import DeliveryTable, Lease
from logcore.lease_feed import LeaseFeed
from logcore.offsets import OffsetTable
from logcore.redo import (
    MOST_PARTS,
    REDO_DIRECTORY,
    AppendPart,
    DeliveryPart,
    OffsetPart,
    append_again,
    commit_again,
    commit_parts,
    decode_record,
    mend,
)
from logcore.scan import ScannedBatch, SegmentScan
from logcore.segment_files import list_segments
from logcore.topic_log import DURABILITIES, TopicLog
from logcore.whole_files import locked_directory, remove_leftovers
from pylog.embedded.commits import Commit
from pylog.embedded.consumer import EmbeddedConsumer
from pylog.embedded.queue_files import QueueFiles
from pylog.errors import (
    ClosedError,
    ConfigError,
    FencedError,
    IllegalGenerationError,
    LeaseLostError,
    RecordTooLargeError,
    UnknownTopicError,
)
from pylog.queue_options import DUE_HEADER
from pylog.records import OffsetAndMetadata, RecordId, TopicPartition

if TYPE_CHECKING:
    from pylog.embedded.engine import EmbeddedEngine
    from pylog.embedded.opened import OpenDirectory
    from pylog.engine import Guard, Headers
    from pylog.queue_source import Lease as AnyLease

logger = logging.getLogger("pylog")

MAX_TIMESTAMP_BLOCK, PRODUCER_BLOCK, TRANSACTION_BLOCK = 1 << 16, 1 << 17, 1 << 18
"""Attribute bits of a batch header, as docs/FORMAT.md section 4 numbers them."""
BATCH_HEADER_BYTES = 64


class _Pending(NamedTuple):
    """Where an append will be: its part, and its place in the part's batch."""

    place: TopicPartition
    row: int


class Transaction:
    """Collects appends and offsets, and commits them together. Belongs to one thread.

    Leaving its block commits, leaving it by an exception aborts. An abort writes nothing anywhere.
    """

    def __init__(self, engine: EmbeddedEngine, *, transaction_bytes: int) -> None:
        self._engine = engine
        self._most_bytes = transaction_bytes
        self._bytes = 0
        self._builders: dict[TopicPartition, BatchBuilder] = {}
        self._logs: dict[str, TopicLog] = {}
        self._turns: dict[str, int] = {}
        self._appended: list[_Pending] = []
        self._offsets: dict[tuple[str, str, int], OffsetPart] = {}
        self._guards: dict[TopicPartition, dict[bytes, int]] = {}
        self._leases: dict[DeliveryTable, list[Lease]] = {}
        self._queues: dict[DeliveryTable, str] = {}
        self._thread = threading.get_ident()
        self._ended = False
        self.transaction_id = os.urandom(16)

    # ---- what goes in -----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._ended:
            raise ClosedError("the transaction was committed or aborted: begin another")
        if self._thread != threading.get_ident():
            raise ConfigError("a transaction belongs to the thread that began it")

    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        *,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp: int | None = None,
        guard: Guard | None = None,
    ) -> None:
        """Append one record when the transaction commits.

        Args:
            guard: As of engine.append: the transaction commits only while it holds.

        Raises:
            UnknownTopicError, TypeError, ConfigError
            RecordTooLargeError: the record, or all of the transaction (transaction_bytes).
        """
        self._check()
        log = self._log(topic)
        place = TopicPartition(log.name, self._partition(log, key, partition))
        builder = self._builders.get(place)
        if builder is None:
            self._check_room()
            builder = BatchBuilder()
        before = builder.body_bytes
        builder.add_record(key, value, headers, timestamp)
        self._builders[place] = builder
        self._bytes += builder.body_bytes - before
        self._appended.append(_Pending(place, builder.record_count - 1))
        if guard is not None:
            self._guards.setdefault(place, {}).update(_guards_of(key, guard))
        if self._bytes > self._most_bytes:
            self._ended = True
            raise RecordTooLargeError(
                f"the transaction is beyond transaction_bytes={self._most_bytes}: it was aborted",
                size=self._bytes,
                limit=self._most_bytes,
            )

    def _log(self, topic: str) -> TopicLog:
        log = self._logs.get(topic)
        if log is None:
            log = self._logs[topic] = self._engine._log(topic)
        return log

    def _partition(self, log: TopicLog, key: bytes | None, partition: int | None) -> int:
        if partition is not None:
            log.epoch(partition)  # checks it
            return partition
        if key is not None:
            return log.partition_for(key)
        # records without a key stay together: one batch more costs more than an uneven share
        return self._turns.setdefault(log.name, self.transaction_id[0] % log.partitions)

    def _check_room(self) -> None:
        if len(self._builders) + len(self._offsets) + len(self._leases) >= MOST_PARTS:
            raise RecordTooLargeError(
                f"a transaction has at most {MOST_PARTS} partitions and offsets", size=0, limit=MOST_PARTS
            )

    def ack(self, leases: Iterable[AnyLease]) -> None:
        """Finish records that are in flight here when the transaction commits.

        Raises:
            LeaseLostError: one is not in flight here any more; more of them may be told by commit().
            ConfigError: it is of another engine.
        """
        self._check()
        for lease in leases:
            if not isinstance(lease, Lease):
                raise TypeError(f"expected a lease of this engine, not {type(lease).__name__}")
            if lease.table.registry is not self._engine._registry:
                raise ConfigError("ack() takes leases of the same engine")
            if lease.table not in self._leases:
                self._check_room()
                # queues/<queue>/<partition>.deliveries
                self._queues[lease.table] = Path(lease.table.path).parent.name
            self._leases.setdefault(lease.table, []).append(lease)

    def commit_offsets(
        self,
        consumer: EmbeddedConsumer,
        offsets: Mapping[TopicPartition | tuple[str, int], int | OffsetAndMetadata] | None = None,
    ) -> None:
        """Commit the consumer's offsets (next to read) with the transaction.

        Args:
            offsets: Left out: of all that the application was given so far.

        Raises:
            ConfigError: the consumer has no group, is another engine's, or the partition is not assigned.
            OffsetOutOfRangeError
        """
        self._check()
        if not isinstance(consumer, EmbeddedConsumer) or consumer._engine is not self._engine:
            raise ConfigError("commit_offsets() takes a consumer of the same engine")
        group, commits, held = consumer._commits(offsets)
        for commit in commits:
            self._take(group.group, commit, group.table(commit.log), group.generation(commit, held))

    def _take(self, group: str, commit: Commit, table: OffsetTable, generation: int) -> None:
        if generation < 0:
            raise IllegalGenerationError(
                f"group {group!r}: {commit.log.name}-{commit.partition} is another member's", group=group
            )
        self._offsets[group, commit.log.name, commit.partition] = OffsetPart(
            table,
            group,
            commit.log.name,
            commit.partition,
            commit.offset,
            commit.epoch,
            generation,
            commit.metadata,
        )

    # ---- the end ----------------------------------------------------------------------------------------

    def commit(self) -> list[RecordId]:
        """Make it all visible; returns where the appended records are, in their order.

        Raises:
            IllegalGenerationError: an offset is another member's; nothing was done.
            VersionConflictError: a guard does not hold; nothing was done.
            LeaseLostError: a record to be finished is not in flight here any more; nothing was done.
            LockTimeoutError, DiskFullError, RecordTooLargeError, ClosedError: nothing was done.
            DurabilityError: committed, but not surely on disk.
        """
        self._check()
        self._ended = True
        if not self._builders and not self._offsets and not self._leases:
            return []
        engine = self._engine
        engine._writable("commit transactions")
        appends = {
            place: AppendPart(
                self._log(place.topic), place.partition, builder, self.transaction_id, self._guards.get(place)
            )
            for place, builder in self._builders.items()
        }
        durability = self._durability()
        owner = (engine._registry.slot, engine._registry.incarnation)
        try:
            # a backup sees all of it or nothing
            with locked_directory(engine.path, engine._lock_timeout, shared=True):
                record = commit_parts(
                    engine.path,
                    owner,
                    self.transaction_id,
                    list(appends.values()),
                    list(self._offsets.values()),
                    [DeliveryPart(table, self._queues[table], held) for table, held in self._leases.items()],
                    durability != "os",
                )
        except LeaseLostError:
            raise
        except FencedError as error:
            raise IllegalGenerationError(f"nothing was committed: {error}") from None
        self._settle(record, durability)
        return [
            RecordId(place.topic, place.partition, appends[place].base_offset + row)
            for place, row in self._appended
        ]

    def abort(self) -> None:
        """Forget it all: nothing was written."""
        self._ended = True
        self._builders.clear()
        self._offsets.clear()
        self._leases.clear()

    def _durability(self) -> str:
        """Return the strongest that one of its topics asks for."""
        names = {place.topic for place in self._builders} | {topic for _, topic, _ in self._offsets}
        names |= {table.topic.name for table in self._leases}
        strongest = max(self._log(name).durability for name in names)
        return next(policy for policy, code in DURABILITIES.items() if code == strongest)

    def _settle(self, record: str, durability: str) -> None:
        """Bring the parts to disk as promised, then remove the redo record."""
        tables = {part.table for part in self._offsets.values()}
        deliveries = frozenset(self._leases)
        places = [(self._log(place.topic), place.partition) for place in self._builders]
        if durability == "interval":
            paths = {table.path: (table.topic_uuid, table.partitions) for table in tables}
            self._engine._settle_later(Unsettled(record, places, paths, deliveries))
        else:
            if durability == "sync":
                _sync(places, [*tables, *deliveries])
            Path(record).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ended:
            return
        if error is None:
            self.commit()
        else:
            self.abort()


def _guards_of(key: bytes | None, guard: Guard) -> Mapping[bytes, int]:
    if isinstance(guard, Mapping):
        return guard
    if key is None:
        raise ConfigError("a guard that is an offset needs a key")
    return {key: guard}


class Unsettled(NamedTuple):
    """A committed transaction whose parts are not surely on disk: its redo record stays until they are."""

    record: str
    places: list[tuple[TopicLog, int]]
    tables: dict[str, tuple[bytes, int]]
    """Uuid and partitions of each, by path: a table may be closed by then, with its consumer."""
    deliveries: frozenset[DeliveryTable]
    """One that is closed was synced by that."""


def _sync(places: Iterable[tuple[TopicLog, int]], tables: Iterable[OffsetTable | DeliveryTable]) -> None:
    for log, partition in places:
        log.sync(partition)
    for table in tables:
        table.sync()


class Settling:
    """The redo records of an engine that wait for their parts to be on disk: one sync for many of them."""

    def __init__(self, engine: OpenDirectory) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._waiting: list[Unsettled] = []

    def add(self, unsettled: Unsettled) -> None:
        """Settle it within the interval of the topics."""
        with self._lock:
            self._waiting.append(unsettled)
            first = len(self._waiting) == 1
        if first:
            self._engine._flush_after(self, 0.1)

    def flush_lingering(self) -> bool:
        """Settle all that wait; a failed sync leaves the records for the next opening."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        everything = [place for each in waiting for place in each.places]
        places = {(id(log), partition): (log, partition) for log, partition in everything}
        tables = {path: identity for each in waiting for path, identity in each.tables.items()}
        try:
            _sync(places.values(), set().union(*(each.deliveries for each in waiting)))
            for path, identity in tables.items():
                if Path(path).exists():  # else its group was deleted
                    with closing(OffsetTable(path, *identity, self._engine._registry)) as table:
                        table.sync()
        except Exception as error:
            logger.warning("redo records stay until the next opening, a sync failed: %s", error)
            return True
        for each in waiting:
            Path(each.record).unlink(missing_ok=True)
        return True


# ---- what dead owners left ----------------------------------------------------------------------------


def finish_transactions(engine: OpenDirectory) -> int:
    """Finish the committed transactions whose owners are dead; how many there were.

    Every part is looked for before it is done again, so that this may die anywhere and be repeated.
    """
    directory = Path(engine.path, REDO_DIRECTORY)
    try:
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return 0
    if not names:
        return 0
    finished = 0
    with locked_directory(str(directory)) as fd:
        for name in names:
            path = directory / name
            if not name.endswith(".redo"):
                continue
            try:
                found = decode_record(path.read_bytes())
            except FileNotFoundError:
                continue
            if found is None:
                logger.warning("%s is not whole: its transaction was not committed", path)
                path.unlink()
                continue
            description, batches = found
            slot, incarnation = description["owner"]
            if engine._registry.lives(slot, incarnation):
                continue
            _finish(engine, description, batches)
            path.unlink()
            finished += 1
        if not engine._registry.others_live():
            remove_leftovers(fd)
    return finished


def _finish(engine: OpenDirectory, description: dict[str, Any], batches: bytes) -> None:
    transaction = bytes.fromhex(description["transaction"])
    places: list[tuple[TopicLog, int]] = []
    tables: list[OffsetTable | DeliveryTable] = []
    at = 0
    for part in description["appends"]:
        batch = batches[at : at + part["bytes"]]
        at += part["bytes"]
        log = _topic(engine, part)
        if log is None:
            continue
        if not _is_in(log, part["partition"], part["base_offset"], transaction):
            append_again(log, part["partition"], batch)
        places.append((log, part["partition"]))
    for part in description["offsets"]:
        log = _topic(engine, part)
        if log is None:
            continue
        path = f"{engine.path}/groups/{part['group']}/{part['topic']}.offsets"
        offsets = OffsetTable(path, log.uuid, log.partitions, engine._registry)
        commit_again(offsets, part)
        tables.append(offsets)
    for part in description["deliveries"]:
        log = _topic(engine, part)
        found = None if log is None else _finish_deliveries(engine, log, part)
        if found is not None:
            tables.append(found)
    try:
        if description["durable"]:
            _sync(places, tables)
    finally:
        for table in tables:
            table.close()


def _finish_deliveries(
    engine: OpenDirectory, log: TopicLog, part: dict[str, Any]
) -> DeliveryTable | None:
    """Finish the records of a part, also in a table that a power cut left without their leases."""
    files = QueueFiles(engine, part["queue"])
    document = files.load()
    if document is None or document.topic != log.name:
        return None
    floors = files.floors(log)
    try:
        table = files.table(log, part["partition"], document.config, floors)
    finally:
        floors.close()
    feed = LeaseFeed(table, DUE_HEADER.encode())
    feed.finish_again(part["offsets"], engine._clock.time_ns())
    return table


def _topic(engine: OpenDirectory, part: dict[str, Any]) -> TopicLog | None:
    """Return the topic of a part, None where it was deleted."""
    with suppress(UnknownTopicError):
        log = engine._log(part["topic"])
        if log.uuid.hex() == part["uuid"]:
            return log
    return None


def _is_in(log: TopicLog, partition: int, base_offset: int, transaction: bytes) -> bool:
    """Return whether the partition has the transaction's batch, at its offset or behind it."""
    mend(log, partition)
    end = log.log_end_offset(partition)
    segments = list_segments(f"{log.directory}/{partition}")
    first = max((s.base_offset for s in segments if s.base_offset <= min(base_offset, end)), default=0)
    for segment in segments:
        if segment.base_offset < first:
            continue
        scan = SegmentScan(segment.path)
        try:
            for entry in scan.entries(verify_bodies=False):
                if isinstance(entry, ScannedBatch) and _transaction_of(scan, entry) == transaction:
                    return entry.base_offset < end
        finally:
            scan.close()
    return False


def _transaction_of(scan: SegmentScan, batch: ScannedBatch) -> bytes | None:
    if not batch.attributes & TRANSACTION_BLOCK:
        return None
    at = batch.position + BATCH_HEADER_BYTES
    at += 8 if batch.attributes & MAX_TIMESTAMP_BLOCK else 0
    at += 32 if batch.attributes & PRODUCER_BLOCK else 0
    return scan.read(at, 16)
