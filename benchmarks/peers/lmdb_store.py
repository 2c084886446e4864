"""LMDB: keyed by an 8-byte offset, appended with MDB_APPEND; synced per commit, or not at all (nosync).

Unsynced it runs with `writemap`, which is its fastest setting.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from struct import Struct
from typing import Any

from benchmarks.contest import SkippedError
from benchmarks.peers import Peer
from benchmarks.workload import Workload

OFFSET = Struct(">Q").pack


class LmdbStore:
    """One database; a record's key and value stand behind each other under its offset."""

    def __init__(self, lmdb: Any, directory: Path, map_size: int, synced: bool) -> None:
        self.environment = lmdb.open(
            str(directory / "lmdb"), map_size=map_size, sync=synced, metasync=synced, writemap=not synced
        )
        self.end = 0

    def append_each(self, values: list[bytes], keys: list[bytes]) -> None:
        """One write transaction a record."""
        begin = self.environment.begin
        end = self.end
        for key, value in zip(keys, values, strict=True):
            with begin(write=True) as transaction:
                transaction.put(OFFSET(end), key + value, append=True)
            end += 1
        self.end = end

    def append_batches(self, calls: list[tuple[list[bytes], list[bytes]]]) -> None:
        """One write transaction a call."""
        for values, keys in calls:
            with self.environment.begin(write=True) as transaction, transaction.cursor() as cursor:
                cursor.putmulti(self.items(values, keys), append=True)
            self.end += len(values)

    def items(self, values: list[bytes], keys: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
        """What LMDB stores for these records."""
        for offset, (key, value) in enumerate(zip(keys, values, strict=True), self.end):
            yield OFFSET(offset), key + value

    def read_all(self) -> int:
        """One cursor over all, values as bytes."""
        count = 0
        with self.environment.begin() as transaction, transaction.cursor() as cursor:
            for _value in cursor.iternext(keys=False, values=True):
                count += 1
        return count

    def close(self) -> None:
        """Close the environment."""
        self.environment.close()


def open_store(directory: Path, work: Workload, *, synced: bool) -> LmdbStore:
    """A new environment with room for the workload."""
    try:
        import lmdb
    except ImportError:
        raise SkippedError("LMDB is skipped: the package `lmdb` is not installed") from None
    return LmdbStore(lmdb, directory, work.payload_bytes * 8 + (64 << 20), synced)


PEERS = (
    Peer(
        "LMDB nosync",
        "py-lmdb, sync=False, writemap=True, MDB_APPEND",
        False,
        partial(open_store, synced=False),
        {"one by one": 100_000, "in batches": 500_000, "read back": 1_000_000},
    ),
    Peer(
        "LMDB sync",
        "py-lmdb, sync=True, MDB_APPEND",
        True,
        partial(open_store, synced=True),
        {"one by one": 2_000, "in batches": 50_000, "read back": 1_000_000},
    ),
)
