"""Every row of the table: who takes part in which contest, on which records, against which goal.

The goals are those of the design, stated for 100-byte values with 8-byte keys; a row of 1 KiB has one only
where the design states it. pytest and the table take their operations from here.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.contest import Contest
from benchmarks.suite import (
    batched,
    commits,
    events,
    queueing,
    reading,
    rebalance,
    single,
    slow,
    transactions,
)
from benchmarks.suite.compacting import compacting, key_map

SIZES = (100, 1024)


@dataclass(frozen=True)
class Extent:
    """How much of everything: records of a fast operation, and a factor on the slow ones."""

    records: int = 1_000_000
    slow: float = 1.0
    growth: tuple[int, ...] = (1_000_000, 10_000_000)
    topic_megabytes: int = 1_000
    partitions: int = 1_000


FULL = Extent()
QUICK = Extent(records=200_000, slow=0.25, growth=(200_000, 2_000_000), topic_megabytes=200, partitions=200)
GROWTH = Extent(growth=(1_000_000, 10_000_000, 100_000_000), topic_megabytes=5_000, partitions=10_000)


def contests(extent: Extent = FULL) -> list[Contest]:
    """All contests, in the order of the table."""
    return speed(extent) + growth(extent)


def speed(extent: Extent) -> list[Contest]:
    """What each operation costs."""
    found: list[Contest] = []
    for size in SIZES:
        count = extent.records if size == 100 else extent.records // 5
        found += [
            single.one_by_one(size, count, extent.slow),
            batched.lists_and_columns(size, count),
            batched.small_batches(size, count, extent.slow),
            reading.records(size, count, extent.slow),
            reading.columns(size, count),
            slow.synced(size, extent.slow),
            slow.wake_up(size, extent.slow),
        ]
        found += [single.zstd(size, count), batched.zstd(size, count), reading.zstd(size, count)]
    found += [key_map(extent.records), compacting(extent.records)]
    found.append(commits.commits(extent.records // 20, extent.slow))
    found += transactions.transactions(extent.slow)
    found += queueing.queueing(extent.records, extent.slow)
    found += events.events(extent.records // 5, extent.slow)
    found += [rebalance.rebalancing(members, extent.slow) for members in rebalance.KILLS]
    return found


def growth(extent: Extent) -> list[Contest]:
    """What a topic costs that grows: to open, in memory, in files, and whether the rates hold."""
    found = [slow.opening(extent.records // 2), slow.opening(extent.records * 5)]
    found += [slow.memory(extent.topic_megabytes, "raw"), slow.memory(extent.topic_megabytes, "zstd")]
    found.append(slow.many_partitions(extent.partitions))
    found += [batched.growth(extent.growth), reading.growth(extent.growth)]
    return found
