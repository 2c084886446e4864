"""ReadModel: rows of a database that follow a topic, with the position in the same transaction as the rows.

What stands in the database is in builds.py. Invariant: whatever dies, the rows are the fold of exactly the
records below the stored positions; of several processes that keep one read model one applies each record.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import copy
from typing import Any, NamedTuple, Self

from pylog.clock import Clock, Deadline, SystemClock
from pylog.config import check_name, check_seconds
from pylog.engine import Consumer, Engine
from pylog.errors import (
    ClosedError,
    ConfigError,
    LogTruncatedError,
    OffsetOutOfRangeError,
    RequestTimeoutError,
)
from pylog.eventsourcing.builds import Builds, Projection, Stored, Tables
from pylog.records import Record, RecordId, TopicPartition

AT_ONCE = 500
LONGEST_NAP = 0.05


class Lag(NamedTuple):
    """How far a read model is behind."""

    records: int
    seconds: float
    """Age of the oldest record that is not applied yet; 0 where there is none."""


class ReadModel:
    """Keeps one projection of one topic in one database. Belongs to one thread, as its connection does.

    Args:
        engine: Whose topic it follows.
        topic: Its name, or an EventStore.
        projection: What becomes of records.
        connection: A DB-API connection of its own, not in autocommit mode; the caller closes it.
        paramstyle: Of the connection's module.
        build: Of the tables; left out: the one that the views show.
    """

    def __init__(
        self,
        engine: Engine,
        topic: Any,
        projection: Projection,
        connection: Any,
        *,
        paramstyle: str = "qmark",
        clock: Clock | None = None,
        build: int | None = None,
    ) -> None:
        self.engine, self.topic = engine, check_name(getattr(topic, "name", topic), "topic")
        self._decode: Callable[[Record], Any] = getattr(topic, "event", lambda record: record)
        self.db, self.clock = connection, clock or SystemClock()
        self._builds = Builds(projection, connection, paramstyle)
        self._pinned = build
        self._consumer: Consumer | None = None  # None: where to begin is asked of the database
        self._next: dict[int, int] = {}
        self._builds.once(lambda: self._builds.make_first(*self._beginning()))
        self.build = build or self._builds.active()
        connection.rollback()

    @property
    def projection(self) -> Projection:
        """What becomes of records."""
        return self._builds.projection

    def tables(self) -> Tables:
        """Return the names of the tables of the build that is kept, by those of their views."""
        return self._builds.tables(self.build)

    def _beginning(self) -> tuple[str, dict[int, int]]:
        """Return the topic's uuid, and where each partition begins."""
        shape = self.engine.describe_topic(self.topic)
        starts = {one: self.engine.log_start_offset(self.topic, one) for one in range(shape.partitions)}
        return shape.uuid, starts

    # ---- following --------------------------------------------------------------------------------------

    def catch_up(self, timeout: float | None = 0.0, at_once: int = AT_ONCE) -> int:
        """Apply what is there, `at_once` records a transaction; wait up to `timeout` for the first.

        Returns how many records were applied. Whatever the projection or the database raises is raised, the
        transaction in which it happened is rolled back, and the next call begins where the database says.

        Raises:
            LogTruncatedError: a power cut took records that the rows are made of: rebuild().
            OffsetOutOfRangeError: records were deleted before they were applied: rebuild().
            ConfigError: the rows are of another topic of that name, or of another version of the projection.
        """
        applied = 0
        try:
            uuid, starts = self._beginning()
            while True:
                records = self._following(uuid, starts).poll(at_once, 0.0 if applied else timeout)
                if not records:
                    return applied
                if self._apply(records):
                    applied += len(records)
        except BaseException:
            self.close()
            raise

    def _following(self, uuid: str, starts: dict[int, int]) -> Consumer:
        """Return the consumer where the database says, which others and rebuilds may have moved."""
        stored = self._builds.look(self._pinned)
        if not stored:
            raise ConfigError(f"build {self.build} of {self.projection.name} is gone: another was quicker")
        self._check_topic(stored, uuid)
        self._check_version(stored)
        build = stored[0].build
        if len(stored) < len(starts):  # the topic got more partitions since
            self._builds.once(lambda: self._builds.add_positions(build, uuid, starts))
            stored = self._builds.look(build)
        if self._consumer is None or build != self.build or len(stored) > len(self._next):
            self.close()
            self._consumer = self.engine.consumer(on_truncate="raise", auto_offset_reset="error")
            self._consumer.assign([TopicPartition(self.topic, one.partition) for one in stored])
            self.build = build
        for one in stored:
            if self._next.get(one.partition) != one.next_offset:
                self._check_place(one)
                self._consumer.seek((self.topic, one.partition), one.next_offset)
                self._next[one.partition] = one.next_offset
        return self._consumer

    def _check_topic(self, stored: Sequence[Stored], uuid: str) -> None:
        if any(one.topic != uuid for one in stored):
            raise ConfigError(f"{self.projection.name} was built from another {self.topic!r}: rebuild() it")

    def _check_version(self, stored: Sequence[Stored]) -> None:
        name, version = self.projection.name, stored[0].version
        if self._pinned is None and version != self._builds.version:
            raise ConfigError(
                f"{name} is kept by version {version} of its projection, and this is version "
                f"{self._builds.version}: rebuild() it with the newer one, and end who has the older one"
            )

    def _check_place(self, stored: Stored) -> None:
        """Raise where a power cut took records that rows are made of, or where some went unapplied."""
        partition, next_offset = stored.partition, stored.next_offset
        start = self.engine.log_start_offset(self.topic, partition)
        end = self.engine.log_end_offset(self.topic, partition)
        if next_offset < start:
            raise OffsetOutOfRangeError(
                f"offsets {next_offset} to {start - 1} of {self.topic}-{partition} were deleted before "
                f"{self.projection.name} had them: rebuild() it from what is there",
                offset=next_offset,
                log_start_offset=start,
                log_end_offset=end,
            )
        if next_offset <= end:
            if next_offset == start:
                return
            last = next(self.engine.read(self.topic, partition, next_offset - 1), None)
            if last is None or last.offset != next_offset - 1 or last.epoch == stored.epoch:
                return  # compacted away, or the one that was applied
        raise LogTruncatedError(
            f"{self.projection.name} has rows of records of {self.topic}-{partition} before offset "
            f"{next_offset} that a power cut took: rebuild() it",
            offset=next_offset,
            resume_offset=end,
        )

    def _apply(self, records: Sequence[Record]) -> bool:
        """Apply records and store the positions behind them; False where another process did so first."""
        moved = {record.partition: record for record in records}
        with self._builds.transaction():
            for partition, last in sorted(moved.items()):
                # first, since it takes the write lock and tells whether our position is the stored one
                at, behind = self._next[partition], last.offset + 1
                if not self._builds.move(self.build, partition, at, behind, last.epoch):
                    self.db.rollback()
                    self.close()
                    return False
            tables = self.tables()
            for record in records:
                self.projection.apply(self.db, tables, self._decode(record))
        self._next.update({partition: last.offset + 1 for partition, last in moved.items()})
        return True

    # ---- what readers ask -------------------------------------------------------------------------------

    def positions(self) -> dict[int, int]:
        """Return the next offset of each partition that the views do not show yet, as stored now.

        Raises:
            ConfigError: the rows are of another topic of that name: rebuild().
        """
        shape, stored = self.engine.describe_topic(self.topic), self._builds.look()
        self._check_topic(stored, shape.uuid)
        return dict.fromkeys(range(shape.partitions), 0) | {one.partition: one.next_offset for one in stored}

    def wait_for(self, token: Any, timeout: float | None = None) -> None:
        """Return when the rows show what an append returned: read your own writes.

        Somebody has to keep the read model meanwhile: this only looks, over a connection of its own.

        Args:
            token: What append(), save() or a command returned: a RecordId, what has one, or several of them.

        Raises:
            RequestTimeoutError: they do not show it in time.
            ConfigError: the token is of another topic, or of a partition that there is not.
        """
        deadline, nap = Deadline(self.clock, check_seconds(timeout, "timeout")), 0.0005
        wanted: dict[int, int] = {}
        for place in places_of(token):
            if place.topic != self.topic:
                raise ConfigError(f"{self.projection.name} follows {self.topic!r}, which has no {token!r}")
            wanted[place.partition] = max(place.offset, wanted.get(place.partition, 0))
        while True:
            shown = self.positions()
            if not wanted.keys() <= shown.keys():
                raise ConfigError(f"{token!r} stands in no partition of {self.topic!r}")
            if all(shown[partition] > offset for partition, offset in wanted.items()):
                return
            if deadline.passed():
                raise RequestTimeoutError(f"{self.projection.name} does not show {token!r} in time")
            time.sleep(deadline.left(nap))
            nap = min(nap * 2, LONGEST_NAP)

    def lag(self) -> Lag:
        """Return how far the views are behind the topic."""
        records, oldest = 0, None
        for partition, offset in self.positions().items():
            start = max(offset, self.engine.log_start_offset(self.topic, partition))
            behind = self.engine.log_end_offset(self.topic, partition) - start
            if behind <= 0:
                continue
            records += behind
            first = next(self.engine.read(self.topic, partition, start), None)
            if first is not None and (oldest is None or first.timestamp < oldest):
                oldest = first.timestamp
        seconds = 0.0 if oldest is None else max(0.0, (self.clock.time_ns() - oldest) / 1e9)
        return Lag(records, seconds)

    # ---- rebuilding -------------------------------------------------------------------------------------

    def rebuild(
        self, projection: Projection | None = None, *, until: Callable[[], bool] | None = None
    ) -> int:
        """Build the tables anew beside the old ones, and switch the views at once when they have caught up.

        Who keeps the old build goes on doing so until the switch, and then keeps the new one. A build that
        died half way is no trouble: the next one begins anew under another number.

        Args:
            projection: What applies from now on; the same where left out.
            until: Asked between batches: True gives up, and leaves everything as it was.

        Returns:
            How many records were applied.
        """
        projection = projection or self.projection
        if projection.name != self.projection.name:
            raise ConfigError(f"a rebuilt {self.projection.name} keeps its name: it is no {projection.name}")
        beside = self._beside(projection)
        applied = 0
        try:
            while True:
                applied += beside.catch_up()
                if until is not None and until():
                    with beside._builds.transaction():
                        beside._builds.drop(beside.build)
                    return applied
                if self._switch(beside):
                    break
        finally:
            beside.close()
        self.close()
        self._builds, self.build = beside._builds, beside.build
        return applied

    def _beside(self, projection: Projection) -> Self:
        """Return a read model that fills new tables, which nobody sees yet."""
        beside = copy(self)
        beside._builds = Builds(projection, self.db, self._builds.paramstyle)
        beside._consumer, beside._next = None, {}
        with beside._builds.transaction():
            beside.build = beside._pinned = beside._builds.make_next(*self._beginning())
        return beside

    def _switch(self, beside: Self) -> bool:
        """Have the views show the new build, if it has all that the old one has."""
        uuid, builds = self.engine.describe_topic(self.topic).uuid, beside._builds
        with builds.transaction():
            # first of all the locks: whoever keeps the old build waits, and then finds the new one
            for old in builds.lock():
                there = min(old.next_offset, self.engine.log_end_offset(self.topic, old.partition))
                if old.topic == uuid and beside._next.get(old.partition, 0) < there:
                    return False
            if not builds.stored(beside.build):
                raise ConfigError(f"build {beside.build} of {builds.name} is gone: another was quicker")
            builds.show(beside.build, self.projection)
        return True

    def close(self) -> None:
        """Stop reading, until catch_up() is called again; the connection stays open."""
        consumer, self._consumer, self._next = self._consumer, None, {}
        if consumer is not None:
            with suppress(ClosedError):  # with its engine, or its topic
                consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def places_of(token: Any) -> Iterable[RecordId]:
    """Return the RecordIds in what an append, a save or a command returned."""
    if token is None:
        return []
    if isinstance(token, str | bytes):
        raise TypeError(f"{token!r} is no place in a log")
    if isinstance(token, RecordId):
        return [token]
    if hasattr(token, "record_id"):
        return [token.record_id]
    if hasattr(token, "tokens"):
        token = token.tokens
    return [place for one in token for place in places_of(one)]
