"""Contests of waiting: for the disk, for another process, for a topic to open; and of memory."""

from __future__ import annotations

from typing import Literal

from benchmarks import peers
from benchmarks.contest import Contest, Contestant, Goal, Row
from benchmarks.probe import operations as ceilings
from benchmarks.suite import partitions, read, recovery, wake
from benchmarks.suite import synced as syncing
from benchmarks.suite.opening import TopicShape
from benchmarks.workload import workload

SYNCED_RECORDS = 2_000
PINGS = 500


def synced(size: int, slow: float) -> Contest:
    """On disk on return: one writer beside C and the peers, eight writers beside the one."""
    count = int(SYNCED_RECORDS * slow)
    work = workload(size, count)
    many = workload(size, count * 4 // syncing.WRITERS * syncing.WRITERS)
    others = peers.contestants("one by one", True, work)
    return Contest(
        name=f"synced, {size} B",
        size=size,
        codec="raw",
        durability="sync",
        warm_up=False,
        contestants=(
            Contestant("C fdatasync", ceilings.synced_append, work),
            Contestant("one writer", syncing.one_writer, work),
            Contestant("eight threads", syncing.eight_threads, many),
            Contestant("eight processes", syncing.eight_processes, many),
            *others,
        ),
        rows=(
            Row(
                "one synced append at a time",
                "one writer",
                "C fdatasync",
                Goal(0.93, peers={"LMDB sync": 1.0}),
                tuple(peer.name for peer in others),
            ),
            Row("eight synced writers, threads (of one)", "eight threads", "one writer", Goal(3.8)),
            Row("eight synced writers, processes (of one)", "eight processes", "one writer", Goal(3.0)),
        ),
    )


def wake_up(size: int, slow: float) -> Contest:
    """How long until a sleeping process has the record, beside a bare futex between two processes."""
    work = workload(size, int(PINGS * slow))
    contestants: list[Contestant] = []
    rows: list[Row] = []
    for busy, named in ((False, "producer sleeps"), (True, "producer busy")):
        bare, ours = f"bare futex, {named}", f"wake-up, {named}"
        contestants += [
            Contestant(bare, ceilings.futex_ping(busy), work),
            Contestant(ours, wake.wake_up(busy), work),
        ]
        rows.append(Row(f"wake-up p50, {named}", ours, bare, Goal(above=12)))
    return Contest(
        f"wake-up, {size} B", size, "raw", "os", tuple(contestants), tuple(rows), unit="us", warm_up=False
    )


def opening(count: int) -> Contest:
    """Opening 100 sealed segments: after a close, after kill -9, and with everything rebuilt."""
    work = workload(100, count)
    megabytes = work.payload_bytes // 1_000_000
    return Contest(
        name=f"open {megabytes} MB",
        size=100,
        codec="raw",
        durability="os",
        contestants=(
            Contestant("closed", recovery.open_after("closed"), work),
            Contestant("killed", recovery.open_after("killed"), work),
            Contestant("copied", recovery.open_after("copied"), work),
        ),
        rows=(
            Row(f"open, 100 segments, {megabytes} MB, closed cleanly", "closed", None, Goal(most=10)),
            Row(f"open, 100 segments, {megabytes} MB, killed by -9", "killed", None, Goal(most=10)),
            Row(f"recovery, 100 segments, {megabytes} MB, all recomputed", "copied"),
        ),
        unit="ms",
        rounds=3,
        warm_up=False,
    )


def memory(megabytes: int, codec: Literal["raw", "zstd"]) -> Contest:
    """Private memory of a process that reads a large topic."""
    work = workload(1024, max(1_000, megabytes * 1_000_000 // 1032))
    return Contest(
        name=f"reader's memory, {codec}",
        size=1024,
        codec=codec,
        durability="os",
        contestants=(Contestant("reader", read.reader_memory(TopicShape(codec=codec)), work),),
        rows=(Row(f"private memory of a reader of {megabytes} MB", "reader", None, Goal(most=100)),),
        unit="MB",
        rounds=1,
        warm_up=False,
    )


def many_partitions(count: int) -> Contest:
    """A record into each of many partitions and back, in a process that may open 1,024 files."""
    return Contest(
        name=f"{count:,} partitions",
        size=100,
        codec="raw",
        durability="os",
        contestants=(Contestant("few files", partitions.few_files, workload(100, count)),),
        rows=(Row(f"{count:,} partitions written and read, 1,024 files", "few files"),),
        unit="ms",
        rounds=1,
        warm_up=False,
    )
