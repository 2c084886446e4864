"""What users would pick instead of pylog's queue, doing the same work side by side.

A peer opens a `QueueStore` in a fresh directory; other processes `join` it there. Each work is done by whole
lists, so that no layer of ours stands between its own call and the clock. One file per peer. Invariant: each
peer leases a record before it is handled and acknowledges it by itself afterwards, so that the death of a
worker loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, Protocol

from benchmarks.contest import Contestant, Operation, SkippedError, Timed
from benchmarks.processes import Child, children
from benchmarks.workload import Workload

Work = Literal["put one by one", "put in batches", "work one by one", "work in batches", "eight workers"]

WORKERS = 8
BATCH = 100


class QueueStore(Protocol):
    """A queue, open in one directory."""

    def put_each(self, values: list[bytes]) -> None:
        """Put record by record, each committed by itself."""

    def put_batches(self, batches: list[list[bytes]]) -> None:
        """Put each batch in one commit."""

    def drain(self, batch: int) -> int:
        """Get, take the value of and acknowledge up to `batch` records at a time until none is left."""

    def close(self) -> None:
        """Release what was opened."""


@dataclass(frozen=True)
class QueuePeer:
    """One peer with one durability.

    `open` makes the queue in a directory and raises SkippedError where the peer is not installed; `join`
    opens what is there already in another process, None where it cannot be worked by several. `counts` are
    the records that it gets.
    """

    name: str
    settings: str
    open: Callable[[Path, Workload], QueueStore]
    join: Callable[[Path], QueueStore] | None
    counts: dict[Work, int]


def operation(peer: QueuePeer, work: Work) -> Operation:
    """One of the peer's works as an operation."""

    @contextmanager
    def prepared(directory: Path, records: Workload) -> Iterator[Timed]:
        if work == "eight workers" and peer.join is None:
            raise SkippedError(f"{peer.name} is skipped: its queue is for the threads of one process")
        values, batches = records.values, [values for values, _keys in records.calls]
        store = peer.open(directory, records)
        try:
            if work == "put one by one":
                yield lambda: store.put_each(values)
            elif work == "put in batches":
                yield lambda: store.put_batches(batches)
            else:
                store.put_batches(batches)
                if work == "eight workers":
                    with children(WORKERS, working_process, peer, directory) as workers:
                        yield lambda: together(workers, records.count, peer.name)
                else:
                    batch = 1 if work == "work one by one" else BATCH
                    yield lambda: expect(store.drain(batch), records.count, peer.name)
        finally:
            store.close()

    return prepared


def expect(handled: int, count: int, name: str) -> None:
    """Fail where not each record was handled once."""
    if handled != count:
        raise AssertionError(f"{name} handled {handled} of {count} records")


def together(workers: list[Child], count: int, name: str) -> None:
    """Let all workers go at once, until the queue is empty."""
    for worker in workers:
        worker.send("go")
    expect(sum(worker.receive() for worker in workers), count, name)


def working_process(number: int, peer: QueuePeer, directory: Path, pipe: Connection) -> None:
    """One of the workers: ready, go, how many records it handled."""
    assert peer.join is not None
    store = peer.join(directory)
    try:
        pipe.send("ready")
        pipe.recv()
        pipe.send(store.drain(BATCH))
    finally:
        store.close()


def contestants(work: Work, records: Workload, scale: float = 1.0) -> list[Contestant]:
    """Every peer as a contestant, named as in the table."""
    found = []
    for peer in all_peers():
        if work in peer.counts:
            count = max(1000, min(records.count, int(peer.counts[work] * scale)) // BATCH * BATCH)
            found.append(Contestant(peer.name, operation(peer, work), records.with_count(count), peer=True))
    return found


def all_peers() -> tuple[QueuePeer, ...]:
    """All peers, in the order of the table."""
    from benchmarks.queues import lmdb_queue, persist_queue, redis_groups

    return (*lmdb_queue.PEERS, *persist_queue.PEERS, *redis_groups.PEERS)
