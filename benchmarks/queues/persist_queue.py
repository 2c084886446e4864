"""persist-queue's SQLiteAckQueue: a row a record, with a status that get and ack change.

It has no batches of its own, and its cursors are those of one process, so it is compared record by record.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.contest import SkippedError
from benchmarks.queues import QueuePeer
from benchmarks.workload import Workload


class PersistQueue:
    """One SQLiteAckQueue with auto_commit: each put, get and ack is committed."""

    def __init__(self, module: Any, directory: Path) -> None:
        self.empty = module.Empty
        self.queue = module.SQLiteAckQueue(str(directory / "queue"), auto_commit=True)
        for connection in (self.queue._getter, self.queue._putter):     # as it comes, each commit is synced
            connection.execute("PRAGMA synchronous=NORMAL")

    def put_each(self, values: list[bytes]) -> None:
        """One put a record."""
        put = self.queue.put
        for value in values:
            put(value)

    def put_batches(self, batches: list[list[bytes]]) -> None:
        """The same: it has no other way."""
        for values in batches:
            self.put_each(values)

    def drain(self, batch: int) -> int:
        """One get and one ack a record."""
        handled = 0
        get, ack = self.queue.get, self.queue.ack
        while True:
            try:
                item = get(block=False)
            except self.empty:
                return handled
            ack(item)
            handled += 1

    def close(self) -> None:
        """Close the connections."""
        self.queue.close()


def open_queue(directory: Path, work: Workload) -> PersistQueue:
    """A new queue."""
    try:
        import persistqueue
    except ImportError:
        raise SkippedError("persist-queue is skipped: the package `persist-queue` is not installed") from None
    return PersistQueue(persistqueue, directory)


PEERS = (
    QueuePeer(
        "persist-queue",
        "SQLiteAckQueue, auto_commit=True, WAL with synchronous=NORMAL",
        open_queue,
        None,
        {"put one by one": 10_000, "work one by one": 3_000},
    ),
)
