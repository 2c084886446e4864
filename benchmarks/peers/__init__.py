"""What users would pick instead of pylog, doing the same work side by side.

A peer opens a `Store` in a fresh directory and does four things with whole lists, so that no layer of ours
stands between its own call and the clock. One file per peer; each says with which settings it is run.
Invariant: every peer stores key and value of every record, in order, and can read the values back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from benchmarks.contest import Contestant, Operation, Timed
from benchmarks.workload import Workload

Work = Literal["one by one", "in batches", "read back"]


class Store(Protocol):
    """A peer's log, open in one directory."""

    def append_each(self, values: list[bytes], keys: list[bytes]) -> None:
        """Append record by record, each committed by itself."""

    def append_batches(self, calls: list[tuple[list[bytes], list[bytes]]]) -> None:
        """Append each call's records in one commit."""

    def read_all(self) -> int:
        """Take every value in order; return how many."""

    def close(self) -> None:
        """Release what was opened."""


@dataclass(frozen=True)
class Peer:
    """One peer with one durability.

    `open` raises SkippedError with a clear line where the peer is not installed. `counts` are the records
    that it gets, so that a slow one does not hold up the run.
    """

    name: str
    settings: str
    synced: bool
    open: Callable[[Path, Workload], Store]
    counts: dict[Work, int]


def operation(peer: Peer, work: Work) -> Operation:
    """One of the peer's works as an operation."""

    @contextmanager
    def prepared(directory: Path, records: Workload) -> Iterator[Timed]:
        values, keys, calls = records.values, records.keys, records.calls
        store = peer.open(directory, records)
        if work == "read back":
            store.append_batches(calls)

        def timed() -> None:
            if work == "one by one":
                store.append_each(values, keys)
            elif work == "in batches":
                store.append_batches(calls)
            elif store.read_all() != records.count:
                raise AssertionError(f"{peer.name} lost records")

        try:
            yield timed
        finally:
            store.close()

    return prepared


def contestants(work: Work, synced: bool, records: Workload, scale: float = 1.0) -> list[Contestant]:
    """Every peer of this durability as a contestant, named as in the table."""
    found = []
    for peer in all_peers():
        if peer.synced == synced:
            count = max(1000, min(records.count, int(peer.counts[work] * scale)))
            found.append(Contestant(peer.name, operation(peer, work), records.with_count(count), peer=True))
    return found


def all_peers() -> tuple[Peer, ...]:
    """All peers, in the order of the table."""
    from benchmarks.peers import lmdb_store, plain_file, redis_streams, sqlite

    return (*sqlite.PEERS, *lmdb_store.PEERS, *plain_file.PEERS, *redis_streams.PEERS)
