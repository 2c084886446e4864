"""SQLite in WAL mode: synchronous=NORMAL (a commit is not synced) and FULL (each commit is)."""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.peers import Peer
from benchmarks.workload import Workload

INSERT = "INSERT INTO log (key, value) VALUES (?, ?)"


class SqliteStore:
    """One table with the offset as its row id."""

    def __init__(self, directory: Path, synchronous: Literal["NORMAL", "FULL"]) -> None:
        self.connection = sqlite3.connect(directory / "log.db", isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute(f"PRAGMA synchronous={synchronous}")
        self.connection.execute("CREATE TABLE log (offset INTEGER PRIMARY KEY, key BLOB, value BLOB)")

    def append_each(self, values: list[bytes], keys: list[bytes]) -> None:
        """One INSERT, one commit."""
        execute = self.connection.execute
        for key, value in zip(keys, values, strict=True):
            execute(INSERT, (key, value))

    def append_batches(self, calls: list[tuple[list[bytes], list[bytes]]]) -> None:
        """One executemany in one transaction a call."""
        for values, keys in calls:
            self.connection.execute("BEGIN")
            self.connection.executemany(INSERT, zip(keys, values, strict=True))
            self.connection.execute("COMMIT")

    def read_all(self) -> int:
        """One SELECT in the order of the offset."""
        count = 0
        for (_value,) in self.connection.execute("SELECT value FROM log ORDER BY offset"):
            count += 1
        return count

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()


def open_store(directory: Path, work: Workload, *, synchronous: Literal["NORMAL", "FULL"]) -> SqliteStore:
    """A new database."""
    return SqliteStore(directory, synchronous)


PEERS = (
    Peer(
        "SQLite WAL NORMAL",
        f"sqlite {sqlite3.sqlite_version}, journal_mode=WAL, synchronous=NORMAL",
        False,
        partial(open_store, synchronous="NORMAL"),
        {"one by one": 30_000, "in batches": 200_000, "read back": 500_000},
    ),
    Peer(
        "SQLite WAL FULL",
        f"sqlite {sqlite3.sqlite_version}, journal_mode=WAL, synchronous=FULL",
        True,
        partial(open_store, synchronous="FULL"),
        {"one by one": 2_000, "in batches": 50_000, "read back": 500_000},
    ),
)
