"""A plain queue over LMDB, as one writes it in an afternoon: a database of ready records, one of leased ones.

A get moves the oldest ready record under a deadline, an ack deletes it, and an expired lease is ready again.
Each is one write transaction. Unsynced it runs with `writemap`, which is its fastest setting.
"""

from __future__ import annotations

import time
from pathlib import Path
from struct import Struct
from typing import Any

from benchmarks.contest import SkippedError
from benchmarks.queues import QueuePeer
from benchmarks.workload import Workload

NUMBER = Struct(">Q")
DEADLINE = Struct(">d")
LEASE_SECONDS = 30.0
MAP_BYTES = 4 << 30


class LmdbQueue:
    """`ready`: number -> value; `leased`: number -> deadline and value; `meta`: the next number."""

    def __init__(self, lmdb: Any, directory: Path) -> None:
        self.environment = lmdb.open(
            str(directory / "lmdb"), map_size=MAP_BYTES, max_dbs=3, sync=False, metasync=False, writemap=True
        )
        self.ready, self.leased, self.meta = map(self.environment.open_db, (b"ready", b"leased", b"meta"))

    def put_each(self, values: list[bytes]) -> None:
        """One write transaction a record."""
        for value in values:
            self.put((value,))

    def put_batches(self, batches: list[list[bytes]]) -> None:
        """One write transaction a batch."""
        for values in batches:
            self.put(values)

    def put(self, values: list[bytes] | tuple[bytes]) -> None:
        """Number the values on from the last one."""
        with self.environment.begin(write=True) as transaction:
            found = transaction.get(b"next", db=self.meta)
            number = NUMBER.unpack(found)[0] if found else 0
            for value in values:
                transaction.put(NUMBER.pack(number), value, append=True, db=self.ready)
                number += 1
            transaction.put(b"next", NUMBER.pack(number), db=self.meta)

    def get(self, most: int) -> list[tuple[bytes, bytes]]:
        """Lease the oldest ready records."""
        found: list[tuple[bytes, bytes]] = []
        with self.environment.begin(write=True) as transaction, transaction.cursor(db=self.ready) as cursor:
            deadline = DEADLINE.pack(time.time() + LEASE_SECONDS)
            while len(found) < most and cursor.first():
                number, value = cursor.item()
                transaction.put(number, deadline + value, db=self.leased)
                cursor.delete()
                found.append((number, value))
        return found or self.reclaim()

    def reclaim(self) -> list[tuple[bytes, bytes]]:
        """Make expired leases ready again; the next get has them."""
        with self.environment.begin(write=True) as transaction, transaction.cursor(db=self.leased) as cursor:
            for number, item in cursor:
                if DEADLINE.unpack_from(item)[0] < time.time():
                    transaction.put(number, item[DEADLINE.size :], db=self.ready)
                    transaction.delete(number, db=self.leased)
        return []

    def ack(self, found: list[tuple[bytes, bytes]]) -> None:
        """Forget leased records."""
        with self.environment.begin(write=True) as transaction:
            for number, _value in found:
                transaction.delete(number, db=self.leased)

    def drain(self, batch: int) -> int:
        """Get and ack by `batch`."""
        handled = 0
        while found := self.get(batch):
            handled += len(found)
            self.ack(found)
        return handled

    def close(self) -> None:
        """Close the environment."""
        self.environment.close()


def open_queue(directory: Path, work: Workload | None = None) -> LmdbQueue:
    """The queue of a directory, made where there is none."""
    try:
        import lmdb
    except ImportError:
        raise SkippedError("the LMDB queue is skipped: the package `lmdb` is not installed") from None
    return LmdbQueue(lmdb, directory)


PEERS = (
    QueuePeer(
        "LMDB queue",
        "py-lmdb, sync=False, writemap=True; ready and leased databases",
        open_queue,
        open_queue,
        {
            "put one by one": 50_000,
            "put in batches": 200_000,
            "work one by one": 20_000,
            "work in batches": 100_000,
            "eight workers": 100_000,
        },
    ),
)
