"""The ceilings as operations: the same records and the same Python loop as pylog's, a trivial C body.

Each takes a fresh directory. What a ceiling does is said in its docstring and in docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import zstandard

from benchmarks import probe
from benchmarks.contest import Operation, Timed, Timing
from benchmarks.processes import children
from benchmarks.workload import Workload

ROW_HEADER = 16
BATCH_OVERHEAD = 92         # what one record costs on disk beyond its value in a log with headers and keys
CHECKSUM_STEP = 1 << 18
ZSTD_LEVEL = 3
PING_INTERVAL = 0.002


def file_bytes(work: Workload) -> int:
    """Room for all rows of a workload."""
    return work.payload_bytes + work.count * ROW_HEADER + 4096


def writer(directory: Path, work: Workload, partitions: int) -> Any:
    """A RowWriter over fresh files; each of several partitions has room for an uneven share."""
    room = file_bytes(work) if partitions == 1 else file_bytes(work) // partitions * 2 + (1 << 16)
    return probe.load("rows").RowWriter([str(directory / f"p{n}") for n in range(partitions)], room)


def send(partitions: int) -> Operation:
    """One trivial call per record: hash the key, checksum, copy into a fresh mapping."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        values, keys = work.values, work.keys
        rows = writer(directory, work, partitions)

        def timed() -> None:
            send = rows.send
            for key, value in zip(keys, values, strict=True):
                send("t", value, key=key)

        yield timed
        rows.close()

    return operation


def append_many(partitions: int) -> Operation:
    """The same for a whole list a call."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        calls = work.calls
        rows = writer(directory, work, partitions)

        def timed() -> None:
            for values, keys in calls:
                rows.append_many("t", values, keys=keys)

        yield timed
        rows.close()

    return operation


@contextmanager
def packed_copy(directory: Path, work: Workload) -> Iterator[Timed]:
    """Given columns copied into a fresh mapping, one checksum a call."""
    calls = work.columns
    room = work.payload_bytes + work.count * 8 + len(calls) * 64
    columns = probe.load("rows").ColumnWriter(str(directory / "columns"), room)

    def timed() -> None:
        for values, keys in calls:
            columns.append_many("t", values, keys=keys)

    yield timed
    columns.close()


@contextmanager
def zstd_pass(directory: Path, work: Workload) -> Iterator[Timed]:
    """All bytes compressed by the zstandard package, a call's values and keys at a time."""
    blocks = [b"".join((*keys, *values)) for values, keys in work.calls]
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)

    def timed() -> None:
        for block in blocks:
            compressor.compress(block)

    yield timed


@contextmanager
def unzstd_pass(directory: Path, work: Workload) -> Iterator[Timed]:
    """The same bytes decompressed again."""
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
    blocks = [compressor.compress(b"".join((*keys, *values))) for values, keys in work.calls]
    decompressor = zstandard.ZstdDecompressor()

    def timed() -> None:
        for block in blocks:
            decompressor.decompress(block)

    yield timed


@contextmanager
def written_rows(directory: Path, work: Workload) -> Iterator[Any]:
    """A RowReader over a file that holds the workload."""
    rows = writer(directory, work, 1)
    for values, keys in work.calls:
        rows.append_many("t", values, keys=keys)
    (end,) = rows.tails()
    rows.close()
    yield probe.load("rows").RowReader(str(directory / "p0"), file_bytes(work), end)


@contextmanager
def poll(directory: Path, work: Workload) -> Iterator[Timed]:
    """A row format read by poll(1000): verified, an object a record, its value taken."""
    with written_rows(directory, work) as reader:

        def timed() -> None:
            while records := reader.poll(1000):
                for record in records:
                    record.value  # noqa: B018

        yield timed


@contextmanager
def arrays(directory: Path, work: Workload) -> Iterator[Timed]:
    """Position and length arrays filled from verified rows, lengths summed."""
    with written_rows(directory, work) as reader:

        def timed() -> None:
            total = seen = 0
            while seen < work.count:
                _, lengths = reader.arrays(10_000)
                total += int(lengths.sum())
                seen += len(lengths)

        yield timed


@contextmanager
def checksum_pass(directory: Path, work: Workload) -> Iterator[Timed]:
    """One native XXH3 pass over all bytes."""
    with written_rows(directory, work) as reader:

        def timed() -> None:
            reader.checksum(CHECKSUM_STEP)

        yield timed


@contextmanager
def synced_append(directory: Path, work: Workload) -> Iterator[Timed]:
    """pwrite and fdatasync in C, one record at a time, the bytes that a record costs on disk."""
    padding = bytes(BATCH_OVERHEAD)
    records = [value + padding for value in work.values]
    file = probe.load("waits").SyncedFile(str(directory / "synced"), sum(map(len, records)))

    def timed() -> None:
        for record in records:
            file.append(record)

    yield timed
    file.close()


def futex_ping(busy: bool) -> Operation:
    """A process that sleeps on a bare futex is woken; the clock runs from before the wake to its return."""

    @contextmanager
    def operation(directory: Path, work: Workload) -> Iterator[Timed]:
        shared = SharedMemory(create=True, size=4096)
        try:
            with children(1, futex_sleeper, shared.name, work.count) as (sleeper,):

                def timed() -> Timing:
                    probe.load("waits").ping(shared.buf, work.count, PING_INTERVAL, busy)
                    return percentiles(sleeper.receive())

                yield timed
        finally:
            shared.close()
            shared.unlink()

    return operation


def futex_sleeper(number: int, name: str, count: int, pipe: Connection) -> None:
    """The other process: sleep, note, sleep again; send all delays at the end."""
    waits = probe.load("waits")
    shared = SharedMemory(name=name)
    pipe.send("ready")
    pipe.send(waits.sleep_for_pings(shared.buf, count))
    shared.close()


def percentiles(delays: list[float]) -> Timing:
    """The median as the timing, the 99th percentile as a note in microseconds."""
    ordered = sorted(delays)
    return Timing(ordered[len(ordered) // 2], {"p99_us": ordered[len(ordered) * 99 // 100] * 1e6})
