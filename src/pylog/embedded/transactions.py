"""Transactions of an opened data directory: appends and committed offsets that become visible all or nothing.

Records are buffered here until commit; redo.pyx commits. What dead owners left is finished in unfinished.py.
Invariant: nothing of a transaction is written before its commit, and its redo record is removed only when
every part is applied and as durable as the transaction promised.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from logcore.builder import BatchBuilder
from logcore.deliveries import DeliveryTable, Lease
from logcore.offsets import OffsetTable
from logcore.processes import fork_count
from logcore.topic_log import DURABILITIES, TopicLog
from logcore.transaction_parts import MOST_PARTS, AppendPart, DeliveryPart, OffsetPart, check_record
from logcore.transactions import commit_parts
from logcore.whole_files import locked_directory
from pylog.embedded.commits import Commit
from pylog.embedded.consumer import EmbeddedConsumer
from pylog.embedded.unfinished import Place, Unsettled, settle
from pylog.errors import (
    ClosedError,
    ConfigError,
    DurabilityError,
    FencedError,
    IllegalGenerationError,
    LeaseLostError,
    RecordTooLargeError,
    UnknownTopicError,
)
from pylog.records import OffsetAndMetadata, RecordId, TopicPartition

if TYPE_CHECKING:
    from pylog.embedded.engine import EmbeddedEngine
    from pylog.engine import Guard, Headers
    from pylog.queue_source import Lease as AnyLease


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
        self._forks = fork_count()
        self._ended = False
        self.transaction_id = os.urandom(16)

    # ---- what goes in -----------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._ended:
            raise ClosedError("the transaction was committed or aborted: begin another")
        if self._forks != fork_count():
            raise ClosedError("the transaction was begun before a fork: it is the parent's to commit")
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
            guard: As of engine.append: the transaction commits only while it holds. It is about what is
                there before the transaction, and given once for each key.

        Raises:
            UnknownTopicError, TypeError, ConfigError
            RecordTooLargeError: the record, or all of the transaction (transaction_bytes).
        """
        self._check()
        log = self._log(topic)
        place = TopicPartition(log.name, self._partition(log, key, partition))
        guards = {} if guard is None else _guards_of(key, guard)
        if not guards.keys().isdisjoint(self._guards.get(place, {})):
            raise ConfigError(f"a key of {place.topic}-{place.partition} was given a guard already")
        builder = self._builders.get(place)
        if builder is None:
            self._check_parts(1)
            builder = BatchBuilder()
        before = builder.body_bytes
        check_record(log, key, value, headers)
        builder.add_record(key, value, headers, timestamp)
        self._builders[place] = builder
        self._bytes += builder.body_bytes - before
        self._appended.append(_Pending(place, builder.record_count - 1))
        if guards:
            self._guards.setdefault(place, {}).update(guards)
        if self._bytes > self._most_bytes:
            self._ended = True
            raise RecordTooLargeError(
                f"the transaction is beyond transaction_bytes={self._most_bytes}: it was aborted",
                size=self._bytes,
                limit=self._most_bytes,
            )

    def _as_it_is_now(self, log: TopicLog) -> TopicLog:
        """Return a topic as it is opened now: it may have been altered meanwhile."""
        now = self._engine._log(log.name)
        if now.uuid != log.uuid:
            raise UnknownTopicError(f"topic {log.name!r} was deleted, and made anew: nothing was committed")
        return now

    def _check_parts(self, more: int) -> None:
        parts = len(self._builders) + len(self._offsets) + len(self._leases) + more
        if parts > MOST_PARTS:
            raise RecordTooLargeError(
                f"a transaction has at most {MOST_PARTS} partitions and offsets", size=parts, limit=MOST_PARTS
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
                self._check_parts(1)
                self._logs.setdefault(lease.table.topic.name, lease.table.topic)
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
            IllegalGenerationError: the partition is another member's.
            RecordTooLargeError: too many partitions and offsets.
            OffsetOutOfRangeError
        """
        self._check()
        if not isinstance(consumer, EmbeddedConsumer) or consumer._engine is not self._engine:
            raise ConfigError("commit_offsets() takes a consumer of the same engine")
        group, commits, held = consumer._commits(offsets)
        places = {(group.group, commit.log.name, commit.partition) for commit in commits}
        self._check_parts(len(places.difference(self._offsets)))
        for commit in commits:
            self._logs.setdefault(commit.log.name, commit.log)
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
            LockTimeoutError, DiskFullError, OSError, RecordTooLargeError, UnknownTopicError, ClosedError:
                nothing was done.
            DurabilityError: the disk failed. With `committed` the transaction holds, but it is not surely on
                disk or not all visible yet: recover() of the partition, or the next opening, finishes it.
        """
        self._check()
        self._ended = True
        if not self._builders and not self._offsets and not self._leases:
            return []
        engine = self._engine
        engine._writable("commit transactions")
        self._logs = {name: self._as_it_is_now(log) for name, log in self._logs.items()}
        appends = {
            place: AppendPart(self._logs[place.topic], place.partition, builder, self.transaction_id, guards)
            for place, builder in self._builders.items()
            for guards in [self._guards.get(place)]
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
        except DurabilityError as error:
            if error.committed:
                engine._leave_unfinished(self.transaction_id)
            raise
        self._settle(record, durability, appends.values())
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
        found = max(self._logs[name].durability for name in names)
        return next(policy for policy, code in DURABILITIES.items() if code == found)

    def _settle(self, record: str, durability: str, appended: Iterable[AppendPart]) -> None:
        """Bring the parts to disk as promised, then remove the redo record."""
        places = [Place(self._logs[part.topic], part.partition, part.epoch) for part in appended]
        tables = [(self._logs[part.topic], part.table) for part in self._offsets.values()]
        unsettled = Unsettled(record, places, tables, list(self._leases))
        if durability == "os":
            Path(record).unlink(missing_ok=True)
        elif durability == "interval":
            self._engine._settle_later(unsettled)
        elif settle(self._engine, [unsettled]):
            self._engine._leave_unfinished(self.transaction_id)
            raise DurabilityError(
                "the transaction is committed, but a sync failed: a power cut may take it as a whole until "
                "recover() of the partition, or the next opening, has finished it",
                committed=True,
            )

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
