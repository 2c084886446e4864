"""The seam: what an engine, a producer and a consumer are, whatever stands behind them.

Protocols only. Patterns, queues and event sourcing are written against these and never import an engine,
which is what lets them run on every engine. Invariant: what an engine cannot do is missing from its
`capabilities` and raises UnsupportedError when it is asked for, never later and never by doing less.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, Unpack, runtime_checkable

from pylog.config import (
    Durability,
    GroupOptions,
    IfExists,
    Isolation,
    OffsetReset,
    OnTruncate,
    Partitioner,
    ProducerOptions,
    TopicOptions,
)
from pylog.filters import Filter
from pylog.groups import GroupDescription, OffsetChange
from pylog.queue_options import QueueOptions
from pylog.queue_source import QueueSource
from pylog.records import (
    CleaningReport,
    CopyReport,
    OffsetAndMetadata,
    OffsetAndTimestamp,
    Record,
    RecordBatch,
    RecordId,
    RecoveryReport,
    TopicDescription,
    TopicPartition,
)
from pylog.serdes import Serde

if TYPE_CHECKING:
    from pylog.eventsourcing.store import EventStore, StoreOptions
    from pylog.queues import Queue, QueueArguments

Capability = Literal[
    "append_returns_offset",  # engine.append is visible on return and says where
    "durability_per_call",  # durability= on append and producer
    "synced_offset",  # engine.synced_offset and isolation="synced"
    "columnar_batches",  # consumer.batches() without a copy
    "producer_resume",  # producer.resume_from and last_sequence
    "recover",  # engine.recover
    "backup",  # engine.backup
    "group_administration",  # engine.describe_group and its kin
    "clean",  # engine.clean, and cleaning in the background
    "transactions",  # engine.transaction
    "queues",  # engine.queue
    "keys",  # engine.read_key, and appends with a guard
    "event_store",  # engine.event_store
]

Headers = Mapping[str, bytes | None] | Iterable[tuple[str, bytes | None]]
Columns = tuple[Any, Any]
"""(offsets int32[n+1], bytes): numpy arrays or anything with the buffer protocol."""
Guard = int | Mapping[bytes, int]
"""The offset of the last record of a key, -1 where it has none: of the record's own, or of each key."""
Values = Sequence[bytes | None] | Columns | Any
"""A list, a pair of columns, or an Arrow array of binary."""
Topics = str | re.Pattern[str] | Iterable[str | re.Pattern[str]]
Partitions = Iterable[TopicPartition | tuple[str, int]]
ResetTarget = (
    Literal["earliest", "latest"]
    | int
    | datetime
    | timedelta
    | Mapping[TopicPartition | tuple[str, int], int]
)
"""Where a group shall go on: "earliest", "latest", an offset, a time, so long ago, or an offset for each."""
TopicsOrPartitions = str | Iterable[str | TopicPartition | tuple[str, int]]
OnDelivery = Callable[[Sequence[RecordId], BaseException | None], None]
OnAssign = Callable[[list[TopicPartition]], None]
"""Called within a poll with the partitions that the consumer got, before their first record."""
OnRevoke = Callable[[list[TopicPartition], float], None]
"""Called within a poll with the partitions that go, and the seconds that are left to finish and commit."""
Offsets = Mapping[TopicPartition | tuple[str, int], int | OffsetAndMetadata]
"""The next offset to read of each partition, and what to keep with it."""
OnCommit = Callable[[dict[TopicPartition, OffsetAndMetadata], BaseException | None], None]
"""Called within a later poll, commit or close with what was committed and None, or with what went wrong."""
OnRejected = Callable[[Record], object]
"""Called within a poll with a record that a filter rejects."""
TruncateCallback = Callable[[TopicPartition, int, int], None]
"""Called with the partition, the offset that was next, and the one at which reading goes on."""


@runtime_checkable
class Producer(Protocol):
    """Collects records into batches. May be shared by threads; leaving its block flushes."""

    def send(
        self,
        topic: str,
        value: Any,
        key: Any = None,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp: int | None = None,
        sequence: int | None = None,
    ) -> None:
        """Put one record into the buffer: no acknowledgement. A failed flush raises from the next call."""

    def flush(self, timeout: float | None = None) -> None:
        """Write all that was sent before; raises what went wrong and keeps the records."""

    def close(self) -> None:
        """Flush and end."""

    def last_sequence(self, topic: str, partition: int) -> int | None:
        """Return the sequence of the last record of this producer_id in the partition, or None."""

    def resume_from(self, topic: str) -> int:
        """Return the first sequence that may be missing from the topic."""

    def metrics(self) -> dict[str, int]:
        """Return counters since it was opened."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Arrivals(Protocol):
    """The descriptor by which an event loop waits for the records of all consumers of an engine."""

    def fileno(self) -> int:
        """Return the descriptor: readable when something may have arrived, quiet after 8 bytes were read."""

    def enroll(self) -> None:
        """Have the descriptor become readable from now on."""

    def withdraw(self) -> None:
        """Undo one enroll()."""


@runtime_checkable
class Consumer(Protocol):
    """Reads partitions and remembers how far. Belongs to one thread."""

    def subscribe(self, topics: Topics) -> None:
        """Read topics by name, glob or regular expression, sharing their partitions with the group."""

    def assign(self, partitions: Partitions) -> None:
        """Read exactly these partitions, in no group membership; commits still go to the group, if any."""

    def unsubscribe(self) -> None:
        """Read nothing from now on."""

    def assignment(self) -> list[TopicPartition]:
        """Return what is read now."""

    def poll(self, max_records: int = 500, timeout: float | None = 0.0) -> list[Record]:
        """Return up to max_records, waiting up to timeout seconds (None: for ever) for the first."""

    def batches(self, timeout: float | None = None) -> Iterator[RecordBatch]:
        """Yield columnar batches; ends where nothing came for timeout seconds."""

    def __iter__(self) -> Iterator[Record]:
        """Yield records; ends only where the consumer was given a timeout."""

    def position(self, partition: TopicPartition | tuple[str, int]) -> int:
        """Return the offset of the next record that the application is given."""

    def seek(self, partition: TopicPartition | tuple[str, int], offset: int) -> None:
        """Go on at an offset, which must be one of the log's or its end."""

    def seek_to_beginning(self, partitions: Partitions | None = None) -> None:
        """Go on at the log start offset of the partitions, or of all."""

    def seek_to_end(self, partitions: Partitions | None = None) -> None:
        """Go on at the log end offset of the partitions, or of all."""

    def seek_to_time(self, time: int | datetime, partitions: Partitions | None = None) -> None:
        """Go on at the first record with a timestamp (ns, or a datetime) at or after `time`."""

    def committed(self, partition: TopicPartition | tuple[str, int]) -> int | None:
        """Return the group's committed offset: the next to read."""

    def commit(self, offsets: Offsets | None = None) -> None:
        """Commit the given offsets, or what the application was given so far."""

    def commit_async(self, offsets: Offsets | None = None, on_commit: OnCommit | None = None) -> None:
        """Commit without waiting; a later commit() waits for it, and so does close()."""

    def pause(self, partitions: Partitions | None = None) -> None:
        """Give nothing of these partitions until resume()."""

    def resume(self, partitions: Partitions | None = None) -> None:
        """Undo pause()."""

    def paused(self) -> list[TopicPartition]:
        """Return what is paused."""

    def beginning_offsets(self, partitions: Partitions | None = None) -> dict[TopicPartition, int]:
        """Return the log start offset of each."""

    def end_offsets(self, partitions: Partitions | None = None) -> dict[TopicPartition, int]:
        """Return the log end offset of each."""

    def offsets_for_times(
        self, times: Mapping[TopicPartition | tuple[str, int], int | datetime]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """Return for each the first record at or after the time, or None."""

    def metrics(self) -> dict[str, int]:
        """Return counters since it was opened."""

    @property
    def arrivals(self) -> Arrivals | None:
        """What an event loop waits by; None where it has to poll."""

    def announce(self) -> float:
        """Say that somebody waits for records of these partitions: look once more, then wait for `arrivals`.

        Returns the seconds after which to look again, whether something was announced or not.
        """

    def close(self) -> None:
        """End. Commits nothing."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Engine(Protocol):
    """An opened log: a data directory, or a cluster. May be shared by threads."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What this engine can do beyond what every engine can."""

    def create_topic(
        self,
        name: str,
        *,
        partitions: int | None = None,
        partitioner: Partitioner | None = None,
        if_exists: IfExists = "compare",
        **config: Unpack[TopicOptions],
    ) -> TopicDescription:
        """Make a topic; where it exists and agrees with all that is given here, take it as it is."""

    def describe_topic(self, name: str) -> TopicDescription:
        """Return a topic's shape and configuration."""

    def alter_topic(self, name: str, **config: Unpack[TopicOptions]) -> TopicDescription:
        """Change configuration that may be changed."""

    def create_partitions(self, name: str, partitions: int) -> TopicDescription:
        """Give a topic more partitions, so many in all; keys then choose among all of them."""

    def delete_topic(self, name: str) -> None:
        """Delete a topic and all its records."""

    def list_topics(self) -> list[str]:
        """Return the names of all topics, sorted."""

    def append(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        *,
        partition: int | None = None,
        headers: Headers | None = None,
        timestamp: int | None = None,
        durability: Durability | None = None,
        guard: Guard | None = None,
    ) -> RecordId:
        """Append one record; visible on return. With a guard only while that holds: VersionConflictError."""

    def append_many(
        self,
        topic: str,
        values: Values,
        keys: Values | None = None,
        *,
        partition: int | None = None,
        timestamps: Any = None,
        headers: Sequence[Headers | None] | None = None,
        durability: Durability | None = None,
        guard: Mapping[bytes, int] | None = None,
    ) -> Sequence[RecordId]:
        """Append many records; each batch of them is all or nothing. With a guard they are one batch."""

    def read(
        self,
        topic: str,
        partition: int | None = None,
        offset: int | None = None,
        *,
        isolation: Isolation = "published",
    ) -> Iterator[Record]:
        """Yield the records that are there now, from an offset or the beginning."""

    def copy_topic(self, source: str, destination: str, partitions: int | None = None) -> CopyReport:
        """Copy a topic into another one, resumably: see the capability "producer_resume"."""

    def read_key(
        self,
        topic: str,
        key: bytes,
        *,
        partition: int | None = None,
        first: int = 0,
        behind: int | None = None,
        most: int | None = None,
        backward: bool = False,
    ) -> list[Record]:
        """Return the records of one key, oldest or newest first: see the capability "keys"."""

    def producer(
        self,
        *,
        producer_id: str | None = None,
        on_delivery: OnDelivery | None = None,
        key_serde: str | Serde | None = None,
        value_serde: str | Serde | None = None,
        **options: Unpack[ProducerOptions],
    ) -> Producer:
        """Open a producer."""

    def consumer(
        self,
        topics: Topics | None = None,
        *,
        group: str | None = None,
        auto_offset_reset: OffsetReset = "latest",
        isolation: Isolation = "published",
        timeout: float | None = None,
        on_truncate: OnTruncate | TruncateCallback = "resume",
        on_assign: OnAssign | None = None,
        on_revoke: OnRevoke | None = None,
        key_serde: str | Serde | None = None,
        value_serde: str | Serde | None = None,
        filter: Filter | None = None,
        on_rejected: OnRejected | None = None,
        **options: Unpack[GroupOptions],
    ) -> Consumer:
        """Open a consumer, subscribed where topics are given."""

    def list_groups(self) -> list[str]:
        """Return the names of all groups, sorted: see the capability "group_administration"."""

    def describe_group(self, group: str) -> GroupDescription:
        """Return members, state and lag of a group."""

    def delete_group(self, group: str) -> None:
        """Forget what a group committed; refused while members live."""

    def reset_offsets(
        self,
        group: str,
        partitions: TopicsOrPartitions | None = None,
        *,
        to: ResetTarget | None = None,
        by: int | None = None,
        execute: bool = False,
        force: bool = False,
    ) -> list[OffsetChange]:
        """Return where a group would go on; `execute` commits it, while members live only if forced."""

    def consumed_by(self, topic: str, partition: int, offset: int) -> dict[str, bool]:
        """Return for each group that reads the topic whether it has committed past the record."""

    def transaction(self, *, transaction_bytes: int = 16 << 20) -> Any:
        """Begin what becomes visible all or nothing: see the capability "transactions".

        Args:
            transaction_bytes: The most that it may buffer.
        """

    def queue(self, name: str, **options: Unpack[QueueArguments]) -> Queue:
        """Open a work queue over a topic: see the capability "queues", and pylog.queues."""

    def queue_source(
        self,
        queue: str,
        topic: str | None = None,
        *,
        notes: Mapping[str, Any] | None = None,
        **options: Unpack[QueueOptions],
    ) -> QueueSource:
        """Open what queue() stands on: the records of an existing topic, leased one by one.

        Args:
            queue: Its name; several queues may work the same topic, each for itself.
            topic: Left out: what is stored, or else the topic of the queue's name.
            notes: JSON values to keep with the queue. Compared as options are.
            options: Those left out are what is stored; a given, different one raises TopicConfigError.
        """

    def list_queues(self) -> list[str]:
        """Return the names of the queues that were ever opened, sorted: see the capability "queues"."""

    def event_store(self, name: str, **options: Unpack[StoreOptions]) -> EventStore:
        """Open a store of event-sourced entities over a topic: see the capability "event_store"."""

    def log_start_offset(self, topic: str, partition: int) -> int:
        """Return the offset of the first record that is there."""

    def log_end_offset(self, topic: str, partition: int) -> int:
        """Return the offset that the next record gets."""

    def synced_offset(self, topic: str, partition: int) -> int:
        """Return the offset below which a power cut takes nothing."""

    def delete_records(self, topic: str, partition: int, before_offset: int) -> int:
        """Delete the records before an offset, and return the log start offset."""

    def clean(
        self, topic: str | None = None, *, now: bool = False, plan: bool = False
    ) -> list[CleaningReport]:
        """Delete and compact what the topics' configuration says: see the capability "clean"."""

    def sync(self, topic: str | None = None, partition: int | None = None) -> None:
        """Return when all that is visible now is on disk."""

    def recover(self, topic: str, partition: int) -> None:
        """Take a partition whose sync failed into use again, cut at its synced offset."""

    def backup(self, destination: str | os.PathLike[str]) -> Any:
        """Copy all topics and committed offsets: see the capability "backup"."""

    def recovery_reports(self) -> list[RecoveryReport]:
        """Return what recovery did since this engine was opened."""

    def metrics(self) -> dict[str, int]:
        """Return counters since it was opened."""

    def close(self) -> None:
        """Close its producers and consumers, sync, and end."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
