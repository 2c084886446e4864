"""Contests of appending many records a call: lists, columns, batches of 1000 as the peers take them."""

from __future__ import annotations

from benchmarks import peers
from benchmarks.contest import Contest, Contestant, Goal, Row
from benchmarks.probe import operations as ceilings
from benchmarks.suite import append
from benchmarks.suite.opening import TopicShape
from benchmarks.workload import workload

RAW = TopicShape()
BULK = 10_000
BATCH = 1_000


def lists_and_columns(size: int, count: int) -> Contest:
    """append_many of whole lists and of columns, beside the trivial loop and one packed copy."""
    work = workload(size, count)
    stated = size == 100
    return Contest(
        name=f"bulk, {size} B",
        size=size,
        codec="raw",
        durability="os",
        contestants=(
            Contestant("trivial list", ceilings.append_many(1), work),
            Contestant("append_many", append.append_many(RAW), work),
            Contestant("trivial list, 4 files", ceilings.append_many(4), work),
            Contestant("append_many, 4 partitions", append.append_many(TopicShape(partitions=4)), work),
            Contestant("packed copy", ceilings.packed_copy, work),
            Contestant("numpy columns", append.append_columns(RAW), work),
            Contestant("Arrow columns", append.append_arrow(RAW), work),
        ),
        rows=(
            row("append_many(lists), 1 partition", "append_many", "trivial list", 1.4 if stated else None),
            row(
                "append_many(lists), 4 partitions",
                "append_many, 4 partitions",
                "trivial list, 4 files",
                1.1 if stated else None,
            ),
            row("append_many(numpy columns)", "numpy columns", "packed copy", 1.3 if stated else None),
            row("append_many(Arrow columns)", "Arrow columns", "packed copy", 1.3 if stated else None),
        ),
    )


def row(operation: str, contestant: str, ceiling: str, ratio: float | None) -> Row:
    """A row with nothing but a ratio for a goal."""
    return Row(operation, contestant, ceiling, Goal(ratio))


def small_batches(size: int, count: int, slow: float) -> Contest:
    """append_many of 1000 records a call, beside peers that commit as many at once."""
    work = workload(size, count, BATCH)
    others = peers.contestants("in batches", False, work, slow)
    least = {"plain file": 3.0, "LMDB nosync": 5.0, "SQLite WAL NORMAL": 5.0} if size == 100 else {}
    return Contest(
        name=f"batches of 1000, {size} B",
        size=size,
        codec="raw",
        durability="os",
        contestants=(
            Contestant("trivial list", ceilings.append_many(1), work),
            Contestant("append_many", append.append_many(RAW), work),
            *others,
        ),
        rows=(
            Row(
                "append_many(lists of 1000)",
                "append_many",
                "trivial list",
                Goal(peers=least),
                tuple(peer.name for peer in others),
            ),
        ),
    )


def zstd(size: int, count: int) -> Contest:
    """The same into a compressed topic, beside one compression of the same bytes."""
    work = workload(size, count // 2, BULK if size == 100 else BATCH)
    shape = TopicShape(codec="zstd")
    return Contest(
        name=f"bulk, {size} B zstd",
        size=size,
        codec="zstd",
        durability="os",
        contestants=(
            Contestant("zstd pass", ceilings.zstd_pass, work),
            Contestant("append_many", append.append_many(shape), work),
            Contestant("numpy columns", append.append_columns(shape), work),
        ),
        rows=(
            Row("append_many(lists), 1 partition", "append_many", "zstd pass"),
            Row("append_many(numpy columns)", "numpy columns", "zstd pass"),
        ),
    )


def growth(counts: tuple[int, ...]) -> Contest:
    """append_many at growing volumes, each beside the trivial loop at the same volume."""
    contestants: list[Contestant] = []
    rows: list[Row] = []
    for count in counts:
        work = workload(100, count)
        probe, ours = f"trivial list, {count}", f"append_many, {count}"
        contestants += [
            Contestant(probe, ceilings.append_many(1), work),
            Contestant(ours, append.append_many(RAW), work),
        ]
        rows.append(row(f"growth: append_many, {count // 1000:,} k records", ours, probe, 1.4))
    parts = tuple(contestants), tuple(rows)
    return Contest("growth, append", 100, "raw", "os", *parts, rounds=3)
