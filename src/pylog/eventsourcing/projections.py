"""ReadModel: rows of a database that follow a topic, with the position in the same transaction as the rows.

Any DB-API connection does whose commit() takes rows, tables and views together (SQLite, PostgreSQL). The rows
of each build of a projection have tables of their own, behind views that a rebuilt one takes over at once.
Invariant: whatever dies, the rows are the fold of exactly the records below the stored positions; of several
processes that keep one read model, each record is applied by one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, Self

from pylog.clock import Clock, Deadline, SystemClock
from pylog.config import check_name
from pylog.engine import Consumer, Engine
from pylog.errors import ConfigError, LogTruncatedError, RequestTimeoutError
from pylog.records import Record, RecordId, TopicPartition

logger = logging.getLogger("pylog")

POSITIONS, BUILDS = "pylog_positions", "pylog_builds"
MARKERS: dict[str, Callable[[int], str]] = {
    "qmark": lambda n: "?",
    "format": lambda n: "%s",
    "pyformat": lambda n: "%s",
    "numeric": lambda n: f":{n}",
}
AT_ONCE = 500
LONGEST_NAP = 0.05


class Projection(Protocol):
    """What a user writes: which tables there are, and what a record changes in them."""

    @property
    def name(self) -> str:
        """Of the read model in the database: letters, digits and "_"."""

    @property
    def tables(self) -> Sequence[str]:
        """Names of its tables; each is seen as a view of that name."""

    def create(self, db: Any, tables: Tables) -> None:
        """Create the tables, under the names that `tables[...]` says."""

    def apply(self, db: Any, tables: Tables, record: Any) -> None:
        """Change rows as a Record says, or an Event where an EventStore is followed; never commit."""


class Tables(dict[str, str]):
    """The name that a table of a projection has in this build, by the name of its view."""


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
        connection: A DB-API connection, not in autocommit mode; the caller closes it.
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
        for name in (projection.name, *projection.tables):
            if not name.isidentifier():
                raise ConfigError(f"the name {name!r} of a read model or table: letters, digits and _")
        if paramstyle not in MARKERS:
            raise ConfigError(f"paramstyle={paramstyle!r}: one of {', '.join(MARKERS)}")
        if getattr(connection, "isolation_level", "") is None or getattr(connection, "autocommit", 0) is True:
            raise ConfigError("the connection commits by itself: rows and position would come apart")
        self.engine, self.topic = engine, check_name(getattr(topic, "name", topic), "topic")
        self._decode: Callable[[Record], Any] = getattr(topic, "event", lambda record: record)
        self.projection, self.db, self.clock = projection, connection, clock or SystemClock()
        self._marker = MARKERS[paramstyle]
        self._uuid = engine.describe_topic(self.topic).uuid
        self._consumer: Consumer | None = None
        self._pinned = build
        self._next: dict[int, int] = {}
        self._create()

    # ---- the database -----------------------------------------------------------------------------------

    def _execute(self, statement: str, *values: Any) -> Any:
        """Execute a statement whose values are written as `?`."""
        parts = statement.split("?")
        sql = parts[0] + "".join(self._marker(number) + part for number, part in enumerate(parts[1:], 1))
        cursor = self.db.cursor()
        cursor.execute(sql, values)
        return cursor

    def _create(self) -> None:
        """Make what is missing in the database: our tables, the first build, its views."""
        try:
            self._execute(
                f"CREATE TABLE IF NOT EXISTS {BUILDS} "
                "(name VARCHAR(200) PRIMARY KEY, build INTEGER NOT NULL, made INTEGER NOT NULL)"
            )
            self._execute(
                f"CREATE TABLE IF NOT EXISTS {POSITIONS} (name VARCHAR(200), build INTEGER, "
                "partition_ INTEGER, topic VARCHAR(40) NOT NULL, next_offset BIGINT NOT NULL, "
                "epoch BIGINT NOT NULL, "
                "PRIMARY KEY (name, build, partition_))"
            )
            self.db.commit()
            if self._active() == 0:
                name = self.projection.name
                self._execute(f"INSERT INTO {BUILDS} (name, build, made) VALUES (?, 1, 1)", name)
                self._make_build(1)
                self._show(1)
            self.db.commit()
        except BaseException:
            self.db.rollback()
            if self._active() == 0:  # else another process was quicker
                raise
        self.build = self._pinned or self._active()
        self._load_positions()

    def _active(self) -> int:
        """Return the build that the views show, 0 where there is none."""
        row = self._execute(f"SELECT build FROM {BUILDS} WHERE name = ?", self.projection.name).fetchone()
        return int(row[0]) if row else 0

    def tables(self, build: int | None = None) -> Tables:
        """Return the names of the tables of a build."""
        number = self.build if build is None else build
        return Tables({name: f"{name}__{number}" for name in self.projection.tables})

    def _make_build(self, build: int) -> None:
        self.projection.create(self.db, self.tables(build))
        for partition in range(self.engine.describe_topic(self.topic).partitions):
            self._execute(
                f"INSERT INTO {POSITIONS} (name, build, partition_, topic, next_offset, epoch) "
                "VALUES (?, ?, ?, ?, 0, 0)",
                self.projection.name,
                build,
                partition,
                self._uuid,
            )

    def _show(self, build: int) -> None:
        for name, table in self.tables(build).items():
            self._execute(f"DROP VIEW IF EXISTS {name}")
            self._execute(f"CREATE VIEW {name} AS SELECT * FROM {table}")

    def _drop_build(self, build: int) -> None:
        for table in self.tables(build).values():
            self._execute(f"DROP TABLE IF EXISTS {table}")
        self._execute(f"DELETE FROM {POSITIONS} WHERE name = ? AND build = ?", self.projection.name, build)

    def _load_positions(self) -> None:
        """Take the stored positions, and have the consumer go on there."""
        rows = self._execute(
            f"SELECT partition_, topic, next_offset, epoch FROM {POSITIONS} WHERE name = ? AND build = ?",
            self.projection.name,
            self.build,
        ).fetchall()
        self.db.rollback()  # ends the reading transaction
        self._next = {}
        if not rows:
            raise ConfigError(f"build {self.build} of {self.projection.name} is gone: another was quicker")
        for partition, topic, next_offset, epoch in rows:
            if topic != self._uuid:
                raise ConfigError(f"{self.projection.name} was built from another topic: rebuild() it")
            self._check_epoch(partition, next_offset, epoch)
            self._next[partition] = next_offset
        if self._consumer is None:
            self._consumer = self.engine.consumer(on_truncate="raise")
            self._consumer.assign([TopicPartition(self.topic, partition) for partition in sorted(self._next)])
        for partition, offset in self._next.items():
            start = self.engine.log_start_offset(self.topic, partition)
            self._consumer.seek((self.topic, partition), max(offset, start))

    def _check_epoch(self, partition: int, next_offset: int, epoch: int) -> None:
        """Raise where a power cut took records that the rows are made of."""
        if next_offset == 0:
            return
        end = self.engine.log_end_offset(self.topic, partition)
        if next_offset <= end:
            start = self.engine.log_start_offset(self.topic, partition)
            if next_offset - 1 < start:
                return
            last = next(self.engine.read(self.topic, partition, next_offset - 1), None)
            if last is None or last.offset != next_offset - 1 or last.epoch == epoch:
                return  # compacted away, or the one that was applied
        raise LogTruncatedError(
            f"{self.projection.name} has rows of records of {self.topic}-{partition} before offset "
            f"{next_offset} that a power cut took: rebuild() it",
            offset=next_offset,
            resume_offset=end,
        )

    # ---- following --------------------------------------------------------------------------------------

    def catch_up(self, timeout: float | None = 0.0, at_once: int = AT_ONCE) -> int:
        """Apply what is there, `at_once` records a transaction; wait up to `timeout` for the first.

        Returns how many records were applied. Whatever the projection or the database raises is raised, and
        the transaction in which it happened is rolled back.

        Raises:
            LogTruncatedError: a power cut took records that the rows are made of: rebuild().
        """
        applied = 0
        while True:
            self._follow_switch()
            assert self._consumer is not None
            records = self._consumer.poll(at_once, 0.0 if applied else timeout)
            if not records:
                return applied
            if self._apply(records):
                applied += len(records)

    def _follow_switch(self) -> None:
        """Go on with the build that the views show, where that is another one by now."""
        if self._pinned is None:
            active = self._active()
            self.db.rollback()
            if active != self.build:
                self.build = active
                self._load_positions()

    def _apply(self, records: Sequence[Record]) -> bool:
        """Apply records and store the positions behind them; False where another process did so first."""
        moved: dict[int, Record] = {record.partition: record for record in records}
        try:
            for partition, last in moved.items():
                # first, since it takes the write lock and tells whether our position is the stored one
                changed = self._execute(
                    f"UPDATE {POSITIONS} SET next_offset = ?, epoch = ? "
                    "WHERE name = ? AND build = ? AND partition_ = ? AND next_offset = ?",
                    last.offset + 1,
                    last.epoch,
                    self.projection.name,
                    self.build,
                    partition,
                    self._next[partition],
                ).rowcount
                if changed != 1:
                    self.db.rollback()
                    if self._pinned is None:
                        self.build = self._active()
                    self._load_positions()
                    return False
            tables = self.tables()
            for record in records:
                self.projection.apply(self.db, tables, self._decode(record))
            self.db.commit()
        except BaseException:
            self.db.rollback()
            self._rewind()
            raise
        for partition, last in moved.items():
            self._next[partition] = last.offset + 1
        return True

    def _rewind(self) -> None:
        assert self._consumer is not None
        for partition, offset in self._next.items():
            with suppress(Exception):  # what went wrong before is what the caller is told
                self._consumer.seek((self.topic, partition), offset)

    # ---- what readers ask -------------------------------------------------------------------------------

    def positions(self) -> dict[int, int]:
        """Return the next offset of each partition that the views do not show yet, as stored now."""
        rows = self._execute(
            f"SELECT p.partition_, p.next_offset FROM {POSITIONS} p JOIN {BUILDS} b "
            "ON b.name = p.name AND b.build = p.build WHERE p.name = ?",
            self.projection.name,
        ).fetchall()
        self.db.rollback()
        return {int(partition): int(offset) for partition, offset in rows}

    def wait_for(self, token: Any, timeout: float | None = None) -> None:
        """Return when the rows show what an append returned: read your own writes.

        Somebody has to keep the read model meanwhile: this only looks, over a connection of its own.

        Args:
            token: What append(), save() or a command returned: a RecordId, what has one, or several of them.

        Raises:
            RequestTimeoutError: they do not show it in time.
            ConfigError: the token is of another topic.
        """
        places = sorted(places_of(token), key=lambda place: place.offset)
        if any(place.topic != self.topic for place in places):
            raise ConfigError(f"{self.projection.name} follows {self.topic!r}; {token!r} is of another topic")
        wanted = {place.partition: place.offset for place in places}
        deadline, nap = Deadline(self.clock, timeout), 0.0005
        while True:
            shown = self.positions()
            if all(shown.get(partition, 0) > offset for partition, offset in wanted.items()):
                return
            if deadline.passed():
                raise RequestTimeoutError(f"{self.projection.name} does not show {token!r} in time")
            time.sleep(deadline.left(nap))
            nap = min(nap * 2, LONGEST_NAP)

    def lag(self) -> Lag:
        """Return how far the views are behind the topic."""
        records, oldest = 0, None
        for partition, offset in self.positions().items():
            behind = self.engine.log_end_offset(self.topic, partition) - offset
            if behind <= 0:
                continue
            records += behind
            start = max(offset, self.engine.log_start_offset(self.topic, partition))
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
        build = self._next_build()
        beside = type(self)._beside(self, projection, build)
        applied = 0
        try:
            while True:
                applied += beside.catch_up()
                if until is not None and until():
                    self._forget(beside)
                    return applied
                if self._switch(beside):
                    break
        finally:
            beside.close()
        self.projection, self.build = projection, build
        self._load_positions()
        return applied

    def _next_build(self) -> int:
        try:
            self._execute(f"UPDATE {BUILDS} SET made = made + 1 WHERE name = ?", self.projection.name)
            name = self.projection.name
            row = self._execute(f"SELECT made FROM {BUILDS} WHERE name = ?", name).fetchone()
            self.db.commit()
        except BaseException:
            self.db.rollback()
            raise
        return int(row[0])

    @classmethod
    def _beside(cls, model: Self, projection: Projection, build: int) -> Self:
        made = cls.__new__(cls)
        made.__dict__.update(model.__dict__, projection=projection, build=build, _pinned=build)
        made._consumer = None
        try:
            made._make_build(build)
            made.db.commit()
        except BaseException:
            made.db.rollback()
            raise
        made._load_positions()
        return made

    def _switch(self, beside: Self) -> bool:
        """Have the views show the new build, if it has all that the old one has."""
        try:
            name = self.projection.name
            # first of all the write lock: whoever keeps the old build waits, and then finds the new one
            self._execute(f"UPDATE {BUILDS} SET made = made WHERE name = ?", name)
            old = self._active()
            self._execute(f"UPDATE {BUILDS} SET build = ? WHERE name = ?", beside.build, name)
            rows = self._execute(
                f"SELECT partition_, next_offset FROM {POSITIONS} WHERE name = ? AND build = ?",
                self.projection.name,
                old,
            ).fetchall()
            if any(beside._next.get(int(partition), 0) < int(offset) for partition, offset in rows):
                self.db.rollback()
                return False
            for view in self.projection.tables:
                self._execute(f"DROP VIEW IF EXISTS {view}")
            beside._show(beside.build)
            # and what rebuilds that died half way left
            for build in range(1, beside.build):
                self._drop_build(build)
            self.db.commit()
        except BaseException:
            self.db.rollback()
            raise
        return True

    def _forget(self, beside: Self) -> None:
        try:
            beside._drop_build(beside.build)
            self.db.commit()
        except BaseException:
            self.db.rollback()
            raise

    def close(self) -> None:
        """Stop reading; the connection stays open."""
        if self._consumer is not None:
            self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def places_of(token: Any) -> Iterable[RecordId]:
    """Return the RecordIds in what an append, a save or a command returned."""
    if token is None:
        return []
    if isinstance(token, RecordId):
        return [token]
    if hasattr(token, "record_id"):
        return [token.record_id]
    if hasattr(token, "tokens"):
        token = token.tokens
    return [place for one in token for place in places_of(one)]
