"""EventStore: streams of events in a partitioned topic, with expected versions.

A stream is the records of one key; the partition of the key orders them. Appends are guarded: of processes
that append at the same version exactly one wins. Reading a stream reads its events and no others. Invariant:
the n-th event of a stream has version n; nothing ever changes or removes one.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict, TypeVar, Unpack

from pylog.config import (
    Compression,
    Durability,
    GroupOptions,
    Partitioner,
    TopicOptions,
    check_count,
    check_name,
)
from pylog.engine import Consumer, Engine
from pylog.errors import (
    ConfigError,
    CorruptionError,
    PylogError,
    ReadOnlyError,
    UnsupportedError,
    VersionConflictError,
)
from pylog.eventsourcing.aggregates import (
    Aggregate,
    Appended,
    Standing,
    stream_of,
)
from pylog.eventsourcing.background import Background
from pylog.eventsourcing.events import (
    EPOCH,
    Event,
    Metadata,
    category_of,
    decode_event,
    encode_events,
    version_of,
)
from pylog.eventsourcing.snapshots import Snapshots
from pylog.records import Record, RecordId
from pylog.serdes import MessageTypes, Upcaster

logger = logging.getLogger("pylog")

A = TypeVar("A", bound=Aggregate)
LARGEST = (1 << 63) - 1

class StoreOptions(TypedDict, total=False):
    """What engine.event_store takes besides the name: see EventStore."""

    events: Sequence[type]
    upcasters: Mapping[tuple[str, int], Upcaster] | None
    snapshot_every: int | None
    snapshot_bytes: int | None
    partitions: int | None
    partitioner: Partitioner | None
    segment_bytes: int | None
    durability: Durability | None
    compression_type: Compression | None
    max_record_bytes: int | None


class EventStore:
    """Streams over one topic; made by engine.event_store(). Threads may share it.

    Args:
        events: The classes of events: msgspec structs or dataclasses.
        upcasters: (name, schema version) -> what makes of its fields those of the next version.
        snapshot_every: Take a snapshot of an aggregate when so many events were saved since the last.
        snapshot_bytes: The same by the bytes of the events.
        partitions: Of the topic, where it is made now.
        segment_bytes, durability, compression_type, max_record_bytes: Of the topic, see TopicConfig; given
            for one that exists, they are compared.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        events: Sequence[type] = (),
        upcasters: Mapping[tuple[str, int], Upcaster] | None = None,
        snapshot_every: int | None = None,
        snapshot_bytes: int | None = None,
        partitions: int | None = None,
        partitioner: Partitioner | None = None,
        segment_bytes: int | None = None,
        durability: Durability | None = None,
        compression_type: Compression | None = None,
        max_record_bytes: int | None = None,
    ) -> None:
        if "keys" not in engine.capabilities:
            raise UnsupportedError("an event store needs guarded appends, which this engine lacks")
        config: TopicOptions = {
            "cleanup_policy": "delete",
            "retention_ms": -1,
            "retention_bytes": -1,
            "retention_groups": (),
            "fixed_partitions": True,
        }
        if segment_bytes is not None:
            config["segment_bytes"] = segment_bytes
        if durability is not None:
            config["durability"] = durability
        if compression_type is not None:
            config["compression_type"] = compression_type
        if max_record_bytes is not None:
            config["max_record_bytes"] = max_record_bytes
        self.name = check_name(name, "event store")
        for option, value in (("snapshot_every", snapshot_every), ("snapshot_bytes", snapshot_bytes)):
            if value is not None:
                check_count(value, option, 1, 1 << 40)
        self.engine = engine
        self.types = MessageTypes(events, upcasters)
        try:
            engine.create_topic(name, partitions=partitions, partitioner=partitioner, **config)
        except ReadOnlyError:
            engine.describe_topic(name)  # to look at what is there
        self._snapshots: Snapshots | None = None
        self._counts_bytes = snapshot_bytes is not None
        self._background: Background[tuple[type[Aggregate], str]] = Background(self._take_snapshot)
        if snapshot_every is not None or snapshot_bytes is not None:
            shape = engine.describe_topic(name)
            topic = f"{name}.snapshots"
            with suppress(ReadOnlyError):
                engine.create_topic(
                    topic, partitions=shape.partitions, cleanup_policy="compact", fixed_partitions=True
                )
            self._snapshots = Snapshots(engine, topic, snapshot_every, snapshot_bytes)

    # ---- streams ----------------------------------------------------------------------------------------

    def append(
        self,
        stream: str,
        events: Any,
        *,
        expected_version: int | None = None,
        metadata: Metadata | None = None,
        durability: Durability | None = None,
    ) -> Appended:
        """Append one event, or several of them all or nothing; visible on return.

        Args:
            events: An event, or a list of them.
            expected_version: The number of events that the stream has, 0 for a new one; None: whatever it is.
            metadata: What to keep with each event, as JSON: who did it, and why.
            durability: "os", "interval" or "sync"; the topic's where left out.

        Raises:
            VersionConflictError: the stream has another version, `actual`: somebody else was first.
            ConfigError: an event of no type that the store was given, or no event at all.
            SerializationError, and what engine.append raises.
        """
        while True:
            version, offset = self._end_of(stream)
            if expected_version is not None and version != expected_version:
                raise conflict(stream, expected_version, version)
            try:
                return self._append(stream, events, version, offset, metadata, durability)
            except VersionConflictError:
                if expected_version is not None:
                    raise

    def _append(
        self,
        stream: str,
        events: Any,
        version: int,
        offset: int,
        metadata: Metadata | None,
        durability: Durability | None,
    ) -> Appended:
        """Append to a stream whose last event is at `offset`, -1: to one that has none."""
        key = stream.encode()
        several = events if isinstance(events, list | tuple) else [events]
        if not several:
            raise ConfigError("append() takes one event or more")
        values, headers = encode_events(self.types, several, version + 1, metadata)
        try:
            if len(values) == 1:
                last = self.engine.append(
                    self.name, values[0], key, headers=headers[0], durability=durability, guard=offset
                )
            else:
                keys, guard = [key] * len(values), {key: offset}
                last = self.engine.append_many(
                    self.name, values, keys, headers=headers, durability=durability, guard=guard
                )[-1]
        except VersionConflictError:
            raise conflict(stream, version, self.version(stream)) from None
        return Appended(stream, version + len(values), last)

    def _end_of(self, stream: str) -> tuple[int, int]:
        last = self.engine.read_key(self.name, stream.encode(), most=1, backward=True)
        return (version_of(last[0]), last[0].offset) if last else (0, -1)

    def version(self, stream: str) -> int:
        """Return the number of events of a stream, 0 where there is no such stream."""
        return self._end_of(stream)[0]

    def read(
        self,
        stream: str,
        *,
        first: int = 1,
        last: int | None = None,
        until: datetime | int | None = None,
        backward: bool = False,
        most: int | None = None,
    ) -> Iterator[Event]:
        """Yield the events of a stream, oldest or newest first.

        Args:
            first: The version to begin with.
            last: The version to end with.
            until: Only events up to this time: ns since 1970, or a datetime, of which the whole microsecond.
            backward: Newest first.
            most: How many at most.

        Raises:
            CorruptionError: an event is missing. SerializationError: one cannot be read.
        """
        check_limits(first=first, last=last, most=most)
        records = self._records(stream, first, last)
        if until is not None:
            records = up_to(records, until)
        if backward:
            records.reverse()
        return (decode_event(self.types, record) for record in records[:most])

    def _records(self, stream: str, first: int = 1, last: int | None = None) -> list[Record]:
        """Return the records of the versions from `first` to `last`."""
        records = self.engine.read_key(self.name, stream.encode())
        if not records:
            return []
        if version_of(records[0]) != 1 or version_of(records[-1]) != len(records):
            at = bisect_left(range(len(records)), 1, key=lambda i: version_of(records[i]) != i + 1)
            raise CorruptionError(
                f"stream {stream!r}: event {at + 1} is missing", first_offset=records[at].offset
            )
        return records[max(first - 1, 0) : last]

    # ---- all streams ------------------------------------------------------------------------------------

    def read_all(self, partition: int | None = None, offset: int | None = None) -> Iterator[Event]:
        """Yield all events that are there now, in the order of each partition: of its streams together."""
        return (self.event(record) for record in self.engine.read(self.name, partition, offset))

    def read_category(self, category: str) -> Iterator[Event]:
        """Yield the events of all streams of a category: whose names have it before the first "-"."""
        wanted = category.encode()
        records = self.engine.read(self.name)
        return (self.event(record) for record in records if (record.key or b"").partition(b"-")[0] == wanted)

    def streams(self, category: str | None = None) -> list[str]:
        """Return the names of all streams, or of those of a category, in the order in which they began."""
        names = dict.fromkeys((record.key or b"").decode() for record in self.engine.read(self.name))
        return [name for name in names if category is None or category_of(name) == category]

    def consumer(self, group: str | None = None, **options: Unpack[GroupOptions]) -> Consumer:
        """Open a consumer of all streams, from the first event on; event() says what its records are."""
        return self.engine.consumer(self.name, group=group, auto_offset_reset="earliest", **options)

    def event(self, record: Record) -> Event:
        """Return the event that a record of the store holds. Raises SerializationError."""
        return decode_event(self.types, record)

    # ---- aggregates -------------------------------------------------------------------------------------

    def load(self, kind: type[A], aggregate_id: str) -> A:
        """Return an aggregate as it is now; a new one where it has no events.

        Raises:
            CorruptionError: an event is missing. SerializationError: one cannot be read.
        """
        return self._load(kind, aggregate_id, None, None)

    def state_at(
        self,
        kind: type[A],
        aggregate_id: str,
        *,
        version: int | None = None,
        time: datetime | int | None = None,
    ) -> A:
        """Return an aggregate as it was at a version, or at a time (ns since 1970; or a datetime, after all
        events of that microsecond); the newest where that is yet to come."""
        if (version is None) == (time is None):
            raise ConfigError("state_at() takes a version or a time")
        check_limits(version=version)
        return self._load(kind, aggregate_id, version, time)

    def _load(self, kind: type[A], aggregate_id: str, version: int | None, time: datetime | int | None) -> A:
        stream = stream_of(kind, aggregate_id)
        found = self._from_snapshot(kind, stream, version) if time is None else None
        if found is None:
            aggregate, records = kind(), self._records(stream)
        else:
            aggregate, records = found
        standing = aggregate._stands
        standing.aggregate_id = aggregate_id
        if time is not None:
            records = up_to(records, time)
        if version is not None:
            records = records[: max(version - standing.version, 0)]
        apply, types = aggregate.apply, self.types
        for record in records:
            apply(decode_event(types, record).data)
        if records:
            standing.version += len(records)
            standing.offset = records[-1].offset
            if self._counts_bytes:
                standing.bytes += sum(len(record.value or b"") for record in records)
        return aggregate

    def _from_snapshot(
        self, kind: type[A], stream: str, version: int | None
    ) -> tuple[A, list[Record]] | None:
        """Return an aggregate as a snapshot has it and the records behind that, None where none fits."""
        if self._snapshots is None:
            return None
        for aggregate, snapshot in self._snapshots.before(kind, stream, version):
            records = self.engine.read_key(self.name, stream.encode(), first=snapshot.offset)
            if not records or (records[0].offset, records[0].epoch) != (snapshot.offset, snapshot.epoch):
                continue
            if records[0].timestamp != snapshot.timestamp:
                continue
            if version_of(records[0]) != snapshot.version:
                continue
            behind = len(records) - 1
            if behind and version_of(records[-1]) != snapshot.version + behind:
                continue
            standing = aggregate._stands = Standing()
            standing.version = standing.snapshot_version = snapshot.version
            standing.offset = snapshot.offset
            return aggregate, records[1:]
        return None

    def save(
        self,
        aggregate: Aggregate,
        aggregate_id: str | None = None,
        *,
        metadata: Metadata | None = None,
        durability: Durability | None = None,
    ) -> Appended | None:
        """Store what an aggregate recorded, all or nothing; None where it recorded nothing.

        Args:
            aggregate_id: Of one that was made and not loaded.
            metadata: What to keep with each event, as JSON.
            durability: "os", "interval" or "sync"; the topic's where left out.

        Raises:
            VersionConflictError: somebody else saved it first: load it and decide again.
            And what append() raises; the aggregate then still has what it recorded.
        """
        standing = aggregate._stands
        if aggregate_id is not None and standing.aggregate_id not in ("", aggregate_id):
            raise ConfigError(f"{aggregate!r} was loaded by another id than {aggregate_id!r}")
        standing.aggregate_id = aggregate_id or standing.aggregate_id
        if not standing.aggregate_id:
            raise ConfigError("an aggregate that was not loaded needs an id to be saved by")
        if not standing.pending:
            return None
        stream = stream_of(type(aggregate), standing.aggregate_id)
        done = self._append(stream, standing.pending, standing.version, standing.offset, metadata, durability)
        self.saved(aggregate, done)
        return done

    def save_in(
        self, transaction: Any, aggregate: Aggregate, *, metadata: Metadata | None = None
    ) -> Appended:
        """Store what an aggregate recorded when an engine's transaction commits, or not at all.

        Afterwards call saved() with what this returns and the RecordId of the last event, from commit().
        The commit raises VersionConflictError where somebody else was first.
        """
        standing = aggregate._stands
        if not standing.aggregate_id or not standing.pending:
            raise ConfigError(f"{aggregate!r} has no id, or recorded nothing")
        stream = stream_of(type(aggregate), standing.aggregate_id)
        values, headers = encode_events(self.types, standing.pending, standing.version + 1, metadata)
        guard: int | None = standing.offset
        for value, own in zip(values, headers, strict=True):
            transaction.append(self.name, value, stream.encode(), headers=own, guard=guard)
            guard = None
        return Appended(stream, standing.version + len(values), RecordId(self.name, -1, -1))

    def saved(self, aggregate: Aggregate, done: Appended) -> None:
        """Note that what an aggregate recorded is stored; have a snapshot taken where one is due."""
        standing = aggregate._stands
        standing.version, standing.offset = done.version, done.record_id.offset
        if self._snapshots is None:
            standing.pending.clear()
            return
        if self._counts_bytes:
            standing.bytes += sum(map(len, self.types.encode(standing.pending)))
        standing.pending.clear()
        if self._snapshots.due(aggregate):
            standing.snapshot_version, standing.bytes = standing.version, 0
            self._background.ask((type(aggregate), standing.aggregate_id))

    def _take_snapshot(self, wanted: tuple[type[Aggregate], str]) -> None:
        """Take a snapshot of an aggregate as it is in the store, whatever its program does meanwhile."""
        kind, aggregate_id = wanted
        try:
            self.snapshot(self.load(kind, aggregate_id))
        except PylogError as error:
            logger.warning("no snapshot of %s was taken: %s", stream_of(kind, aggregate_id), error)

    def flush(self) -> None:
        """Return when all snapshots that are due are taken."""
        self._background.flush()

    def close(self) -> None:
        """Take the snapshots that are due; closing the engine does it too."""
        self.flush()

    def snapshot(self, aggregate: Aggregate) -> bool:
        """Take a snapshot of a saved aggregate now; False, and a log message, where that cannot be."""
        standing = aggregate._stands
        if self._snapshots is None or standing.pending or not standing.version:
            return False
        stream = stream_of(type(aggregate), standing.aggregate_id)
        try:
            (last,) = self.engine.read_key(self.name, stream.encode(), first=standing.offset, most=1)
            return self._snapshots.take(aggregate, stream, last)
        except (PylogError, OSError, ValueError) as error:
            # the events are stored, which is all that was asked for
            logger.warning("no snapshot of %s was taken: %s", stream, error)
            return False

    def change(
        self,
        kind: type[A],
        aggregate_id: str,
        decide: Callable[[A], object],
        *,
        metadata: Metadata | None = None,
        durability: Durability | None = None,
        attempts: int = 10,
    ) -> A:
        """Load an aggregate, let `decide` decide, and save it; again from the start where others were first.

        Raises:
            VersionConflictError: after so many attempts. And whatever `decide` raises.
        """
        while True:
            aggregate = self.load(kind, aggregate_id)
            decide(aggregate)
            try:
                self.save(aggregate, metadata=metadata, durability=durability)
                return aggregate
            except VersionConflictError:
                attempts -= 1
                if attempts <= 0:
                    raise


def conflict(stream: str, expected: int, actual: int) -> VersionConflictError:
    """Return the error for a stream that has another version than expected."""
    return VersionConflictError(
        f"stream {stream!r} has version {actual}, not {expected}: somebody else appended to it first",
        stream=stream,
        expected=expected,
        actual=actual,
    )


def check_limits(**limits: int | None) -> None:
    """Raise ConfigError or TypeError for a version, or a number of events, that there cannot be."""
    for option, value in limits.items():
        if value is not None:
            check_count(value, option, 0, LARGEST)


def up_to(records: list[Record], time: datetime | int) -> list[Record]:
    """Return the records before the first one that is later than a time."""
    if isinstance(time, datetime):
        if time.tzinfo is None:
            try:
                time = time.astimezone()  # the machine's
            except (OverflowError, ValueError):  # within a day of datetime.max or min: as good as any
                time = time.replace(tzinfo=UTC)
        time = (time - EPOCH) // timedelta(microseconds=1) * 1000 + 999
    for number, record in enumerate(records):
        if record.timestamp > time:
            return records[:number]
    return records

