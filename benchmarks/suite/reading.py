"""Contests of reading back: records out of poll(1000) and columnar batches."""

from __future__ import annotations

from benchmarks import peers
from benchmarks.contest import Contest, Contestant, Goal, Row
from benchmarks.probe import operations as ceilings
from benchmarks.suite import read
from benchmarks.suite.opening import TopicShape
from benchmarks.workload import workload

RAW = TopicShape()
ZSTD = TopicShape(codec="zstd")


def records(size: int, count: int, slow: float) -> Contest:
    """poll(1000) with every value taken, beside the same over a row format, and the peers' read-back."""
    work = workload(size, count)
    others = peers.contestants("read back", False, work.in_calls_of(1000), slow)
    goal = Goal(1.2, peers={"LMDB nosync": 2.5}) if size == 100 else Goal()
    return Contest(
        name=f"read records, {size} B",
        size=size,
        codec="raw",
        durability="os",
        contestants=(
            Contestant("row format", ceilings.poll, work),
            Contestant("poll", read.poll(RAW), work),
            *others,
        ),
        rows=(Row("poll(1000), .value", "poll", "row format", goal, tuple(peer.name for peer in others)),),
    )


def columns(size: int, count: int) -> Contest:
    """Columnar batches with lengths summed; 1 KiB is held against the bare checksum of the bytes."""
    work = workload(size, count)
    if size == 100:
        ceiling = Contestant("position and length arrays", ceilings.arrays, work)
        goal = Goal(1.5)
    else:
        ceiling = Contestant("XXH3 pass", ceilings.checksum_pass, work)
        goal = Goal(0.75)
    return Contest(
        name=f"read columns, {size} B",
        size=size,
        codec="raw",
        durability="os",
        contestants=(ceiling, Contestant("batches", read.batches(RAW), work)),
        rows=(Row("batches(), lengths summed", "batches", ceiling.name, goal),),
    )


def zstd(size: int, count: int) -> Contest:
    """The same out of a compressed topic, beside one decompression of the same bytes."""
    work = workload(size, count // 2, 10_000 if size == 100 else 1_000)
    return Contest(
        name=f"read, {size} B zstd",
        size=size,
        codec="zstd",
        durability="os",
        contestants=(
            Contestant("unzstd pass", ceilings.unzstd_pass, work),
            Contestant("poll", read.poll(ZSTD), work),
            Contestant("batches", read.batches(ZSTD), work),
        ),
        rows=(
            Row("poll(1000), .value", "poll", "unzstd pass"),
            Row("batches(), lengths summed", "batches", "unzstd pass"),
        ),
    )


def growth(counts: tuple[int, ...]) -> Contest:
    """poll(1000) at growing volumes, each beside the row format at the same volume."""
    contestants: list[Contestant] = []
    rows: list[Row] = []
    for count in counts:
        work = workload(100, count)
        probe, ours = f"row format, {count}", f"poll, {count}"
        contestants += [Contestant(probe, ceilings.poll, work), Contestant(ours, read.poll(RAW), work)]
        rows.append(Row(f"growth: poll(1000), {count // 1000:,} k records", ours, probe, Goal(1.2)))
    return Contest("growth, read", 100, "raw", "os", tuple(contestants), tuple(rows), rounds=3)
