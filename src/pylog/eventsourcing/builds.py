"""Builds: the tables of a projection in a database, and the positions in the log that belong to their rows.

Any DB-API connection does whose transactions take rows, tables and views together. Each build has tables of
its own, behind views that show one of them. Knows nothing of logs: read models move the positions. Invariant:
the views, the number of the build that they show and its positions change in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from pylog.errors import ConfigError

POSITIONS, BUILDS = "pylog_positions", "pylog_builds"
MARKERS: dict[str, Callable[[int], str]] = {
    "qmark": lambda n: "?",
    "format": lambda n: "%s",
    "pyformat": lambda n: "%s",
    "numeric": lambda n: f":{n}",
}


class Projection(Protocol):
    """What a user writes: which tables there are, and what a record changes in them.

    Its `version` (1 where it has none) is raised with its rules: a program with other rules than those that
    the rows were built by then keeps them no longer.
    """

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


class Stored(NamedTuple):
    """What the database says of one partition in one build."""

    build: int
    version: int
    """Of the projection whose rows the views show, whatever the build."""
    partition: int
    topic: str
    """The topic's uuid."""
    next_offset: int
    epoch: int
    """Of the last record that was applied."""


class Builds:
    """The builds of one projection. Whoever calls it commits, but for once() and transaction()."""

    def __init__(self, projection: Projection, connection: Any, paramstyle: str) -> None:
        for name in (projection.name, *projection.tables):
            if not name.isidentifier():
                raise ConfigError(f"the name {name!r} of a read model or table: letters, digits and _")
        if paramstyle not in MARKERS:
            raise ConfigError(f"paramstyle={paramstyle!r}: one of {', '.join(MARKERS)}")
        if commits_by_itself(connection):
            raise ConfigError("the connection commits by itself: rows and position would come apart")
        self.projection, self.name, self.db = projection, projection.name, connection
        self.version = int(getattr(projection, "version", 1))
        self.paramstyle = paramstyle

    def execute(self, statement: str, *values: Any) -> Any:
        """Execute a statement whose values are written as `?`."""
        parts, marker = statement.split("?"), MARKERS[self.paramstyle]
        sql = parts[0] + "".join(marker(number) + part for number, part in enumerate(parts[1:], 1))
        cursor = self.db.cursor()
        cursor.execute(sql, values)
        return cursor

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what the block does, or nothing of it."""
        try:
            yield
            self.db.commit()
        except BaseException:
            self.db.rollback()
            raise

    def once(self, make: Callable[[], None]) -> None:
        """Commit what another process may be making at the same time: a second look then finds it made."""
        try:
            with self.transaction():
                make()
        except Exception:
            with self.transaction():
                make()

    # ---- what is stored ---------------------------------------------------------------------------------

    def stored(self, build: int | None = None) -> list[Stored]:
        """Return what is stored of each partition of a build; None: of the one that the views show."""
        which, values = ("b.build", ()) if build is None else ("?", (build,))
        rows = self.execute(
            f"SELECT p.build, b.version, p.partition_, p.topic, p.next_offset, p.epoch FROM {POSITIONS} p "
            f"JOIN {BUILDS} b ON b.name = p.name WHERE p.name = ? AND p.build = {which} "
            "ORDER BY p.partition_",
            self.name,
            *values,
        ).fetchall()
        return [Stored(*row) for row in rows]

    def look(self, build: int | None = None) -> list[Stored]:
        """The same, and end the transaction in which that is read."""
        found = self.stored(build)
        self.db.rollback()
        return found

    def active(self) -> int:
        """Return the build that the views show, 0 where there is none."""
        row = self.execute(f"SELECT build FROM {BUILDS} WHERE name = ?", self.name).fetchone()
        return int(row[0]) if row else 0

    def tables(self, build: int) -> Tables:
        """Return the names of the tables of a build."""
        return Tables({name: f"{name}__{build}" for name in self.projection.tables})

    # ---- making and moving ------------------------------------------------------------------------------

    def make_first(self, topic: str, starts: Mapping[int, int]) -> None:
        """Make what is missing in the database: our tables, the first build, its views."""
        self.execute(
            f"CREATE TABLE IF NOT EXISTS {BUILDS} (name VARCHAR(200) PRIMARY KEY, build INTEGER NOT NULL, "
            "made INTEGER NOT NULL, version INTEGER NOT NULL)"
        )
        self.execute(
            f"CREATE TABLE IF NOT EXISTS {POSITIONS} (name VARCHAR(200), build INTEGER, "
            "partition_ INTEGER, topic VARCHAR(40) NOT NULL, next_offset BIGINT NOT NULL, "
            "epoch BIGINT NOT NULL, PRIMARY KEY (name, build, partition_))"
        )
        self.db.commit()
        if self.active() == 0:
            self.execute(
                f"INSERT INTO {BUILDS} (name, build, made, version) VALUES (?, 1, 1, ?)",
                self.name,
                self.version,
            )
            self._make(1, topic, starts)
            self._show(1)

    def make_next(self, topic: str, starts: Mapping[int, int]) -> int:
        """Make the tables of another build, which nobody sees yet, and return its number."""
        self.execute(f"UPDATE {BUILDS} SET made = made + 1 WHERE name = ?", self.name)
        row = self.execute(f"SELECT made FROM {BUILDS} WHERE name = ?", self.name).fetchone()
        self._make(int(row[0]), topic, starts)
        return int(row[0])

    def _make(self, build: int, topic: str, starts: Mapping[int, int]) -> None:
        self.projection.create(self.db, self.tables(build))
        self.add_positions(build, topic, starts)

    def add_positions(self, build: int, topic: str, starts: Mapping[int, int]) -> None:
        """Store where each partition begins that has no position yet."""
        known = {one.partition for one in self.stored(build)}
        for partition in starts.keys() - known:
            self.execute(
                f"INSERT INTO {POSITIONS} (name, build, partition_, topic, next_offset, epoch) "
                "VALUES (?, ?, ?, ?, ?, 0)",
                self.name,
                build,
                partition,
                topic,
                starts[partition],
            )

    def move(self, build: int, partition: int, from_offset: int, next_offset: int, epoch: int) -> bool:
        """Move a position; False where it is not where it is thought to be. Takes the write lock."""
        changed = self.execute(
            f"UPDATE {POSITIONS} SET next_offset = ?, epoch = ? "
            "WHERE name = ? AND build = ? AND partition_ = ? AND next_offset = ?",
            next_offset,
            epoch,
            self.name,
            build,
            partition,
            from_offset,
        ).rowcount
        if changed < 0:
            raise ConfigError("the connection does not say how many rows an UPDATE changed")
        return bool(changed)

    def lock(self) -> list[Stored]:
        """Keep everybody from switching and from moving a position of what the views show; those."""
        self.execute(f"UPDATE {BUILDS} SET made = made WHERE name = ?", self.name)
        for one in self.stored():
            self.execute(
                f"UPDATE {POSITIONS} SET epoch = epoch WHERE name = ? AND build = ? AND partition_ = ?",
                self.name,
                one.build,
                one.partition,
            )
        return self.stored()

    def show(self, build: int, instead_of: Projection) -> None:
        """Have the views show a build, and remove those before it; what rebuilds that died left, too."""
        for view in instead_of.tables:
            self.execute(f"DROP VIEW IF EXISTS {view}")
        self._show(build)
        self.execute(
            f"UPDATE {BUILDS} SET build = ?, version = ? WHERE name = ?", build, self.version, self.name
        )
        older = self.execute(
            f"SELECT DISTINCT build FROM {POSITIONS} WHERE name = ? AND build < ?", self.name, build
        ).fetchall()
        for (number,) in older:
            self.drop(number)
            for view in instead_of.tables:  # those included that the newer projection has no more
                self.execute(f"DROP TABLE IF EXISTS {view}__{number}")

    def _show(self, build: int) -> None:
        for name, table in self.tables(build).items():
            self.execute(f"DROP VIEW IF EXISTS {name}")
            self.execute(f"CREATE VIEW {name} AS SELECT * FROM {table}")

    def drop(self, build: int) -> None:
        """Remove a build that the views do not show."""
        for table in self.tables(build).values():
            self.execute(f"DROP TABLE IF EXISTS {table}")
        self.execute(f"DELETE FROM {POSITIONS} WHERE name = ? AND build = ?", self.name, build)


def commits_by_itself(connection: Any) -> bool:
    """Return whether a connection is in autocommit mode.

    sqlite3 says so by isolation_level=None, where its `autocommit` is not there or at its default. Of others,
    psycopg among them, None is the database's own isolation level.
    """
    told = getattr(connection, "autocommit", None)
    if isinstance(told, bool):
        return told
    return isinstance(connection, sqlite3.Connection) and connection.isolation_level is None
